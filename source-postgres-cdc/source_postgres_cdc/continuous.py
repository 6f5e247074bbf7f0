"""A continuous run: sessions with the server, one after another, each going on where the last one broke off."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from airbyte_pg.catalog import ConfiguredStream
from airbyte_pg.classify import Phase, classify
from airbyte_pg.errors import (
    CONTINUOUS,
    CatalogOutdated,
    ConfigError,
    OutputClosed,
    Stopped,
    TransientError,
    Unreachable,
)
from airbyte_pg.lines import LineWriter
from source_postgres_cdc import streams
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.memory import Memory
from source_postgres_cdc.pgtypes import Rendering
from source_postgres_cdc.replication import Confirmed
from source_postgres_cdc.server import Server
from source_postgres_cdc.stop import Stop
from source_postgres_cdc.streams import Stream
from source_postgres_cdc.tables import Table


def run(attempt: Callable[[Memory], bool], emitter: Emitter, lines: LineWriter, limit_s: float) -> None:
    """Repeat ``attempt`` until one says that the run is over, by SIGTERM or after ``limit_s`` seconds (0: never).

    Ends with COMPLETE. What a session fails with ends the run too, if it will not pass or does not for too long.
    """
    memory = Memory(Stop(lines, limit_s), Confirmed())
    try:
        _repeat(attempt, memory)
    except (Stopped, CatalogOutdated) as ended:
        if not memory.is_caught_up or memory.state is None:
            emitter.incomplete()
            raise
        _complete(emitter, memory)
        if isinstance(ended, CatalogOutdated):
            raise
    except BaseException:
        emitter.incomplete()
        raise
    else:
        _complete(emitter, memory)


def _repeat(attempt: Callable[[Memory], bool], memory: Memory) -> None:
    is_over = False
    while not is_over:
        try:
            is_over = attempt(memory)
        except Exception as error:
            failure = classify(error, Phase.WORKING)
            # Before the first session stands, waiting is the caller's business.
            may_pass = isinstance(failure, (TransientError, Unreachable)) and not isinstance(failure, OutputClosed)
            if memory.state is None or not may_pass:
                raise
            memory.pause(failure)
            is_over = memory.is_caught_up and memory.stop.is_asked


def _complete(emitter: Emitter, memory: Memory) -> None:
    if memory.state is not None and emitter.count_since_state:
        emitter.state(memory.state)
    emitter.incomplete(memory.aside)
    emitter.complete()


def resolve(
    configured: Sequence[ConfiguredStream],
    tables: Sequence[Table],
    rendering: Rendering,
    memory: Memory,
    facts: Server,
) -> list[Stream]:
    """The streams of the catalog, but for those that are done with, or cannot be gone on with any more.

    Raises TransientError where the server is not the primary that it was, or the standby.
    """
    if memory.state is None:
        memory.in_recovery = facts.in_recovery
        return streams.resolve(configured, tables, rendering)
    if memory.in_recovery != facts.in_recovery:
        raise TransientError("The server is a standby now, or is none any more: a failover is under way.")
    found: list[Stream] = []
    for entry in configured:
        if entry.id in memory.aside or (entry.id in memory.read and entry.sync_mode != "incremental"):
            continue
        try:
            found += streams.resolve([entry], tables, rendering)
        except ConfigError as error:
            if os.environ.get(CONTINUOUS):
                raise CatalogOutdated(error.message, remedy=error.remedy, stream=error.stream) from error
            memory.set_aside(entry.id, error)
    if not any(stream.is_followed for stream in found):
        raise ConfigError("No table is left that could be followed.", remedy="Refresh the catalog.")
    return found
