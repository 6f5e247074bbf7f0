"""Several connections: a round's parts are read and rendered by processes, each with a session behind the snapshot.

Finished lines come back through pipes in whole chunks, so a slow reader of our stdout slows the workers down, and no
more than a chunk of each is in memory. The parent alone writes, counts, and says states.
"""

from __future__ import annotations

import os
import pickle
import selectors
import subprocess
import sys
from collections import deque
from functools import partial

from airbyte_pg.connect import Connection
from airbyte_pg.errors import TransientError
from source_postgres_cdc import server, snapshot
from source_postgres_cdc.rounds import Round
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.snapshot import Part
from source_postgres_cdc.worker import DONE, FAILED, HEADER, LINES, Start

_GOOD_BYE_S = 5.0


def count(settings: SourceSettings) -> int:
    """How many connections read: as many as configured, but not more than there are processors for us."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(settings.max_db_connections or 1, processors))


def read(session: Connection, settings: SourceSettings, work: Round) -> None:
    """Read every part that ``work`` hands out; ``session`` holds the snapshot.

    One connection (or one part) is read in ``session`` itself. Raises what a worker failed with.
    """
    first = deque(part for _ in range(count(settings)) if (part := work.next()) is not None)
    if len(first) > 1:
        _read_with_workers(session, settings, work, first)
        return
    part = first[0] if first else None
    while part is not None:
        snapshot.read(session, part, partial(work.rows, part))
        work.finished(part)
        part = work.next()


def _read_with_workers(session: Connection, settings: SourceSettings, work: Round, first: deque[Part]) -> None:
    start = Start(settings, server.value(session, "select pg_export_snapshot()"))
    workers: list[_Worker] = []
    try:
        with selectors.DefaultSelector() as selector:
            for _ in range(len(first)):
                workers.append(_Worker(start))
                selector.register(workers[-1].output, selectors.EVENT_READ, workers[-1])
            while first or any(worker.part is not None for worker in workers):
                for key, _ in selector.select():
                    worker: _Worker = key.data
                    if worker.pass_on(work):
                        worker.read(first.popleft() if first else work.next())
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process and the part that it reads; None: it has none."""

    def __init__(self, start: Start) -> None:
        self.part: Part | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "source_postgres_cdc.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        self.output = self._process.stdout.fileno()
        self._ask(start)

    def pass_on(self, work: Round) -> bool:
        """One frame of the process to ``work``; returns whether the process can read another part now."""
        header: tuple[bytes, int, int] = HEADER.unpack(self._receive(HEADER.size))
        kind, records, size = header
        payload = self._receive(size)
        if kind == LINES and self.part is not None:
            work.rows(self.part, payload, records)
        elif kind == DONE and self.part is not None:
            work.finished(self.part)
        elif kind == FAILED:
            raise pickle.loads(payload)  # noqa: S301 - our own worker's
        return kind != LINES

    def read(self, part: Part | None) -> None:
        """Let the process read ``part``."""
        self.part = part
        if part is not None:
            self._ask(part)

    def end(self) -> None:
        """End the process, wherever it stands."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        self._process.stdin.close()
        try:
            # One that waits for work says good-bye to the server.
            self._process.wait(_GOOD_BYE_S if self.part is None else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, request: Start | Part) -> None:
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        try:
            data = memoryview(pickle.dumps(request))
            while data:
                data = data[self._process.stdin.write(data) :]
        except BrokenPipeError as error:
            raise _vanished() from error

    def _receive(self, size: int) -> bytes:
        received: list[bytes] = []
        while size:
            data = os.read(self.output, size)
            if not data:
                raise _vanished()
            received.append(data)
            size -= len(data)
        return received[0] if len(received) == 1 else b"".join(received)


def _vanished() -> TransientError:
    return TransientError(
        "A process that read a part of a table ended unexpectedly.",
        remedy="Memory may be short: give more, or fewer connections (max_db_connections).",
    )
