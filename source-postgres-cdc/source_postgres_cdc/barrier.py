"""Where a snapshot may begin: behind a barrier, so that snapshot and stream meet without a gap or an overlap.

Wait until every transaction that was open has ended. W := the WAL insert position; X := a transaction id of our own;
then wait until a new snapshot has xmin > X. Every transaction that this snapshot does not show began writing after W,
so W stamps its rows: above everything sent before, below everything to come (design section 3, "The seam").

W is also where a decoding session must end when a table has just been published. Servers without the fix for concurrent
invalidations keep "not published" for it, for the rest of a session, once they have decoded a transaction that was open
when it was published. All of those have committed before W, thanks to the first wait; and whatever committed before W
the snapshot shows, thanks to the second, even a commit that was held up between WAL and visibility.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

import msgspec

from airbyte_pg.connect import Connection
from airbyte_pg.errors import TransientError
from source_postgres_cdc import lsn, server

# Ordinary transactions end in milliseconds; a batch job or a forgotten session is worth a message, not a hang.
WAIT_S = 300.0
_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.25


class Snapshot(msgspec.Struct, frozen=True):
    """What a barrier gave.

    ``lsn`` is W. ``cut`` ends a decoding session: everything that committed before it is shown, and W or above.

    What else is shown: by ``text``, the snapshot's (``xmin:xmax:xip``, PostgreSQL documentation 9.28.7), until a
    position ``until`` that all of it has committed before; or, on a standby, what committed before ``position``.
    """

    lsn: int
    cut: int
    text: str | None = None
    until: int = 0
    position: int = 0


class Visibility:
    """Tells whether a snapshot shows a transaction, by the 32-bit xid of BEGIN."""

    def __init__(self, text: str) -> None:
        xmin, xmax, running = text.split(":")
        self._xmin, self._xmax = int(xmin), int(xmax)
        self._running = frozenset(map(int, running.split(","))) if running else frozenset()

    def shows(self, xid: int) -> bool:
        """Whether the transaction had committed for the snapshot; ``xid`` must have committed by now."""
        full = (self._xmax & ~0xFFFFFFFF) | xid
        # The nearest 64-bit id: transactions of a stream lie within two billion of its snapshot.
        if full > self._xmax + 0x80000000:
            full -= 1 << 32
        elif full < self._xmax - 0x80000000:
            full += 1 << 32
        return full < self._xmin or (full < self._xmax and full not in self._running)


def take_snapshot(session: Connection, wait_s: float = WAIT_S) -> Snapshot:
    """Pass a barrier; leaves ``session`` in the REPEATABLE READ transaction whose snapshot it returns.

    Raises TransientError naming who is in the way when that takes longer than ``wait_s`` seconds.
    """
    _wait_for_older(session, wait_s)
    stamp = _insert_position(session)
    own_xid = _own_xid(session)
    with session.cursor() as cursor:
        for _ in _attempts(wait_s):
            cursor.execute("begin isolation level repeatable read, read only")
            text: str = server.value(session, "select txid_current_snapshot()::text")
            if int(text.partition(":")[0]) > own_xid:
                return Snapshot(stamp, cut=stamp, text=text, until=_insert_position(session))
            cursor.execute("rollback")
        raise _blocked(session, own_xid, wait_s)


def _wait_for_older(session: Connection, wait_s: float) -> None:
    """Return when every transaction that is open now has ended."""
    own_xid = _own_xid(session)
    for _ in _attempts(wait_s):
        if server.value(session, "select txid_snapshot_xmin(txid_current_snapshot())") > own_xid:
            return
    raise _blocked(session, own_xid, wait_s)


def _own_xid(session: Connection) -> int:
    with session.cursor() as cursor:
        cursor.execute("begin")
        own_xid: int = server.value(session, "select txid_current()")
        cursor.execute("rollback")
    return own_xid


def wait_until_visible(session: Connection, xids: Collection[int], wait_s: float = WAIT_S) -> None:
    """Return when a new snapshot shows the committed transactions ``xids`` (32 bits, of a stream).

    Raises TransientError after ``wait_s`` seconds: their commits wait for a synchronous standby.
    """
    for _ in _attempts(wait_s):
        visibility = Visibility(server.value(session, "select txid_current_snapshot()::text"))
        if all(map(visibility.shows, xids)):
            return
    raise TransientError(
        f"A commit has been waiting for a synchronous standby for {wait_s:.0f} s.",
        remedy="See synchronous_standby_names and the standby's state.",
    )


def fence(session: Connection) -> int:
    """A position behind every commit so far, which a stream reaches soon even on an idle server.

    A small commit of our own is flushed behind it: the flushed position by itself may lie inside a record that an open
    transaction has begun, and would be reached only when somebody writes on. A message, which the stream does not
    carry: a commit that wrote nothing is not flushed at once.
    """
    if server.value(session, "select pg_is_in_recovery()"):
        return flushed_position(session)
    position = _insert_position(session)
    flush(session)
    return position


def flush(session: Connection) -> None:
    """Flush the server's WAL as far as it has been written: by a small commit of our own."""
    with session.cursor() as cursor:
        cursor.execute(
            "begin; set local synchronous_commit = local;"
            " select pg_logical_emit_message(true, 'source-postgres-cdc', 'fence'); commit"
        )


