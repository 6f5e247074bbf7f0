"""The anchor: the durable slot that keeps WAL and the position. Inspect, judge against the state, create, advance.

It is moved by exactly one statement, ``pg_replication_slot_advance`` in ``advance``, to the LSN of the state that a
sync was started with (design section 3, "An anchor and a cursor").
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Slot:
    """A replication slot as pg_replication_slots shows it."""

    name: str
    plugin: str | None
    database: str | None
    is_temporary: bool
    restart_lsn: int | None
    confirmed_lsn: int | None
    wal_status: str | None
    active_pid: int | None


_SLOT = """
select slot_name, plugin, database, temporary, restart_lsn::text, confirmed_flush_lsn::text, {wal_status}, active_pid
from pg_replication_slots where slot_name = %(name)s
"""


def find(session: Connection, version: int, name: str) -> Slot | None:
    """The slot ``name``, or None."""
    query = _SLOT.format(wal_status="wal_status" if version >= 130000 else "null::text")
    found = server.rows(session, query, {"name": name})
    if not found:
        return None
    slot_name, plugin, database, is_temporary, restart, confirmed, wal_status, active_pid = found[0]
    return Slot(
        slot_name,
        plugin,
        database,
        is_temporary,
        lsn.parse(restart) if restart else None,
        lsn.parse(confirmed) if confirmed else None,
        wal_status,
        active_pid,
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
    if slot.is_temporary:
        return ConfigError(f"The replication slot {slot.name} is temporary.", remedy="Name another slot.")
    if slot.wal_status == "lost" or slot.restart_lsn is None or slot.confirmed_lsn is None:
        return ConfigError(
            f"The replication slot {slot.name} has been invalidated: WAL that it needs was removed.",
            remedy=f"Drop it (select pg_drop_replication_slot('{slot.name}')), raise max_slot_wal_keep_size, and "
            "reset the connection: its tables must be read anew.",
        )
    return None


def judge(slot: Slot, state: State, system_id: str, flushed_lsn: int) -> None:
    """Raise ConfigError where going on from ``state`` with ``slot`` would lose changes."""
    if state.system_id != system_id:
        raise ConfigError(
            "The state belongs to another database server (its system identifier differs).",
            remedy="Connect to the server that the state came from, or reset the connection.",
        )
    if state.lsn > flushed_lsn:
        raise ConfigError(
            "The state is ahead of the server: the server was restored from an older backup.",
            remedy="Reset the connection: its tables must be read anew.",
            detail=f"state {lsn.render(state.lsn)}, server {lsn.render(flushed_lsn)}",
        )
    confirmed = slot.confirmed_lsn or 0
    if confirmed > state.lsn:
        raise ConfigError(
            f"The replication slot {slot.name} is ahead of the state: changes in between are gone. It was recreated, "
            "or another consumer uses it.",
            remedy="Give this connection a slot of its own and reset it: its tables must be read anew.",
            detail=f"slot {lsn.render(confirmed)}, state {lsn.render(state.lsn)}",
        )


def missing(name: str, *, had_state: bool) -> ConfigError:
    """The error for a slot that is not there."""
    if had_state:
        return ConfigError(
            f"The replication slot {name} is gone, and with it the changes since the last sync.",
            remedy="Reset the connection: the slot is made anew and its tables are read anew.",
        )
    return ConfigError(
        f"The replication slot {name} does not exist.",
        remedy=f"Run: select pg_create_logical_replication_slot('{name}', '{PLUGIN}');",
    )


def create(session: Connection, name: str) -> None:
    """Make the anchor. Waits for transactions that are open; raises TransientError when that takes too long."""
    with server.as_replicator(session), session.cursor() as cursor:
        try:
            cursor.execute("select set_config('statement_timeout', %s, false)", (f"{CREATE_WAIT_S}s",))
            cursor.execute("select pg_create_logical_replication_slot(%s, %s)", (name, PLUGIN))
        except errors.QueryCanceled as error:
            raise TransientError(
                f"The replication slot {name} could not be made within {CREATE_WAIT_S} s: older transactions are open.",
                remedy="End them, or wait: see pg_stat_activity and pg_prepared_xacts.",
            ) from error
        except errors.InsufficientPrivilege as error:
            raise ConfigError(
                "The database user may not make a replication slot.",
                remedy=f"Run: ALTER ROLE {sql.text(sql.name(session.info.user), session)} REPLICATION;",
            ) from error
        finally:
            cursor.execute("set statement_timeout = 0")


def advance(session: Connection, slot: Slot, position: int) -> None:
    """Move the anchor to the given state's position: the only statement that ever moves it."""
    if slot.confirmed_lsn is not None and slot.confirmed_lsn >= position:
        return
    # The function clamps silently to what the server has: what it returns is compared.
    query = "select end_lsn::text from pg_replication_slot_advance(%s, %s::pg_lsn)"
    with server.as_replicator(session):
        reached = server.value(session, query, (slot.name, lsn.render(position)))
    if lsn.parse(reached) != position:
        raise SystemFault(
            f"The replication slot {slot.name} could not be moved to the state's position.",
            detail=f"asked {lsn.render(position)}, reached {reached}",
        )


_HOLDER = """
select format('pid %%s, %%s, since %%s', a.pid, coalesce(nullif(a.application_name, ''), '?'), a.backend_start)
from pg_locks l join pg_stat_activity a using (pid)
where l.locktype = 'advisory' and l.granted
  and l.database = (select oid from pg_database where datname = current_database())
  and (l.classid::bigint << 32 | l.objid::bigint) = %(key)s and l.objsubid = 1
"""


def lock(session: Connection, name: str, wait_s: int = LOCK_WAIT_S) -> None:
    """Take the lock that two syncs on one anchor exclude each other by; held until ``session`` ends.

    Raises TransientError naming the holder when it is not free within ``wait_s`` seconds.
    """
    key = int.from_bytes(hashlib.sha256(f"airbyte-pg anchor {name}".encode()).digest()[:8], "big") >> 1
    with session.cursor() as cursor:
        try:
            cursor.execute("select set_config('lock_timeout', %s, false)", (f"{wait_s}s",))
            cursor.execute("select pg_advisory_lock(%s)", (key,))
        except errors.LockNotAvailable as error:
            holder = "; ".join(row[0] for row in server.rows(session, _HOLDER, {"key": key})) or "unknown"
            raise TransientError(
                f"Another sync is using the replication slot {name} ({holder}).", remedy="Wait for it to end."
            ) from error
        finally:
            cursor.execute("set lock_timeout = 0")
