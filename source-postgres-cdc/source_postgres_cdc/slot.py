"""The anchor: the durable slot that keeps WAL and the position. Inspect, judge by the state, create, advance, drop.

It is moved by exactly one statement, ``pg_replication_slot_advance`` in ``advance``, to the LSN of the state that a
sync was started with, or that came back while it runs (design section 3, "An anchor and a cursor").
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from psycopg2 import errors

from airbyte_pg import sql
from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConfigError, SystemFault, TransientError
from source_postgres_cdc import lsn, server
from source_postgres_cdc.state import State

PLUGIN = "pgoutput"
# How long to wait for another sync on the same slot, and for old transactions when a slot is made.
LOCK_WAIT_S = 90
CREATE_WAIT_S = 300
_CREATE_ATTEMPTS = 30

log = logging.getLogger(__name__)


class PositionLost(ConfigError):
    """The state's position cannot be gone on from: changes since then are not to be had any more.

    ``is_other_history``: the server is another one, or was restored: its positions may be lower than what was sent.
    """

    def __init__(self, message: str, *, remedy: str, detail: str = "", is_other_history: bool = False) -> None:
        super().__init__(message, remedy=remedy, detail=detail)
        self.is_other_history = is_other_history


class Slot(msgspec.Struct, frozen=True):
    """A replication slot as pg_replication_slots shows it."""

    name: str
    plugin: str | None
    database: str | None
    is_temporary: bool
    restart_lsn: int | None
    confirmed_lsn: int | None
    wal_status: str | None
    active_pid: int | None
    invalidation: str | None
    has_failover: bool
    is_copy: bool


_SLOT = """
select slot_name, plugin, database, temporary, restart_lsn::text, confirmed_flush_lsn::text, {wal_status}, active_pid,
       {invalidation}, {failover}, {is_copy}
