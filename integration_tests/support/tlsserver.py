"""A server with TLS (Debian's) whose pg_hba.conf has a user for each way to be let in."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from integration_tests.support.binaries import debian, open_directory, owner
from integration_tests.support.certificates import Authority, Signed
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, wait_until
from integration_tests.support.sshd import Bastion

# The hosts that the server's certificate is for: the one that it is known by here, and behind a bastion.
NAME = "localhost"
_NAMES = (NAME, Bastion.inner_host)
# The tests' own user comes in anyhow; the others only as they are called.
_HBA = """
host      all  postgres     127.0.0.1/32  scram-sha-256
hostssl   all  encrypted    127.0.0.1/32  scram-sha-256
hostnossl all  unencrypted  127.0.0.1/32  scram-sha-256
hostssl   all  certified    127.0.0.1/32  cert
"""
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class TlsServer:
    """The server until the ``with`` block ends. ``authority`` signed its certificate, and signs those of clients."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.password = 'it\'s \\ "odd" & ü'
        self._home = open_directory("tls-server-")
        self._good = self.authority.sign("the server", *_NAMES)
        self.cluster = Cluster(
            debian(),
            settings={
                "ssl": "on",
                "ssl_ca_file": self._put("ca", self.authority.certificate),
                "ssl_cert_file": self._put("certificate", self._good.certificate),
                "ssl_key_file": self._put("key", self._good.key),
                "hba_file": self._put("hba", _HBA),
                "log_connections": "on",
            },
        )

    def __enter__(self) -> TlsServer:
        self.cluster.start()
        with contextlib.closing(self.connect()) as session, session.cursor() as cursor:
            for user in ("encrypted", "unencrypted", "certified"):
                made = sql.SQL("create role {} superuser login replication password {}")
                cursor.execute(made.format(sql.Identifier(user), sql.Literal(self.password)))
        return self

    def __exit__(self, *exc: object) -> None:
        self.cluster.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def connect(self) -> Connection:
        """A session of the tests' own."""
        return self.cluster.connect()

    def config(self, database: Database, mode: str, user: str = "encrypted", **more: Any) -> dict[str, Any]:
        """What a connector needs for ``database``; ``more`` is added to ``ssl_mode``."""
        ca = {"ca_certificate": self.authority.certificate} if mode.startswith("verify") else {}
        return {
            **database.config(),
            "host": NAME,
            "username": user,
            "password": self.password,
            "ssl_mode": {"mode": mode, **ca, **more},
        }

    def client(self, user: str = "certified") -> Signed:
        """A client's certificate."""
        return self.authority.sign(user)

    def sessions(self, application_name: str, seen: int = 0) -> list[str]:
        """How each session with this name was authorized, from position ``seen`` of the log on."""
        marks = "connection authorized:", f"application_name={application_name}"
        return [line for line in self.cluster.log[seen:].splitlines() if all(mark in line for mark in marks)]

    @contextlib.contextmanager
    def showing(self, signed: Signed) -> Iterator[None]:
        """The server shows another certificate until the end of the block."""
        self._show(signed)
        try:
            yield
        finally:
            self._show(self._good)

    def _show(self, signed: Signed) -> None:
        self._put("certificate", signed.certificate)
        self._put("key", signed.key)
        with contextlib.closing(self.connect()) as session, session.cursor() as cursor:
            cursor.execute("select pg_reload_conf()")
        wanted = ssl.PEM_cert_to_DER_cert(signed.certificate)
        wait_until(lambda: self._shown() == wanted, 20, "the server shows its new certificate")

    def _shown(self) -> bytes | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.create_connection((self.cluster.host, self.cluster.port), 10) as plain:
            plain.sendall(_SSL_REQUEST)
            assert plain.recv(1) == b"S"
            with context.wrap_socket(plain) as encrypted:
                return encrypted.getpeercert(binary_form=True)

    def _put(self, name: str, text: str) -> str:
        path = self._home / name
        path.write_text(text)
        path.chmod(0o600)
        owner().take(path)
        return str(path)
