"""Answers for a reader that may be held up: the server must not take a source for dead whose output is blocked."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

# Servers before 12 let nobody lengthen wal_sender_timeout for one session, and it may be short.
_EVERY_S = 5.0


class Keeper:
    """Calls ``say`` every few seconds, in a thread, from ``start`` to ``end``; that the connection is lost the reader
    notices by itself."""

    def __init__(self, say: Callable[[], None]) -> None:
        self._say = say
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="keep-alive", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """End; nothing is said any more when this returns."""
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _keep(self) -> None:
        # Whatever it is: what is said belongs to a connection whose reader will fail, too.
        with contextlib.suppress(Exception):
            while not self._is_over.wait(_EVERY_S):
                self._say()


class SharedCursor:
    """A replication cursor of the driver's that two threads use, one at a time: while the driver raises, another thread
    may run, and neither would find its own error."""

    def __init__(self, cursor: Any) -> None:
        self.connection = cursor.connection
        self._cursor = cursor
        self._lock = threading.Lock()

    @property
    def wal_end(self) -> int:
        """How far the server has decoded."""
        position: int = self._cursor.wal_end
        return position

    def read_message(self) -> Any:
        """The next message, None where none has come yet. Raises psycopg2.Error."""
        with self._lock:
            return self._cursor.read_message()

    def send_feedback(self, **positions: Any) -> None:
        """Say how far we have come. Raises psycopg2.Error."""
        with self._lock:
            self._cursor.send_feedback(**positions)

    def close(self) -> None:
        """Close the cursor."""
        self._cursor.close()
