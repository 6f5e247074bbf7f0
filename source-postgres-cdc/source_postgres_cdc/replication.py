"""The stream transport: a temporary copy of the anchor (else the anchor itself) over the replication protocol."""

from __future__ import annotations

import logging
import select
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import psycopg2

from airbyte_pg.connect import Connection
from airbyte_pg.errors import TransientError
from source_postgres_cdc import cursor_slot, lsn
from source_postgres_cdc.changes import Changes
from source_postgres_cdc.core import pgoutput
from source_postgres_cdc.cursor_slot import CopyImpossible
from source_postgres_cdc.farewell import Farewell
from source_postgres_cdc.keepalive import Keeper, SharedCursor
from source_postgres_cdc.raw_cursor import RawCursor, start_statement

_COMMIT_END = _COMMIT_LSN = struct.Struct(">Q").unpack_from
# While there is nothing to read the server is asked this often how far it has decoded: soon at first, then less often.
_SHORTEST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.5

# A transaction that comes without a pause is looked up from after so many messages.
_AT_ONCE = 1000

Frame = tuple[int, bytes]

log = logging.getLogger(__name__)


class Confirmed(msgspec.Struct):
    """How far a continuous run has come: ``sent`` in a STATE, and ``acknowledged`` by a state that came back.

    The copy of the anchor is moved to the first, so that it keeps no WAL; the anchor itself, where it is the one that
    ``is_read``, to the second.
    """

    sent: int = 0
    acknowledged: int = 0
    is_read: bool = False