# Physical slots that must have a position before a failover slot's consumer may see it (17+), and have not.
_LAGGING = """
select trim(both ' "' from name)
from unnest(string_to_array(nullif(current_setting('synchronized_standby_slots', true), ''), ',')) name
where not exists (
  select from pg_replication_slots s
  where s.slot_name = trim(both ' "' from name) and s.restart_lsn >= %(position)s::pg_lsn
)
"""


def wait_for_standbys(session: Connection, position: int, wait_s: float) -> None:
    """Return when every slot in synchronized_standby_slots has confirmed ``position``.

    Otherwise a failover could lose what was sent. Raises TransientError naming those that lag after ``wait_s`` seconds.
    """
    lagging: list[str] = []
    for _ in _attempts(wait_s):
        lagging = [row[0] for row in server.rows(session, _LAGGING, {"position": lsn.render(position)})]
        if not lagging:
            return
    raise TransientError(
        f"Standbys have not confirmed the end of this sync within {wait_s:.0f} s: {', '.join(lagging)}.",
        remedy="See that they run, or take their slots out of synchronized_standby_slots.",
    )


def flushed_position(session: Connection) -> int:
    """The position up to which the server has flushed its WAL, or a standby has replayed it."""
    query = (
        "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end)::text"
    )
    return lsn.parse(server.value(session, query))


def _attempts(wait_s: float) -> Iterator[None]:
    """A turn at once, then more with growing pauses in between, until ``wait_s`` seconds are over."""
    deadline = time.monotonic() + wait_s
    pause_s = _PAUSE_S
    while True:
        yield
        if time.monotonic() > deadline:
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def _insert_position(session: Connection) -> int:
    return lsn.before_header(lsn.parse(server.value(session, "select pg_current_wal_insert_lsn()::text")))


# Ids on the server are 32 bits wide here; ages compare them.
_BLOCKERS = """
select format('pid %%s (%%s, %%s, since %%s)', pid, usename, coalesce(nullif(application_name, ''), '?'), xact_start)
from pg_stat_activity
where backend_xid is not null and pid <> pg_backend_pid()
  and age(backend_xid) >= age(%(xid)s::xid)
union all
select format('prepared transaction %%s (%%s, since %%s)', gid, owner, prepared) from pg_prepared_xacts
where age(transaction) >= age(%(xid)s::xid)
"""


def _blocked(session: Connection, own_xid: int, wait_s: float) -> TransientError:
    holders = [row[0] for row in server.rows(session, _BLOCKERS, {"xid": str(own_xid % (1 << 32))})]
    named = "; ".join(holders) or "sessions that this user may not see"
    return TransientError(
        f"A snapshot cannot begin: transactions older than it have been open for {wait_s:.0f} s.",
        remedy=f"End them, or wait: {named}.",
    )
