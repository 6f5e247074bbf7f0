"""A server with TLS, an SSH server in front of it, and databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration_tests.support.databases import Database
from integration_tests.support.sshd import Bastion
from integration_tests.support.tlsserver import TlsServer


@pytest.fixture(scope="session")
def tls_server() -> Iterator[TlsServer]:
    """Debian's PostgreSQL with TLS."""
    with TlsServer() as server:
        yield server


@pytest.fixture
def tls_db(tls_server: TlsServer) -> Iterator[Database]:
    """A fresh database of it."""
    with Database(tls_server.cluster) as database:
        yield database


@pytest.fixture(scope="session")
def shared_bastion() -> Iterator[Bastion]:
    """Debian's OpenSSH server."""
    with Bastion() as bastion:
        yield bastion


@pytest.fixture
def bastion(shared_bastion: Bastion) -> Iterator[Bastion]:
    """The same, as it was at first, whatever a test did to it."""
    yield shared_bastion
    shared_bastion.kill()
    shared_bastion.start()
