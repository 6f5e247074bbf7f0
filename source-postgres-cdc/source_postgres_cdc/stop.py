"""The end of a continuous run: SIGTERM, SIGINT, or a time that is over. Asked for here, and made where it fits."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from types import FrameType

from airbyte_pg.errors import Stopped
from airbyte_pg.lines import LineWriter

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A transaction that is being sent has this long to come to its end.
_PATIENCE_S = 2.0


class Stop:
    """Whether the run is to end, by a signal or ``limit_s`` seconds from now on (0: only by a signal).

    A signal raises Stopped, as in every command, but for what runs in ``heeded``: that asks. ``woken`` can be read
    (select) once a signal has come.
    """

    def __init__(self, lines: LineWriter, limit_s: float) -> None:
        self._lines = lines
        self._limit = time.monotonic() + limit_s if limit_s else None
        self._signalled_at: float | None = None
        self._is_heeded = False
        self.woken, self._waker = os.pipe()
        for signum in _SIGNALS:
            signal.signal(signum, self._take)

    @property
    def is_asked(self) -> bool:
        """Whether it is time to end, between two transactions."""
        return self._signalled_at is not None or (self._limit is not None and time.monotonic() >= self._limit)

    @property
    def is_urgent(self) -> bool:
        """Whether it is time to end in the middle of a transaction, too: a long one would have the process killed."""
        return self._signalled_at is not None and time.monotonic() - self._signalled_at > _PATIENCE_S

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """What runs inside asks ``is_asked``; raises Stopped nowhere."""
        self._is_heeded = True
        try:
            yield
        finally:
            self._is_heeded = False

    def wait(self, seconds: float) -> None:
        """Until a signal has come, at most ``seconds``."""
        if self._limit is not None:
            seconds = min(seconds, max(self._limit - time.monotonic(), 0))
        select.select([self.woken], [], [], seconds)

    def _take(self, signum: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self._signalled_at = time.monotonic()
        os.write(self._waker, b"\0")
        if not self._is_heeded:
            self._lines.interrupt(Stopped(signum))
