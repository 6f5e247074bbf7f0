"""A proxy in front of a server that knows the protocol well enough to do something at a named point of it.

PostgreSQL documentation, Frontend/Backend Protocol, Message Flow and Message Formats. Not encrypted: a request for it
is declined, as a server without it does.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

_LOOPBACK = "127.0.0.1"
_ENCRYPTION_REQUESTS = frozenset({80877103, 80877104})
_QUERY, _COPY_DATA, _COMMAND_COMPLETE, _KEY = b"Q", b"d", b"C", b"K"


@dataclass(frozen=True)
class Point:
    """A point of the conversation.

    ``what``: a query of the client, its copy data, or the server's word that a command is done. ``pattern`` is searched
    in the query or in the command's tag. ``delivered``: whether that message still reaches its reader.
    """

    what: Literal["query", "copy data", "done"]
    pattern: str = ""
    delivered: bool = False


class Proxy:
    """Accepts connections until the ``with`` block ends. At the point that it is armed with, once, it acts."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._listener = socket.create_server((_LOOPBACK, 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._points: list[Point] = []
        self._action: Callable[[int], object] | None = None
        self._flows = threading.Event()
        self._flows.set()
        self.reached = threading.Event()

    @property
    def host(self) -> str:
        return _LOOPBACK

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def arm(self, *points: Point, action: Callable[[int], object]) -> None:
        """Do ``action(pid of the server's process)`` at the last of ``points``, which come in this order."""
        with self._lock:
            self._points, self._action = list(points), action

    def cut(self) -> None:
        """Every connection that stands breaks; new ones are accepted."""
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def lead_to(self, host: str, port: int) -> None:
        """New connections go to this server: one that was started again may have another port."""
        self._address = (host, port)

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Inside the block nothing passes; nobody is told why."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    def __enter__(self) -> Proxy:
        self._spawn(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._flows.set()
        # shutdown wakes those who wait for it; close alone does not.
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._address)
            except OSError:
                client.close()  # the server is away, and may come back
                continue
            for each in (client, server):
                # Messages are small, and each is waited for.
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            self._spawn(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """Both ways of a connection, to its end."""
        pid: list[int] = []
        answers = threading.Thread(target=self._from_server, args=(server, client, pid), daemon=True)
        answers.start()
        self._from_client(client, server, pid)
        answers.join()
        for each in (client, server):
            self._sockets.remove(each)
            each.close()

    def _from_client(self, client: socket.socket, server: socket.socket, pid: list[int]) -> None:
        with client.makefile("rb") as stream, _both_ended(client, server):
            while True:
                (size,) = struct.unpack("!i", _exactly(stream.read, 4))
                body = _exactly(stream.read, size - 4)
                if struct.unpack("!i", body[:4])[0] not in _ENCRYPTION_REQUESTS:
                    break
                client.sendall(b"N")
            server.sendall(struct.pack("!i", size) + body)
            for kind, message in _messages(stream.read):
                text = message[5:].rstrip(b"\0").decode(errors="replace") if kind == _QUERY else ""
                what = {_QUERY: "query", _COPY_DATA: "copy data"}.get(kind)
                self._pass(what, text, pid, partial(server.sendall, message))

    def _from_server(self, server: socket.socket, client: socket.socket, pid: list[int]) -> None:
        with server.makefile("rb") as stream, _both_ended(client, server):
            for kind, message in _messages(stream.read):
                if kind == _KEY:
                    pid.append(struct.unpack("!i", message[5:9])[0])
                text = message[5:].rstrip(b"\0").decode(errors="replace") if kind == _COMMAND_COMPLETE else ""
                what = "done" if kind == _COMMAND_COMPLETE else None
                self._pass(what, text, pid, partial(client.sendall, message))

    def _pass(self, what: str | None, text: str, pid: list[int], deliver: Callable[[], object]) -> None:
        """Deliver a message, or act where it is the armed point."""
        self._flows.wait()
        action = self._action_at(what, text)
        if action is None:
            deliver()
            return
        point, act = action
        if point.delivered:
            deliver()
        act(pid[0])
        self.reached.set()

    def _action_at(self, what: str | None, text: str) -> tuple[Point, Callable[[int], object]] | None:
        with self._lock:
            action = self._action
            if action is None or what != self._points[0].what or not re.search(self._points[0].pattern, text):
                return None
            point = self._points.pop(0)
            if self._points:
                return None
            self._action = None
            return point, action


def _messages(read: Callable[[int], bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Each message's type, and the whole of it."""
    while True:
        head = _exactly(read, 5)
        (size,) = struct.unpack("!i", head[1:])
        yield head[:1], head + _exactly(read, size - 4)


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    found = read(size)
    if len(found) < size:
        raise EOFError
    return found


@contextlib.contextmanager
def _both_ended(*sockets: socket.socket) -> Iterator[None]:
    """Whoever of the two goes, the other one hears of it."""
    try:
        yield
    except (OSError, EOFError, ValueError):
        pass
    finally:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
