"""Answers for a reader that may be held up: the server must not take a source for dead whose output is blocked."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import psycopg2

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
        with contextlib.suppress(psycopg2.Error):
            while not self._is_over.wait(_EVERY_S):
                self._say()
