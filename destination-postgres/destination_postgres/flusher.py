"""Writes batches in a thread of its own, so that the next one is parsed while the server works. One at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from destination_postgres.buffers import Batch


class Flusher:
    """Runs ``write`` for one batch after the other, then releases its STATE lines.

    A failure is kept and raised by the next call from outside; nothing is released after it. ``wake`` is called, in
    the thread, when a batch is done.
    """

    def __init__(
        self, write: Callable[[Batch], None], release: Callable[[bytes], None], wake: Callable[[], None]
    ) -> None:
        self._write = write
        self._release = release
        self._wake = wake
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._is_busy = False

    @property
    def is_busy(self) -> bool:
        """Whether a batch is on its way; no longer when ``wake`` is called."""
        return self._is_busy

    def submit(self, batch: Batch) -> None:
        """Begin to write ``batch``, as soon as the one before is done."""
        self.wait()
        self._is_busy = True
        # A daemon: a server that does not answer must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, args=(batch,), name="flush", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], None]) -> None:
        """Do ``work()`` as a batch is written, so that a stop need not wait for the server; raises what it raises."""
        failures: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as failure:  # noqa: BLE001 - carried to the thread that asked
                failures.append(failure)

        self._thread = threading.Thread(target=run, name="complete", daemon=True)
        self._thread.start()
        self._thread.join()
        if failures:
            raise failures[0]

    def wait(self) -> None:
        """Return when nothing is on its way any more. Raises what went wrong."""
        self.join()
        self.check()

    def join(self, timeout_s: float | None = None) -> None:
        """Return when nothing is on its way any more, or after ``timeout_s``; raises nothing."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def check(self) -> None:
        """Raise what went wrong."""
        if self._failure is not None:
            raise self._failure

    def _run(self, batch: Batch) -> None:
        try:
            self._write(batch)
            if batch.acknowledgements:
                self._release(b"".join(batch.acknowledgements))
        except BaseException as failure:  # noqa: BLE001 - carried to the thread that asked
            self._failure = failure
        finally:
            self._is_busy = False
            self._wake()