class ChangeStream:
    """Frames of pgoutput from ``start`` on. ``position`` is how far the stream is known to be complete.

    ``session`` is a replication connection; the stream closes it, also when the server closes the ordinary session
    ``told``. ``stall_limit_s``: seconds without any progress after which reading fails. ``confirmed``: what the server
    is told again and again, whoever is held up; without it nothing.
    """

    def __init__(
        self,
        session: Connection,
        anchor: str,
        publication: str,
        start: int,
        stall_limit_s: float,
        *,
        told: Connection,
        confirmed: Confirmed | None = None,
    ) -> None:
        self.position = start
        self.in_transaction = False
        self._confirmed = confirmed or Confirmed()
        self._session = session
        self._stall_limit_s = stall_limit_s
        self._cursor: Any  # a ReplicationCursor, or what reads like one
        self._cursor = session.cursor()
        try:
            name = cursor_slot.copy(self._cursor, anchor, start)
        except CopyImpossible:
            # The driver answers keep-alives with positions of its own, which would move the anchor.
            cursor_slot.expect_not_past(self._cursor, anchor, start)
            self._cursor = RawCursor(session, lambda: self._confirmed.acknowledged)
            name = anchor
            log.info("no copy of the slot %s can be made: it is read itself, and not moved", anchor)
        self._cursor.start_replication_expert(start_statement(session, name, publication, start), decode=False)
        self._confirmed.is_read = name == anchor
        self._farewell = Farewell(told, session)
        self._keeper = Keeper(self._confirm)
        if confirmed is not None and not confirmed.is_read:
            self._cursor = SharedCursor(self._cursor)
            self._keeper.start()

    def __enter__(self) -> ChangeStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self._farewell.end()
        self._keeper.end()
        self._confirmed.is_read = False
        self._cursor.close()
        self._session.close()

    def follow(self, fence: int, changes: Changes) -> Iterator[int]:
        """Give every frame of ``frames`` to ``changes``; yields the position behind each commit."""
        for change_lsn, frame in self.frames(fence):
            commit = changes.take(change_lsn, frame)
            if commit is not None:
                yield commit.end_lsn

    def frames(self, fence: int) -> Iterator[Frame]:
        """``(lsn, frame)`` of every message of the transactions that committed before ``fence``, and of no other.

        Ends outside a transaction, with ``position`` at the fence: a transaction that committed behind it has come, or
        the server's word that it has decoded so far. Raises TransientError when nothing moves for the stall limit.
        """
        cursor, read = self._cursor, self._cursor.read_message
        in_transaction = False
        idle: _Idle | None = None
        asking = _Asking(cursor)
        while self.position < fence:
            message = read()
            if message is None:
                # Keep-alives are taken in by read_message; the first only echoes the start.
                reached = cursor.wal_end
                if not in_transaction and reached > self.position:
                    self.position = reached
                if self.position < fence:
                    idle = idle or _Idle(self._stall_limit_s, reached)
                    idle.expect_progress(reached)
                    asking.wait()
                continue
            idle = None
            frame = message.payload
            tag = frame[0]
            if tag == pgoutput.BEGIN:
                if _COMMIT_LSN(frame, 1)[0] >= fence:
                    break
                in_transaction = True
            elif tag == pgoutput.COMMIT:
                in_transaction = False
                yield message.data_start, frame
                self.position = max(self.position, _COMMIT_END(frame, 10)[0])
                continue
            yield message.data_start, frame
        # Never past it: what the server skipped behind a fence that ends a decoding session, it may skip wrongly.
        self.position = fence

    def follow_on(self, changes: Changes, gate: Callable[[int], None] | None) -> Iterator[bool]:
        """Give every message to ``changes`` as it comes, without an end. Yields now and then, and behind each commit:
        true where nothing is there to be read, and ``wait`` waits. ``gate`` is passed with each commit's position
        before its first row."""
        cursor, read, take = self._cursor, self._cursor.read_message, changes.take
        left = _AT_ONCE
        while True:
            message = read()
            if message is None:
                if not self.in_transaction:
                    self.position = max(self.position, cursor.wal_end)
                yield True
                continue
            frame = message.payload
            if frame[0] == pgoutput.BEGIN:
                self.in_transaction = True
                if gate is not None:
                    gate(_COMMIT_LSN(frame, 1)[0])
            commit = take(message.data_start, frame)
            left -= 1
            if commit is not None:
                self.in_transaction = False
                self.position = max(self.position, commit.end_lsn)
            elif left:
                continue
            left = _AT_ONCE
            yield False

    def wait(self, seconds: float, woken: int) -> None:
        """Until there is something to be read, or ``woken`` can be; at most ``seconds``."""
        if self._session.closed:
            raise psycopg2.OperationalError("the connection is closed")
        select.select([self._session.fileno(), woken], [], [], seconds)

    def ask(self) -> None:
        """Have the server say how far it has decoded."""
        self._cursor.send_feedback(write_lsn=self._cursor.wal_end, reply=True)

    def _confirm(self) -> None:
        self._cursor.send_feedback(write_lsn=self._cursor.wal_end, flush_lsn=self._confirmed.sent, force=True)


class _Asking:
    """Asks the server how far it has decoded, at most every few milliseconds, and sleeps on the socket."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._socket = cursor.connection.fileno()
        self._pause_s = _SHORTEST_PAUSE_S
        self._asked_at = 0.0

    def wait(self) -> None:
        """Until the socket is readable, or it is time to ask again."""
        now = time.monotonic()
        if now - self._asked_at >= self._pause_s:
            # What was read, so that a server that shuts down need not wait for us; the driver's to confirm or not.
            self._cursor.send_feedback(write_lsn=self._cursor.wal_end, reply=True)
            self._asked_at = now
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        if select.select([self._socket], [], [], self._pause_s)[0]:
            self._pause_s = max(self._pause_s / 2, _SHORTEST_PAUSE_S)


class _Idle:
    """A time without messages: watches that the server's position moves at all."""

    def __init__(self, limit_s: float, reached: int) -> None:
        self._limit_s = limit_s
        self._reached = reached
        self._since = time.monotonic()

    def expect_progress(self, reached: int) -> None:
        """Raise TransientError when the position has stood still for longer than the limit."""
        now = time.monotonic()
        if reached > self._reached:
            self._reached, self._since = reached, now
        elif now - self._since > self._limit_s:
            raise TransientError(
                f"The server has sent nothing for {self._limit_s:.0f} s and has not reached the end of this sync.",
                remedy="It may be busy decoding; the next sync goes on from the last state.",
                detail=f"reached {lsn.render(reached)}",
            )