from pg_replication_slots where slot_name = %(name)s
"""


def find(session: Connection, version: int, name: str) -> Slot | None:
    """The slot ``name``, or None."""
    query = _SLOT.format(
        wal_status="wal_status" if version >= 130000 else "null::text",
        invalidation="invalidation_reason" if version >= 170000 else "null::text",
        failover="failover" if version >= 170000 else "false",
        is_copy="synced and pg_is_in_recovery()" if version >= 170000 else "false",
    )
    found = server.rows(session, query, {"name": name})
    if not found:
        return None
    slot_name, plugin, database, is_temporary, restart, confirmed, wal_status, active_pid, *later = found[0]
    return Slot(
        slot_name,
        plugin,
        database,
        is_temporary,
        lsn.parse(restart) if restart else None,
        lsn.parse(confirmed) if confirmed else None,
        wal_status,
        active_pid,
        *later,
    )


def problem(slot: Slot, database: str) -> ConfigError | None:
    """What makes ``slot`` unusable as an anchor, whatever the state; None if nothing does."""
    if slot.plugin is None:
        return ConfigError(f"The replication slot {slot.name} is a physical one.", remedy="Name a logical slot.")
    if slot.plugin != PLUGIN:
        return ConfigError(
            f"The replication slot {slot.name} uses the plugin {slot.plugin}.",
            remedy="Name a slot of its own for this connector; it uses pgoutput.",
        )
    if slot.database != database:
        return ConfigError(
            f"The replication slot {slot.name} belongs to the database {slot.database}.",
            remedy="Name another slot: slots are unique in a server.",
        )
    if slot.is_copy:
        return ConfigError(
            f"The replication slot {slot.name} is a copy of the primary's.",
            remedy="Name another slot to read from the standby, or connect to the primary.",
        )
    if slot.is_temporary:
        return ConfigError(f"The replication slot {slot.name} is temporary.", remedy="Name another slot.")
    if slot.wal_status == "lost" or slot.invalidation or slot.restart_lsn is None or slot.confirmed_lsn is None:
        why, setting = _INVALIDATIONS.get(slot.invalidation or "wal_removed", (f"({slot.invalidation})", ""))
        return PositionLost(
            f"The replication slot {slot.name} has been invalidated: {why}.",
            remedy=f"{setting}Reset the connection, its tables must be read anew; {RESYNC} "
            f"Run: SELECT pg_drop_replication_slot('{slot.name}');",
            detail=f"wal_status {slot.wal_status}, invalidation_reason {slot.invalidation}",
        )
    return None


# invalidation_reason (17+): what happened, and what to do about it.
_INVALIDATIONS = {
    "wal_removed": ("WAL that it needs was removed", "Raise max_slot_wal_keep_size, or sync more often. "),
    "idle_timeout": ("it was idle for too long", "Raise idle_replication_slot_timeout, or sync more often. "),
    "rows_removed": ("rows that it needs were removed", "Set hot_standby_feedback on the standby. "),
    "wal_level_insufficient": ("wal_level was not logical for a while", ""),
}
RESYNC = 'invalid_cdc_cursor_position_behavior "Re-sync data" does so by itself.'


def judge(slot: Slot, state: State) -> None:
    """Raise PositionLost where going on from ``state`` with ``slot`` would lose changes."""
    confirmed = lsn.before_header(slot.confirmed_lsn or 0)
    if confirmed > max(state.lsn, state.confirmable):
        raise PositionLost(
            f"The replication slot {slot.name} is ahead of the state: changes in between are gone. It was recreated, "
            "or another consumer uses it.",
            remedy=f"Give this connection a slot of its own and reset it: its tables must be read anew; {RESYNC}",
            detail=f"slot {lsn.render(confirmed)}, state {lsn.render(state.lsn)}",
        )


def missing(name: str, *, had_state: bool) -> ConfigError:
    """The error for a slot that is not there."""
    if had_state:
        return PositionLost(
            f"The replication slot {name} is gone, and with it the changes since the last sync.",
            remedy=f"Reset the connection: the slot is made anew and its tables are read anew; {RESYNC}",
        )
    return ConfigError(
        f"The replication slot {name} does not exist.",
        remedy=f"Run: SELECT pg_create_logical_replication_slot('{name}', '{PLUGIN}');",
    )


def failover_problem(version: int) -> ConfigError | None:
    """The error for a server without failover slots."""
    if version >= 170000:
        return None
    return ConfigError("Failover slots need PostgreSQL 17.", remedy="Leave the option failover off.")


def without_failover(slot: Slot) -> str:
    """What to say of a slot that standbys keep no copy of, though that is asked for."""
    return (
        f"The replication slot {slot.name} was made without failover. Over a replication connection run: "
        f"ALTER_REPLICATION_SLOT {slot.name} (FAILOVER true);"
    )


# Tables whose definition, or place on disk, is of a transaction not older than %(oldest)s: name, and which versions.
_RECENT = """
select format('%%s.%%s', n.nspname, c.relname), c.oid || ' ' || c.xmin || ' ' || (
  select coalesce(string_agg(a.attnum || ':' || a.xmin, ' ' order by a.attnum), '') from pg_attribute a
  where a.attrelid = c.oid and age(a.xmin) <= age(%(oldest)s::xid))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'm', 't') and c.relpersistence = 'p'
  and (age(c.xmin) <= age(%(oldest)s::xid) or exists (
    select from pg_attribute a where a.attrelid = c.oid and age(a.xmin) <= age(%(oldest)s::xid)))
