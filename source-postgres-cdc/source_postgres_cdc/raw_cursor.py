"""A replication cursor that never confirms a position: libpq's own functions on a connection of the driver's.

psycopg2 answers keep-alives with the position that it has received, which is right for a temporary slot and would move
the anchor past what a destination has committed (tried: an unread slot moved in 4 s). Here ``flush`` is 0 in every
status, "nothing to say" (PostgreSQL documentation 55.4, "Standby status update"), but for a position that the state has
come back for.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import select
import struct
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec
import psycopg2
from psycopg2 import errors
from psycopg2.sql import SQL, Composable, Composed

from airbyte_pg import sql
from airbyte_pg.connect import Connection
from airbyte_pg.errors import TransientError
from source_postgres_cdc import lsn
from source_postgres_cdc.keepalive import Keeper

# A reader that has just ended is still there for a moment.
_BUSY_S = 30.0
_PAUSE_S = 0.05

# Microseconds since 2000-01-01.
_EPOCH_S = 946_684_800
_STATUS = struct.Struct(">cQQQqB").pack
_DATA = struct.Struct(">cQQq")
_KEEPALIVE = struct.Struct(">cQqB")


class Message(msgspec.Struct, frozen=True):
    """XLogData, in the shape of psycopg2's message."""

    data_start: int
    payload: bytes


class RawCursor:
    """As much of psycopg2's ReplicationCursor as the stream uses; ``session`` is in nobody else's hands meanwhile.

    ``flushed`` tells what is confirmed, with every answer.
    """

    def __init__(self, session: Connection, flushed: Callable[[], int] = lambda: 0) -> None:
        self._flushed = flushed
        self.connection = session
        self.wal_end = 0
        self._libpq = _libpq()
        self._connection = ctypes.c_void_p(session.pgconn_ptr)
        self._lock = threading.Lock()
        self._keeper = Keeper(self._keep)

    def start_replication_expert(self, command: Composable, *, decode: bool) -> None:
        """Begin; waits for a moment while the slot is in use. Raises psycopg2.Error."""
        deadline = time.monotonic() + _BUSY_S
        cursor: Any = self.connection.cursor()
        while True:
            try:
                cursor.start_replication_expert(command, decode=decode)
                break
            except errors.ObjectInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
        self._keeper.start()

    def close(self) -> None:
        """End the thread that answers; the session is the caller's."""
        self._keeper.end()

    def read_message(self) -> Message | None:
        """The next message, None where none has come yet. Raises psycopg2.OperationalError."""
        with self._lock:
            while True:
                data = self._received()
                if data is None:
                    return None
                if data[:1] == b"w":
                    _, start, self.wal_end, _ = _DATA.unpack_from(data)
                    return Message(start, data[_DATA.size :])
                _, self.wal_end, _, asks = _KEEPALIVE.unpack_from(data)
                if asks:
                    self._answer(asks=False)

    def send_feedback(self, *, write_lsn: int = 0, reply: bool) -> None:
        """Say how far we have read, never that anything is done with; ``reply``: the server shall answer."""
        with self._lock:
            self._answer(asks=reply)

    def _keep(self) -> None:
        with self._lock:
            self._answer(asks=False)

    def _received(self) -> bytes | None:
        buffer = ctypes.c_void_p()
        for may_read in (True, False):
            size = self._libpq.PQgetCopyData(self._connection, ctypes.byref(buffer), 1)
            if size > 0:
                data = ctypes.string_at(buffer, size)
                self._libpq.PQfreemem(buffer)
                return data
            if size < 0:
                raise self._failure()
            if may_read and not self._libpq.PQconsumeInput(self._connection):
                raise self._failure()
        return None

    def _answer(self, *, asks: bool) -> None:
        now = int((time.time() - _EPOCH_S) * 1_000_000)
        flushed = self._flushed()
        status = _STATUS(b"r", self.wal_end, flushed, flushed, now, asks)
        # Not sent at once where the server does not read; it will be with the next one.
        if self._libpq.PQputCopyData(self._connection, status, len(status)) == 1:
            self._libpq.PQflush(self._connection)

    def _failure(self) -> psycopg2.Error:
        # After CommandComplete or an error the result says which.
        result = ctypes.c_void_p(self._libpq.PQgetResult(self._connection))
        said = self._libpq.PQresultErrorMessage(result) or self._libpq.PQerrorMessage(self._connection)
        message = (said or b"the server has ended the stream").decode(errors="replace")
        code = self._libpq.PQresultErrorField(result, ord("C"))
        self._libpq.PQclear(result)
        with contextlib.suppress(KeyError):
            return errors.lookup(code.decode() if code else "")(message)
        return psycopg2.OperationalError(message)


def move(walsender: Connection, slot: str, publication: str, position: int, is_moved: Callable[[], bool]) -> None:
    """Confirm ``position`` on ``slot``, before 11, where no function does, until ``is_moved``. Closes ``walsender``.

    Raises TransientError when that takes too long.
    """
    with closing(walsender):
        cursor = RawCursor(walsender, flushed=lambda: position)
        cursor.start_replication_expert(start_statement(walsender, slot, publication, position), decode=False)
        try:
            cursor.send_feedback(reply=True)
            deadline = time.monotonic() + _BUSY_S
            while not is_moved():
                cursor.read_message()
                if time.monotonic() > deadline:
                    raise TransientError(f"The replication slot {slot} could not be moved to the state's position.")
                select.select([walsender.fileno()], [], [], _PAUSE_S)
        finally:
            cursor.close()


def start_statement(session: Connection, slot: str, publication: str, start: int) -> Composed:
    """START_REPLICATION of ``slot`` from ``start`` on."""
    return SQL("START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})").format(
        sql.name(slot),
        SQL(lsn.render(start)),
        # A list of identifiers inside a literal: quoted twice.
        sql.literal(sql.text(sql.name(publication), session)),
    )


@functools.cache
def _libpq() -> ctypes.CDLL:
    """The libpq that the driver itself is linked with (psycopg2 documentation, ``connection.pgconn_ptr``)."""
    library = ctypes.CDLL(psycopg2._psycopg.__file__)
    pointer, size = ctypes.c_void_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "PQgetCopyData": (size, [pointer, ctypes.POINTER(pointer), size]),
        "PQputCopyData": (size, [pointer, ctypes.c_char_p, size]),
        "PQconsumeInput": (size, [pointer]),
        "PQflush": (size, [pointer]),
        "PQfreemem": (None, [pointer]),
        "PQgetResult": (pointer, [pointer]),
        "PQclear": (None, [pointer]),
        "PQresultErrorField": (ctypes.c_char_p, [pointer, size]),
        "PQresultErrorMessage": (ctypes.c_char_p, [pointer]),
        "PQerrorMessage": (ctypes.c_char_p, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
