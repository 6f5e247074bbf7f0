"""One writer owns stdout: whole protocol lines as bytes, never interleaved, flushed where the protocol needs it."""

from __future__ import annotations

import os
import select
import threading

from airbyte_pg.errors import OutputClosed

# Larger writes gain nothing on a pipe (64 KiB on Linux), smaller ones cost a system call each.
BUFFER_BYTES = 65_536


class LineWriter:
    """Buffered writer of complete lines to a file descriptor; safe to use from several threads.

    ``put`` buffers (RECORD lines), ``emit`` writes through (STATE, TRACE, LOG and everything that must arrive now).
    Both take one or more lines, each ended by a line feed. Raises OutputClosed when the reader has gone.
    """

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self._lock = threading.RLock()
        self._pending: list[bytes] = []
        self._size = 0
        self._writing_thread: int | None = None
        self._interruption: BaseException | None = None

    def put(self, lines: bytes) -> None:
        """Buffer ``lines``; written when 64 KiB have gathered."""
        with self._lock:
            self._pending.append(lines)
            self._size += len(lines)
            if self._size >= BUFFER_BYTES:
                self.flush()

    def emit(self, lines: bytes) -> None:
        """Write what is buffered and then ``lines``, at once."""
        with self._lock:
            self._pending.append(lines)
            self.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        with self._lock:
            self._writing_thread = threading.get_ident()
            try:
                pending, self._pending, self._size = self._pending, [], 0
                for chunk in pending if self._is_large(pending) else [b"".join(pending)]:
                    self._write(chunk)
            finally:
                self._writing_thread = None
        if self._interruption is not None:
            interruption, self._interruption = self._interruption, None
            raise interruption

    def expect_reader(self) -> None:
        """Raise OutputClosed when the reader has gone: who has nothing to write would not notice."""
        poll = select.poll()
        poll.register(self._fd, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            raise _closed()

    def interrupt(self, interruption: BaseException) -> None:
        """Raise ``interruption`` from a signal handler: now, or behind the write that it would cut in two."""
        if self._writing_thread == threading.get_ident():
            self._interruption = interruption
        else:
            raise interruption

    @staticmethod
    def _is_large(pending: list[bytes]) -> bool:
        # Joining copies: worth it for many short lines, not for a megabyte of rendered rows.
        return len(pending) < 8 and any(len(chunk) >= BUFFER_BYTES for chunk in pending)

    def _write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        try:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    # Somebody made the pipe non-blocking: wait for room all the same.
                    select.select([], [self._fd], [])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _closed() from error


def _closed() -> OutputClosed:
    return OutputClosed("The reader of this connector's output has gone.")
