"""The start of a sync: the anchor is found or made, judged against the given state, and moved to its position.

Where the position is lost (the slot is gone, invalidated or ahead of the state, the server another one or restored) the
sync fails, or begins anew with a new slot: invalid_cdc_cursor_position_behavior.
"""

from __future__ import annotations

import logging
import os
import time

import msgspec

from airbyte_pg.connect import Connection
from airbyte_pg.errors import REFRESHES, ConfigError, RefreshNeeded, TransientError
from source_postgres_cdc import barrier, lsn, raw_cursor, server, slot, timeline
from source_postgres_cdc.server import Identity, Server
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.slot import PositionLost, Slot
from source_postgres_cdc.state import State

_PAUSE_S = 0.25

log = logging.getLogger(__name__)


class Anchor(msgspec.Struct, frozen=True):
    """What a sync starts from: the slot, the server that it is on, and the position to go on from.

    ``given`` is the state that is gone on from: None where there was none, or where everything is read anew.
    ``is_new``: the slot was made just now.
    """

    slot: str
    system_id: str
    timeline: int
    lsn: int
    given: State | None
    is_new: bool = False


def hold(
    session: Connection, facts: Server, settings: SourceSettings, given: State | None, *, is_refresh: bool
) -> Anchor:
    """Lock the anchor for as long as ``session`` lives, and move it to the position of ``given``.

    ``is_refresh``: every stream replaces its rows at the destination. Raises ConfigError where going on from ``given``
    would lose changes, TransientError where another one uses the slot.
    """
    if settings.failover and (failure := slot.failover_problem(facts.version)) is not None:
        raise failure
    identity = server.identify(session, settings, facts)
    slot.lock(session, settings.slot)
    before = slot.find(session, facts.version, settings.slot)
    try:
        if given is not None:
            _expect_history(session, facts, settings, identity, given)
        found = _usable(session, facts, settings, given)
        given = _met(given, found) if given is not None else None
    except PositionLost as lost:
        _expect_resync(settings, lost, is_refresh=is_refresh)
        given = None
        _drop_useless(session, facts, settings, lost)
        before = slot.find(session, facts.version, settings.slot)
        found = _usable(session, facts, settings, None)
    if settings.failover and not found.has_failover:
        log.warning(slot.without_failover(found))
    if given is None and before is not None:
        log.warning(
            "Without a state the sync begins anew, but the replication slot %s was there before. If another connection "
            "uses it, give this one a slot of its own",
            found.name,
        )
    if given is not None:
        _advance(session, facts, settings, found, given.lsn)
    log.info(slot.health(session, found.name))
    position = given.lsn if given else found.confirmed_lsn or 0
    return Anchor(found.name, identity.system_id, identity.timeline, position, given, is_new=before is None)


def hold_again(session: Connection, facts: Server, settings: SourceSettings, state: State) -> None:
    """Lock the anchor again, as ``hold`` does, when the session that held it was lost; it stays where it is.

    ``state`` is how far the run has come. Raises ConfigError where it cannot be gone on from.
    """
    identity = server.identify(session, settings, facts)
    slot.lock(session, settings.slot)
    _expect_history(session, facts, settings, identity, state)
    slot.judge(_usable(session, facts, settings, state), state)
    state.timeline = identity.timeline


def _advance(session: Connection, facts: Server, settings: SourceSettings, found: Slot, position: int) -> None:
    if facts.version >= 110000:
        slot.advance(session, found, position, settings.replication_method.initial_waiting_seconds)
    elif found.confirmed_lsn is None or found.confirmed_lsn < position:

        def is_moved() -> bool:
            now = slot.find(session, facts.version, found.name)
            return now is not None and now.confirmed_lsn == position

        walsender = server.open_replication_session(settings, facts)
        raw_cursor.move(walsender, found.name, settings.publication, position, is_moved)