"""
_OLDEST = "select (txid_snapshot_xmin(txid_current_snapshot()) % 4294967296)::text"


def create(session: Connection, name: str, *, failover: bool = False) -> None:
    """Make the anchor, while no table is altered or truncated.

    A server of any version loses sight of what a subtransaction changes in its catalog while it begins to decode: later
    it fails at such a table's rows ("could not map filenode"), or takes them for what they were, whenever it decodes
    from there. So a slot that was made in such a moment is dropped, and made again; where tables change all the time,
    the last one is kept.

    Waits for transactions that are open. Raises TransientError when that takes too long.
    """
    for attempt in range(_CREATE_ATTEMPTS):
        recent = {"oldest": server.value(session, _OLDEST)}
        before = server.rows(session, _RECENT, recent)
        _create_once(session, name, failover=failover)
        changed = sorted({table for table, *_ in set(server.rows(session, _RECENT, recent)).difference(before)})
        if not changed:
            return
        listed = ", ".join(changed[:5])
        if attempt + 1 == _CREATE_ATTEMPTS:
            log.warning("Tables were altered or truncated whenever the replication slot was made: %s", listed)
            return
        log.info("the slot is made again, as tables changed meanwhile: %s", listed)
        with server.as_replicator(session):
            server.rows(session, "select pg_drop_replication_slot(%s)", (name,))


def _create_once(session: Connection, name: str, *, failover: bool) -> None:
    # The arguments in between are: temporary, two_phase.
    query = "select pg_create_logical_replication_slot(%s, %s" + (", false, false, true)" if failover else ")")
    try:
        with server.as_replicator(session), _statement_timeout(session, CREATE_WAIT_S):
            server.rows(session, query, (name, PLUGIN))
    except errors.QueryCanceled as error:
        is_standby = server.value(session, "select pg_is_in_recovery()")
        raise TransientError(
            f"The replication slot {name} could not be made within {CREATE_WAIT_S} s: older transactions are open.",
            remedy="Run on the primary: select pg_log_standby_snapshot();"
            if is_standby
            else "End them, or wait: see pg_stat_activity and pg_prepared_xacts.",
        ) from error
    except errors.InsufficientPrivilege as error:
        raise ConfigError(
            "The database user may not make a replication slot.",
            remedy=f"Run: ALTER ROLE {sql.text(sql.name(session.info.user), session)} REPLICATION;",
        ) from error


def drop(session: Connection, slot: Slot) -> None:
    """Drop an anchor that is of no use any more. It must be ours to drop: ``problem`` finds only its invalidation."""
    with server.as_replicator(session):
        server.rows(session, "select pg_drop_replication_slot(%s)", (slot.name,))


def advance(session: Connection, slot: Slot, position: int, wait_s: int) -> None:
    """Move the anchor to the given state's position: the only statement that ever moves it.

    Raises TransientError when that takes longer than ``wait_s`` seconds.
    """
    if slot.confirmed_lsn is not None and slot.confirmed_lsn >= position:
        return
    # The function clamps silently to what the server has: what it returns is compared.
    query = "select end_lsn::text from pg_replication_slot_advance(%s, %s::pg_lsn)"
    try:
        with server.as_replicator(session), _statement_timeout(session, wait_s):
            reached = server.value(session, query, (slot.name, lsn.render(position)))
    except errors.QueryCanceled as error:
        raise TransientError(
            f"The replication slot {slot.name} could not be moved to the state's position within {wait_s} s.",
            remedy="A failover slot waits for the slots in synchronized_standby_slots: see that their standbys run."
            if slot.has_failover
            else "The server is busy; a later sync tries again.",
        ) from error
    if lsn.parse(reached) != position:
        raise SystemFault(
            f"The replication slot {slot.name} could not be moved to the state's position.",
            detail=f"asked {lsn.render(position)}, reached {reached}",
        )


@contextmanager
def _statement_timeout(session: Connection, seconds: int) -> Iterator[None]:
    with session.cursor() as cursor:
        cursor.execute("select set_config('statement_timeout', %s, false)", (f"{seconds}s",))
        try:
            yield
        finally:
            if not session.closed:
                cursor.execute("set statement_timeout = 0")


_USER = """
select format('pid %%s, %%s', pid, coalesce(nullif(application_name, ''), '?'))
from pg_stat_activity where pid = %(pid)s
"""


_HEALTH = """
select case when restart_lsn is null then 'unknown'
            else pg_size_pretty(pg_wal_lsn_diff({end}, restart_lsn)) end,
       {wal_status}, {safe}
