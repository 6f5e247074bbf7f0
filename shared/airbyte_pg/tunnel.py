"""An SSH tunnel as the commands see it: a port of this machine that leads to the database.

The SSH client is a process of its own (``forwarder``): encrypting in Python would take the interpreter from the rows,
and any number of connections, those of worker processes too, can enter at its port. It ends when we do, however we do.
"""

from __future__ import annotations

import select
import subprocess
import sys
from typing import Literal

import msgspec

from airbyte_pg.errors import ConfigError, ConnectorError, SystemFault, TransientError, Unreachable

# The forwarder has deadlines of its own; this one is for what nobody thought of.
_STANDING_S = 120.0
_LAST_WORDS_S = 0.5
_END_S = 2.0
_KINDS = {"config": ConfigError, "unreachable": Unreachable, "transient": TransientError, "system": SystemFault}


class Order(msgspec.Struct, frozen=True):
    """What the forwarder is to do: where to log in, as whom, with what; and where to lead."""

    tunnel_host: str
    tunnel_port: int
    user: str
    host: str
    port: int
    password: str | None = None
    key: str | None = None
    passphrase: str | None = None
    host_key: str | None = None


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the forwarder: the tunnel ``stands`` at ``port``, a connection through it was ``refused``, or it is
    ``lost`` (or was never made); ``note``: something for the log."""

    what: Literal["stands", "refused", "lost", "note"]
    port: int = 0
    kind: Literal["config", "unreachable", "transient", "system"] = "system"
    message: str = ""
    remedy: str = ""
    detail: str = ""

    def failure(self) -> ConnectorError:
        """It as an error."""
        return _KINDS[self.kind](self.message, remedy=self.remedy, detail=self.detail)


class Tunnel:
    """A tunnel that stands until ``close``. ``port``: where it begins, on the loopback address; ``notes`` for the log.

    Raises ConfigError where it cannot be made, by cause.
    """

    def __init__(self, order: Order) -> None:
        self.notes: list[str] = []
        self._unread = b""
        self._trouble: Report | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "airbyte_pg.forwarder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        try:
            self._stdin.write(msgspec.json.encode(order) + b"\n")
            self.port = self._expect_standing()
        except BaseException:
            self.close()
            raise

    def trouble(self) -> ConnectorError | None:
        """What went wrong with the tunnel, as far as it is known; waits for a moment for what is not said yet."""
        while not self._is_lost and (report := self._next(_LAST_WORDS_S)) is not None:
            self._trouble = report
        return self._trouble.failure() if self._trouble else None

    def close(self) -> None:
        """End the tunnel."""
        self._stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()

    @property
    def _is_lost(self) -> bool:
        return self._trouble is not None and self._trouble.what == "lost"

    def _expect_standing(self) -> int:
        while True:
            report = self._next(_STANDING_S)
            if report is None:
                raise SystemFault("The process that makes the SSH tunnel does not answer.")
            if report.what == "stands":
                return report.port
            if report.what == "lost":
                raise report.failure()
            self.notes.append(report.message)

    def _next(self, patience_s: float) -> Report | None:
        """The next report; None where none comes in time."""
        while b"\n" not in self._unread:
            if not select.select([self._stdout], [], [], patience_s)[0]:
                return None
            data = self._stdout.read(1 << 16)
            if not data:
                return Report("lost", kind="transient", message="The SSH tunnel ended unexpectedly.")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return msgspec.json.decode(line, type=Report)