def _expect_history(
    session: Connection, facts: Server, settings: SourceSettings, identity: Identity, given: State
) -> None:
    """Raise PositionLost where the server's history is not the one that ``given`` has seen."""
    if given.system_id is not None and given.system_id != identity.system_id:
        raise PositionLost(
            "The state belongs to another database server (its system identifier differs).",
            remedy="Connect to the server that the state came from, or reset the connection.",
            is_other_history=True,
        )
    if given.timeline is not None and given.timeline != identity.timeline:
        left_at = timeline.load(settings, facts, identity.timeline).get(given.timeline, 0)
        if given.furthest > left_at:
            raise PositionLost(
                "The server was restored, or failed over to a standby that lagged: changes that the state has seen "
                "never happened there.",
                remedy="Reset the connection: its tables must be read anew.",
                detail=f"state {lsn.render(given.furthest)} on timeline {given.timeline}, which was left at "
                f"{lsn.render(left_at)} for timeline {identity.timeline}",
                is_other_history=True,
            )
        log.info("the server has gone from timeline %d to %d", given.timeline, identity.timeline)
    flushed = barrier.flushed_position(session)
    if given.furthest > flushed:
        raise PositionLost(
            "The state is ahead of the server: the server was restored from an older backup.",
            remedy="Reset the connection: its tables must be read anew.",
            detail=f"state {lsn.render(given.furthest)}, server {lsn.render(flushed)}",
            is_other_history=True,
        )


def _usable(session: Connection, facts: Server, settings: SourceSettings, given: State | None) -> Slot:
    """The anchor, free and fit to be used; made where it may be (not behind a state)."""
    found = _found_or_made(session, facts, settings, given)
    if (trouble := slot.problem(found, facts.database)) is not None:
        raise trouble
    return _free(session, facts, settings, found)


def _met(given: State, found: Slot) -> State:
    """``given`` as it can be gone on from with the slot ``found``. Raises PositionLost where it cannot."""
    confirmed = lsn.before_header(found.confirmed_lsn or 0)
    met = given.without_stale(confirmed)
    if left := given.streams.keys() - met.streams.keys():
        listed = ", ".join(sorted(f"{name.namespace}.{name.name}" for name in left))
        log.warning("The states of these streams are from before they were removed; they are read anew: %s", listed)
    slot.judge(found, met)
    # Ahead of it only where the connector before us has confirmed its last commit.
    return msgspec.structs.replace(met, lsn=max(met.lsn, confirmed))


def _free(session: Connection, facts: Server, settings: SourceSettings, found: Slot) -> Slot:
    """``found`` when nobody else uses it any more: a walsender that died is noticed after a while."""
    deadline = time.monotonic() + min(slot.LOCK_WAIT_S, settings.replication_method.initial_waiting_seconds)
    while (trouble := slot.in_use(session, found)) is not None:
        if time.monotonic() > deadline:
            raise trouble
        time.sleep(_PAUSE_S)
        found = slot.find(session, facts.version, found.name) or found
    return found


def _found_or_made(session: Connection, facts: Server, settings: SourceSettings, given: State | None) -> Slot:
    name = settings.slot
    found = slot.find(session, facts.version, name)
    if found is None:
        if given is not None or not settings.create_if_missing:
            raise slot.missing(name, had_state=given is not None)
        log.info("making the replication slot %s", name)
        slot.create(session, name, failover=settings.failover)
        found = slot.find(session, facts.version, name)
    if found is None:
        raise TransientError(f"The replication slot {name} vanished just after it was made.")
    return found


def _expect_resync(settings: SourceSettings, lost: PositionLost, *, is_refresh: bool) -> None:
    """Raise unless the configuration and the catalog allow to read everything anew."""
    if not settings.resyncs:
        raise lost
    if not is_refresh and os.environ.get(REFRESHES):
        raise RefreshNeeded(lost.message, remedy="Every table is to be read anew, replacing its rows.") from lost
    if not is_refresh and lost.is_other_history:
        raise ConfigError(
            lost.message,
            remedy='"Re-sync data" is possible here only as a refresh that removes the rows at the destination: new '
            "rows may have lower positions, and would lose to old ones. Refresh (or reset) every stream.",
            detail=lost.detail,
        ) from lost
    log.warning("%s Every followed table is read anew.", lost.message)
    if not is_refresh:
        log.warning("Rows that were deleted meanwhile stay at the destination until the streams are refreshed")


def _drop_useless(session: Connection, facts: Server, settings: SourceSettings, lost: PositionLost) -> None:
    """Drop the anchor where it is ours, and of no use: invalidated, or of another history."""
    found = slot.find(session, facts.version, settings.slot)
    if found is None:
        return
    trouble = slot.problem(found, facts.database)
    is_ours = trouble is None or isinstance(trouble, PositionLost)
    if is_ours and (trouble is not None or lost.is_other_history):
        slot.drop(session, _free(session, facts, settings, found))
