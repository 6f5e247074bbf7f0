"""The process of a tunnel: logs in at the SSH server, listens on the loopback address, and leads every connection on.

stdin: one ``Order``, a line of JSON; when stdin ends, so do we. stdout: ``Report`` lines. Started by ``tunnel``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time

import msgspec
import paramiko

from airbyte_pg import ssh
from airbyte_pg.errors import ConnectorError, TransientError, Unreachable
from airbyte_pg.tunnel import Order, Report

_LOOPBACK = "127.0.0.1"
_CHUNK = 1 << 18
# The server is asked for a sign of life this often (which keeps firewalls from forgetting us, too), and is taken for
# dead when none has come for that long: an acknowledgement of the kernel's alone is no sign (see ssh).
_ASK_S = 10.0
_DEAD_S = 30.0
_OPEN_S = 60.0


class Forwarder:
    """Leads connections through ``transport`` to the database until ``run`` returns."""

    def __init__(self, transport: paramiko.Transport, order: Order, reports: Reports) -> None:
        self._transport = transport
        self._target = (order.host, order.port)
        self._reports = reports
        self._heard_at = time.monotonic()
        self._listener = socket.create_server((_LOOPBACK, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        """Until stdin ends or the tunnel is lost, which is reported."""
        for target in (self._accept, self._ask):
            threading.Thread(target=target, daemon=True).start()
        while not select.select([sys.stdin], [], [], 1.0)[0]:
            if not self._transport.is_active() or time.monotonic() - self._heard_at > _DEAD_S:
                self._reports.lost()
                return

    def _accept(self) -> None:
        while True:
            try:
                client, address = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._lead, args=(client, address), daemon=True).start()

    def _ask(self) -> None:
        while self._transport.is_active():
            time.sleep(_ASK_S)
            with contextlib.suppress(paramiko.SSHException):
                # Every server answers, though none knows it.
                self._transport.global_request("keepalive@openssh.com", wait=True)
                self._heard_at = time.monotonic()

    def _lead(self, client: socket.socket, address: tuple[str, int]) -> None:
        with client:
            try:
                channel = self._transport.open_channel("direct-tcpip", self._target, address, timeout=_OPEN_S)
            except paramiko.ChannelException as error:
                self._reports.refused(ssh.refusal(error))
                return
            except (paramiko.SSHException, EOFError, OSError):
                self._reports.lost()
                return
            upward = threading.Thread(target=self._send, args=(client, channel), daemon=True)
            upward.start()
            self._receive(channel, client)
            # The database has said its last, or nobody hears it: what is still on its way up is of no use.
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            channel.close()
            upward.join()

    def _send(self, client: socket.socket, channel: paramiko.Channel) -> None:
        with contextlib.suppress(OSError, EOFError):
            try:
                while data := client.recv(_CHUNK):
                    channel.sendall(data)
            finally:
                channel.shutdown_write()

    def _receive(self, channel: paramiko.Channel, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := channel.recv(_CHUNK):
                self._heard_at = time.monotonic()
                client.sendall(data)
        if not channel.eof_received:
            # Not the database's doing. Before the connector hears of it, it must be able to know why.
            self._transport.join(1.0)
            if not self._transport.is_active():
                self._reports.lost()


class Reports:
    """What the connector is told, in whole lines."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._is_lost = False

    def stands(self, port: int) -> None:
        """Connections may come."""
        self._write(Report("stands", port=port))

    def note(self, text: str) -> None:
        """Something for the log."""
        self._write(Report("note", message=text))

    def refused(self, failure: ConnectorError) -> None:
        """The server did not lead a connection on."""
        self._write(_report("refused", failure))

    def lost(self, failure: ConnectorError | None = None) -> None:
        """The tunnel is no more, or was never made: ``failure`` says why. Said once."""
        with self._lock:
            if self._is_lost:
                return
            self._is_lost = True
        self._write(
            _report("lost", failure or TransientError("The SSH tunnel broke: the connection to tunnel_host was lost."))
        )

    def _write(self, report: Report) -> None:
        with self._lock, contextlib.suppress(OSError):
            os.write(self._fd, msgspec.json.encode(report) + b"\n")


def _report(what: str, failure: ConnectorError) -> Report:
    kind = "unreachable" if isinstance(failure, Unreachable) else failure.failure_type.partition("_")[0]
    report = {"what": what, "kind": kind, "message": failure.message, "remedy": failure.remedy}
    return msgspec.convert({**report, "detail": failure.detail}, Report)


def main() -> None:
    """Read the order, make the tunnel, lead connections through it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the connector ends us
    # Its threads would print.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    logging.getLogger("paramiko").propagate = False
    reports = Reports(os.dup(1))
    os.dup2(2, 1)
    try:
        order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
        transport, shown = ssh.log_in(order)
        with contextlib.closing(transport):
            forwarder = Forwarder(transport, order, reports)
            if order.host_key is None:
                reports.note(
                    f"the SSH server's host key is {shown}: put it in tunnel_host_key, and no other is accepted"
                )
            reports.stands(forwarder.port)
            forwarder.run()
    except ConnectorError as failure:
        reports.lost(failure)
    except Exception as error:  # noqa: BLE001 - the connector tells it
        reports.lost(ConnectorError("The SSH tunnel failed unexpectedly.", detail=type(error).__name__))
    # Threads may be in libraries that do not come back.
    os._exit(0)


if __name__ == "__main__":
    main()
