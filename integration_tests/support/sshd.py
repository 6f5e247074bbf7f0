"""An OpenSSH server on loopback: users, keys and passwords of its own, none of the machine's (nss_wrapper lends them).

Debian's openssh-server, libnss-wrapper and openssl. It forwards connections and does nothing else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from integration_tests.support.binaries import open_directory, owner
from integration_tests.support.pgserver import wait_until

_HOST = "127.0.0.1"
_START_S = 20.0
_LENT = ("passwd", "group", "shadow", "hosts")
_PRIVILEGE_SEPARATION = Path("/run/sshd")


class Bastion:
    """A server until the ``with`` block ends. ``user`` may log in with ``password`` and with ``allow``-ed keys.

    ``kill`` and ``start`` as often as wanted: port and host keys stay.
    """

    host = _HOST
    user = "traveller"
    # What it alone calls the loopback address.
    inner_host = "db.internal.example"

    def __init__(self) -> None:
        self.password = f"it's \\ \"{secrets.token_urlsafe(8)} ü"
        self._home = open_directory("sshd-")
        self._home.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            self.port: int = probe.getsockname()[1]
        for kind in ("ed25519", "rsa"):
            _run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(self._home / f"host_{kind}"))
        self._write_accounts()
        (self._home / "authorized_keys").touch()
        self._configure()

    def __enter__(self) -> Bastion:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def host_key(self, kind: str = "ed25519") -> str:
        """The public half of one of its keys (ed25519, rsa)."""
        return (self._home / f"host_{kind}.pub").read_text()

    def fingerprint(self, kind: str = "ed25519") -> str:
        """SHA256:… of it, as ``ssh-keygen -l`` prints it."""
        return _run("ssh-keygen", "-l", "-f", str(self._home / f"host_{kind}.pub")).split()[1]

    def allow(self, public_key: str) -> None:
        """Let ``user`` log in with this key, in OpenSSH's form."""
        with (self._home / "authorized_keys").open("a") as file:
            file.write(public_key + "\n")

    def tunnel(self, **more: Any) -> dict[str, Any]:
        """A connector's ``tunnel_method`` with the password; ``more`` is added or wins."""
        return {
            "tunnel_method": "SSH_PASSWORD_AUTH",
            "tunnel_host": self.host,
            "tunnel_port": self.port,
            "tunnel_user": self.user,
            "tunnel_user_password": self.password,
            **more,
        }

    def start(self, *options: str) -> None:
        """Start it, with further ``options`` of sshd_config (``AllowTcpForwarding no``)."""
        self._configure(options)
        if os.geteuid() == 0:
            _PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/usr/sbin/sshd", "-D", "-e", "-f", str(self._home / "config")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "LD_PRELOAD": "libnss_wrapper.so",
                    **{f"NSS_WRAPPER_{name.upper()}": str(self._home / name) for name in _LENT},
                },
                start_new_session=True,
            )
        wait_until(self._listens, _START_S, f"sshd listens: {self.log}")

    def kill(self) -> None:
        """SIGKILL it and every session of it."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP it and every session of it: connections stand, and nobody answers."""
        for process in self._processes():
            process.send_signal(signal.SIGSTOP)

    @property
    def is_used(self) -> bool:
        """Whether somebody has a connection to it."""
        return len(self._processes()) > 1

    @property
    def log(self) -> str:
        """What it has said."""
        return (self._home / "log").read_text(errors="replace")

    def _processes(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((_HOST, self.port), 1):
            return True
        return False

    def _configure(self, options: Sequence[str] = ()) -> None:
        lines = [
            f"Port {self.port}",
            f"ListenAddress {_HOST}",
            *(f"HostKey {self._home / f'host_{kind}'}" for kind in ("ed25519", "rsa")),
            f"AuthorizedKeysFile {self._home / 'authorized_keys'}",
            f"AllowUsers {self.user}",
            "StrictModes no",
            "UsePAM no",
            "PidFile none",
            "LogLevel VERBOSE",
            *options,
        ]
        (self._home / "config").write_text("\n".join([*reversed(options), *lines, ""]))

    def _write_accounts(self) -> None:
        uid = owner().uid if owner().uid is not None else os.getuid()
        gid = owner().gid if owner().gid is not None else os.getgid()
        hashed = _run("openssl", "passwd", "-6", "-stdin", given=self.password).strip()
        accounts = {
            "passwd": f"root:x:0:0::/root:/bin/sh\nsshd:x:74:74::/run/sshd:/bin/false\n"
            f"{self.user}:x:{uid}:{gid}::/nonexistent:/bin/false\n",
            "group": f"root:x:0:\nsshd:x:74:\nusers:x:{gid}:\n",
            "hosts": f"{_HOST} {self.inner_host}\n",
            "shadow": f"{self.user}:{hashed}:19000:0:99999:7:::\n",
        }
        for name, text in accounts.items():
            (self._home / name).write_text(text)
            (self._home / name).chmod(0o600 if name == "shadow" else 0o644)


def _run(*command: str, given: str = "") -> str:
    return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout
