"""The start of a sync: the anchor is found or made, judged against the given state, and moved to its position."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from airbyte_pg.connect import Connection
from airbyte_pg.errors import TransientError
from source_postgres_cdc import barrier, server, slot
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.slot import Slot
from source_postgres_cdc.state import State

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Anchor:
    """What a sync starts from: the slot, the server that it is on, and the position to go on from."""

    slot: str
    system_id: str
    timeline: int
    lsn: int


def hold(session: Connection, facts: Server, settings: SourceSettings, given: State | None) -> Anchor:
    """Lock the anchor for as long as ``session`` lives, and move it to the position of ``given``.

    Raises ConfigError where going on from ``given`` would lose changes, TransientError where another one uses the slot.
    """
    identity = server.identify(session, settings, facts)
    slot.lock(session, settings.slot)
    found = _found_or_made(session, facts, settings, given)
    if (trouble := slot.problem(found, facts.database)) is not None:
        raise trouble
    if found.active_pid is not None:
        raise TransientError(
            f"The replication slot {found.name} is in use by another consumer (pid {found.active_pid}).",
            remedy="Give this connection a slot of its own.",
        )
    if given is not None:
        slot.judge(found, given, identity.system_id, barrier.flushed_position(session))
        slot.advance(session, found, given.lsn)
    return Anchor(found.name, identity.system_id, identity.timeline, given.lsn if given else found.confirmed_lsn or 0)


def _found_or_made(session: Connection, facts: Server, settings: SourceSettings, given: State | None) -> Slot:
    name = settings.slot
    found = slot.find(session, facts.version, name)
    if found is None:
        if given is not None or not settings.create_if_missing:
            raise slot.missing(name, had_state=given is not None)
        log.info("making the replication slot %s", name)
        slot.create(session, name)
        found = slot.find(session, facts.version, name)
    if found is None:
        raise TransientError(f"The replication slot {name} vanished just after it was made.")
    return found
