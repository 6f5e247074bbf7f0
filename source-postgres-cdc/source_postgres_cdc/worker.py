"""A process that reads parts of tables under the parent's snapshot and renders them. Started by ``workers``.

In: pickles of the parent's own making, ``Start`` and then one ``Part`` at a time. Out: frames of a kind, a number of
records and a length, then the payload. The process ends with its parent, however that ends.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import struct
import sys
from contextlib import closing
from typing import BinaryIO

import msgspec
from psycopg2 import errors
from psycopg2.sql import SQL

from airbyte_pg import sql
from airbyte_pg.classify import Phase, classify
from airbyte_pg.connect import Connection
from airbyte_pg.errors import TransientError
from source_postgres_cdc import server, snapshot
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.snapshot import Part

HEADER = struct.Struct(">cIQ")
READY, LINES, DONE, FAILED = b"R", b"L", b"D", b"F"

# The parent keeps the tables locked; behind a session that queues for such a table we would wait for ever.
_LOCK_TIMEOUT = "60s"
_PR_SET_PDEATHSIG = 1
_FRAME_BYTES = 1 << 16


class Start(msgspec.Struct, frozen=True):
    """How to reach the server, and the snapshot to read under."""

    settings: SourceSettings
    snapshot_id: str


def main() -> None:
    """Read parts from stdin until it ends."""
    _end_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent ends us
    logging.getLogger().addHandler(logging.NullHandler())  # the parent's is the log
    # Whatever a library may print must not get between the frames.
    out = _Frames(os.dup(1))
    os.dup2(2, 1)
    try:
        _work(sys.stdin.buffer, out)
    except (EOFError, BrokenPipeError):
        return  # the parent has gone
    except Exception as error:  # noqa: BLE001 - the parent tells it
        out.send(FAILED, pickle.dumps(classify(error, Phase.WORKING)))


def _work(requests: BinaryIO, out: _Frames) -> None:
    start: Start = pickle.load(requests)  # noqa: S301 - our parent's
    with closing(server.open_session(start.settings)) as session:
        _enter(session, start.snapshot_id)
        out.send(READY)
        while True:
            part: Part = pickle.load(requests)  # noqa: S301 - our parent's
            snapshot.read(session, part, out.lines)
            out.send(DONE)


def _enter(session: Connection, snapshot_id: str) -> None:
    with session.cursor() as cursor:
        cursor.execute("select set_config('lock_timeout', %s, false)", (_LOCK_TIMEOUT,))
        cursor.execute("begin isolation level repeatable read, read only")
        try:
            cursor.execute(SQL("set transaction snapshot {}").format(sql.literal(snapshot_id)))
        except errors.InvalidParameterValue as error:
            raise TransientError("The session that holds the snapshot has ended.") from error


class _Frames:
    """What the parent reads. Lines are gathered: a frame is some work for the parent, however small it is."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._gathered: list[bytes] = []
        self._size = self._count = 0

    def lines(self, lines: bytes, count: int) -> None:
        """``count`` RECORD lines; they come before whatever is sent later."""
        self._gathered.append(lines)
        self._size += len(lines)
        self._count += count
        if self._size >= _FRAME_BYTES:
            self._flush()

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """A frame of its own, at once."""
        self._flush()
        self._write(HEADER.pack(kind, 0, len(payload)) + payload)

    def _flush(self) -> None:
        if self._gathered:
            self._write(b"".join([HEADER.pack(LINES, self._count, self._size), *self._gathered]))
            self._gathered = []
            self._size = self._count = 0

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


def _end_with(parent: int) -> None:
    """Be killed by the kernel when the parent dies, where it can do that; elsewhere the closed pipes end us."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    main()
