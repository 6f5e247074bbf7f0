"""source-postgres-cdc: the commands, joined from their parts. What only one of them needs is imported there: a process
that says hello and good-bye should not load what reads changes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from airbyte_pg import messages
from airbyte_pg.catalog import ConfiguredStream, load_catalog
from airbyte_pg.cli import Call
from airbyte_pg.connect import reached
from airbyte_pg.errors import ConfigError, StreamName
from airbyte_pg.settings import load_settings
from source_postgres_cdc import discover as discovery
from source_postgres_cdc import publication, server, tables
from source_postgres_cdc.selection import Selection
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.tables import Membership, Table

if TYPE_CHECKING:
    from source_postgres_cdc.emitter import Emitter
    from source_postgres_cdc.memory import Memory


def check(call: Call) -> None:
    """Say whether a sync can run: every problem at once, each with its remedy."""
    from source_postgres_cdc import check as prerequisites
    from source_postgres_cdc.findings import Subject

    with reached(_settings(call)) as settings, closing(server.open_session(settings)) as session:
        facts = server.inspect(session)
        problems = prerequisites.problems(Subject(session, facts, settings))
    call.lines.emit(messages.connection_status(succeeded=not problems, text="\n".join(problems)))


def discover(call: Call) -> None:
    """Print the catalog of the tables that can be read."""
    with reached(_settings(call)) as settings, closing(server.open_session(settings)) as session:
        facts = server.inspect(session)
        found = tables.load(session, settings.selection)
        oids = {column.type_oid for table in found for column in table.columns}
        types = tables.load_types(session, oids, server.rendering(session, facts, settings))
        members = tables.load_members(session, facts.version, settings.publication)
        may_add = _may_add(publication.find(session, settings.publication), settings)
    catalog = []
    for table in found:
        is_followed = _is_followed(table, members, may_add=may_add)
        sent = _sent_columns(table, members.get(table.id)) if is_followed else None
        catalog.append(
            discovery.airbyte_stream(
                table, types, is_followed=is_followed, columns=sent, has_position=settings.emit_position
            )
        )
    call.lines.emit(messages.catalog(catalog))


def read(call: Call) -> None:
    """Read the catalog's streams: a snapshot of what is new, then the changes, up to the present or as they come."""
    from source_postgres_cdc import continuous
    from source_postgres_cdc.emitter import Emitter

    given = _settings(call)
    configured = load_catalog(call.catalog)
    if not configured:
        raise ConfigError("The configured catalog has no streams.", remedy="Select at least one stream.")
    emitter = Emitter(call.lines, [entry.id for entry in configured], state_per_stream=given.state_type == "stream")
    if not given.is_continuous:
        _read_once(call, given, configured, emitter, None)
        return

    def attempt(memory: Memory) -> bool:
        return _read_once(call, given, configured, emitter, memory)

    continuous.run(attempt, emitter, call.lines, given.max_run_seconds)


def _read_once(
    call: Call, given: SourceSettings, configured: Sequence[ConfiguredStream], emitter: Emitter, memory: Memory | None
) -> bool:
    """What is done in one session: a sync; of a continuous run as much as it lasts for, then true when it is over."""
    from source_postgres_cdc import continuous, standby, state, streams
    from source_postgres_cdc.sync import Sync

    with reached(given) as settings, closing(server.open_session(settings)) as session:
        facts = server.inspect(session)
        followed = {entry.id for entry in configured if entry.sync_mode == "incremental"}
        last = memory.state if memory is not None else None
        last = last or state.load(_state_file(call, settings), facts.database, followed)
        if facts.in_recovery and facts.version < standby.MINIMUM_VERSION:
            raise ConfigError("A standby can be read from PostgreSQL 16 on.", remedy="Connect to the primary.")
        if facts.wal_level != "logical" and followed:
            raise ConfigError(
                f"wal_level is {facts.wal_level}; changes need logical.",
                remedy="Run: ALTER SYSTEM SET wal_level = 'logical'; and restart the server.",
            )
        schemas = tuple({entry.stream.namespace or "" for entry in configured})
        rendering = server.rendering(session, facts, settings)
        found = tables.load(session, Selection(schemas))
        sync = Sync(session, facts, settings, emitter, memory)
        if memory is not None:
            wanted = continuous.resolve(configured, found, rendering, memory, facts)
            return sync.run_on(wanted, last, call.state, memory)
        wanted = streams.resolve(configured, found, rendering)
        try:
            sync.run(wanted, last)
        except BaseException:
            emitter.incomplete()
            raise
    return True


def _state_file(call: Call, settings: SourceSettings) -> Path | None:
    """The state to go on from; a file that the runner is still to make is none."""
    is_awaited = settings.is_continuous and settings.acknowledge_from_state_file
    return None if is_awaited and call.state is not None and not call.state.exists() else call.state


def _settings(call: Call) -> SourceSettings:
    settings = load_settings(call.config, SourceSettings)
    call.secrets.add(settings.secrets())
    settings.refuse_unsupported()
    return settings


def _may_add(found: publication.Publication | None, settings: SourceSettings) -> bool:
    """Whether a sync would add a table to the publication by itself."""
    return settings.create_if_missing and (found is None or found.may_be_altered)


def _is_followed(table: Table, members: dict[StreamName, Membership], *, may_add: bool) -> bool:
    member = members.get(table.id)
    return table.can_be_followed and (member.identifies(table) if member is not None else may_add)


def _sent_columns(table: Table, member: Membership | None) -> set[str]:
    # A publication that we would make sends no generated column.
    return {
        column.name for column in table.columns if (not column.is_generated if member is None else member.sends(column))
    }
