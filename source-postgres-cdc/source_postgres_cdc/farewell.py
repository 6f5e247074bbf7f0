"""A server that shuts down must not wait for us.

It waits for its walsenders until they have sent everything, and nobody reads from ours while our output is blocked. But
it ends ordinary sessions at once: when the peer of that socket has closed it, the walsender's is closed too.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading

from airbyte_pg.connect import Connection

_LOOK_S = 1.0
# Told even while unread data is pending; not every platform can.
_HAS_CLOSED = getattr(select, "POLLRDHUP", 0)


class Farewell:
    """Closes the connection of ``walsender`` when the server has closed that of ``session``; until ``end``."""

    def __init__(self, session: Connection, walsender: Connection) -> None:
        self._told, self._sender = (
            socket.socket(fileno=os.dup(connection.fileno())) for connection in (session, walsender)
        )
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="farewell", daemon=True)
        if _HAS_CLOSED:
            self._thread.start()

    def end(self) -> None:
        """Stop watching; the connections are the caller's."""
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._told.close()
        self._sender.close()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._told, _HAS_CLOSED)
        while not self._is_over.wait(_LOOK_S):
            if poll.poll(0):
                with contextlib.suppress(OSError):
                    self._sender.shutdown(socket.SHUT_RDWR)
                return
