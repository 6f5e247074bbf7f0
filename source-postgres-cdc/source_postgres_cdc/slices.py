"""Slices of a COPY, handed from the thread that fetches to the one that renders: one at a time, to bound the memory."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from airbyte_pg.errors import TransientError

# Rendered, handed over and being fetched, with copies of some, about eight of them are in memory at most.
SLICE_BYTES = 8 << 20


class Abandoned(Exception):
    """Raised in the fetching thread when nobody wants more."""


class Slices:
    """The door between the two threads. The fetching one adds bytes to a window and ends it, again and again.

    ``window_bytes``: how many the window has that is being fetched. ``reached``: the position behind the last that was
    taken.
    """

    def __init__(self) -> None:
        self.reached = 0
        self.window_bytes = 0
        self._changed = threading.Condition()
        self._ready: deque[bytes | int] = deque()
        self._parts: list[bytes] = []
        self._size = 0
        self._is_over = False
        self._is_abandoned = False
        self._failure: BaseException | None = None

    # In the thread that fetches.

    def add(self, piece: bytes) -> None:
        """More of the window. Waits while the other side is behind. Raises Abandoned."""
        self._parts.append(piece)
        self.window_bytes += len(piece)
        self._size += len(piece)
        if self._size >= SLICE_BYTES:
            self._hand_over()

    def end(self, reached: int) -> None:
        """The window is whole; ``reached`` is the position up to which it holds everything."""
        self._hand_over()
        self._put(reached)

    def finish(self, failure: BaseException | None = None) -> None:
        """There is no further window, because of ``failure`` or because all is done."""
        with self._changed:
            self._is_over, self._failure = True, failure
            self._changed.notify_all()

    def _hand_over(self) -> None:
        if self._parts:
            piece = b"".join(self._parts)
            self._parts, self._size = [], 0
            self._put(piece)

    def _put(self, item: bytes | int) -> None:
        with self._changed:
            # An end takes no memory: it never waits, so the next window is asked for at once.
            self._changed.wait_for(lambda: self._is_abandoned or isinstance(item, int) or not self._ready)
            if self._is_abandoned:
                raise Abandoned
            self._ready.append(item)
            self._changed.notify_all()

    # In the thread that renders.

    def window(self, stall_limit_s: float) -> Iterator[bytes] | None:
        """The slices of the next window, or None when there is none; ``reached`` is set when they are used up.

        Raises what made the other thread fail, and TransientError when nothing comes for the limit.
        """
        return self._slices(stall_limit_s) if self._wait(stall_limit_s) else None

    def abandon(self) -> None:
        """Nobody wants more."""
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()

    def _slices(self, stall_limit_s: float) -> Iterator[bytes]:
        while self._wait(stall_limit_s):
            with self._changed:
                item = self._ready.popleft()
                self._changed.notify_all()
            if isinstance(item, int):
                self.reached = item
                return
            yield item
        raise RuntimeError("a window without an end")

    def _wait(self, stall_limit_s: float) -> bool:
        """Until something is ready (true) or all is over; what is ready goes before a failure."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ready or self._is_over, stall_limit_s):
                raise TransientError(
                    f"The server has sent nothing for {stall_limit_s:.0f} s and has not reached the end of this sync.",
                    remedy="It may be busy decoding; the next sync goes on from the last state.",
                )
            if self._ready:
                return True
            if self._failure is not None:
                raise self._failure
            return False


class Writer(io.RawIOBase):
    """What a buffer writes to: everything goes into ``slices``, until it is closed."""

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self.is_over = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.is_over:
            self._slices.add(bytes(data))
        return len(data)