from pg_replication_slots where slot_name = %(name)s
"""


def health(session: Connection, name: str) -> str:
    """How much WAL the slot ``name`` holds back, and whether the server will go on keeping it: for the log."""
    version = session.server_version
    is_standby = server.value(session, "select pg_is_in_recovery()")
    query = _HEALTH.format(
        end="pg_last_wal_replay_lsn()" if is_standby else "pg_current_wal_insert_lsn()",
        wal_status="wal_status" if version >= 130000 else "null",
        safe="pg_size_pretty(safe_wal_size)" if version >= 130000 else "null",
    )
    found = server.rows(session, query, {"name": name})
    if not found:
        return f"the slot {name} is gone"
    retained, wal_status, safe = found[0]
    status = f", wal_status {wal_status}" if wal_status else ""
    left = f", {safe} more before max_slot_wal_keep_size" if safe else ""
    return f"the slot {name} holds back {retained} of WAL{status}{left}"


def in_use(session: Connection, slot: Slot) -> TransientError | None:
    """The error for a slot that another consumer holds, naming it; None for one that is free."""
    if slot.active_pid is None:
        return None
    holder = server.rows(session, _USER, {"pid": slot.active_pid})
    named = holder[0][0] if holder else f"pid {slot.active_pid}"
    return TransientError(
        f"The replication slot {slot.name} is in use by another consumer ({named}).",
        remedy="End it, or give this connection a slot of its own.",
    )


def locked(session: Connection, name: str) -> TransientError | None:
    """The error for an anchor that another sync holds, naming it; None for one that is free."""
    holders = _holders(session, _lock_key(name))
    return _locked_by(name, holders) if holders else None


def _locked_by(name: str, holders: str) -> TransientError:
    return TransientError(
        f"Another sync is using the replication slot {name} ({holders}).",
        remedy="Wait for it to end. Each connection needs a slot of its own.",
    )


def _holders(session: Connection, key: int) -> str:
    return "; ".join(holder for _, holder in server.rows(session, _HOLDER, {"key": key}))


def is_locked_by(session: Connection, name: str, pid: int) -> bool:
    """Whether the server's process ``pid`` holds the lock on the anchor ``name``."""
    return any(pid == holder for holder, _ in server.rows(session, _HOLDER, {"key": _lock_key(name)}))


def _lock_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"airbyte-pg anchor {name}".encode()).digest()[:8], "big") >> 1


_HOLDER = """
select a.pid, format('pid %%s, %%s, since %%s', a.pid, coalesce(nullif(a.application_name, ''), '?'), a.backend_start)
from pg_locks l join pg_stat_activity a using (pid)
where l.locktype = 'advisory' and l.granted
  and l.database = (select oid from pg_database where datname = current_database())
  and (l.classid::bigint << 32 | l.objid::bigint) = %(key)s and l.objsubid = 1
"""


def lock(session: Connection, name: str, wait_s: int = LOCK_WAIT_S) -> None:
    """Take the lock that two syncs on one anchor exclude each other by; held until ``session`` ends.

    Raises TransientError naming the holder when it is not free within ``wait_s`` seconds.
    """
    key = _lock_key(name)
    with session.cursor() as cursor:
        before = server.value(session, "select current_setting('lock_timeout')")
        try:
            cursor.execute("select set_config('lock_timeout', %s, false)", (f"{wait_s}s",))
            cursor.execute("select pg_advisory_lock(%s)", (key,))
        except errors.LockNotAvailable as error:
            raise _locked_by(name, _holders(session, key) or "unknown") from error
        finally:
            cursor.execute("select set_config('lock_timeout', %s, false)", (before,))
