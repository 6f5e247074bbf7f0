"""A connection pooler in between: said plainly by every command, whatever it lets pass."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, config, failure
from integration_tests.support import connector
from integration_tests.support.binaries import owner
from integration_tests.support.connector import SOURCE
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

pytestmark = pytest.mark.debian

SETTINGS = """
[databases]
* = host={host} port={port} user={username} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
ignore_startup_parameters = {ignored}
"""


@contextlib.contextmanager
def pooled(database: Database, ignored: str) -> Iterator[dict[str, Any]]:
    """A configuration that goes through pgbouncer."""
    settings = config(database)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own_port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "pgbouncer.ini"
        file.write_text(SETTINGS.format(own_port=own_port, ignored=ignored, **settings))
        for path in (file.parent, file):
            owner().take(path)
        process = subprocess.Popen(
            ["pgbouncer", str(file)], stderr=subprocess.DEVNULL, user=owner().uid, group=owner().gid
        )
        try:
            wait_until(lambda: listens(own_port), 20, "pgbouncer listens")
            yield {**settings, "port": own_port}
        finally:
            process.terminate()
            process.wait(20)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.mark.parametrize("ignored", ["extra_float_digits", "options,extra_float_digits"])
def test_a_pooler_is_said_plainly(source_db, ignored):
    source_db.execute("create table t (id int primary key)")
    catalog = catalog_of(source_db)
    with pooled(source_db, ignored) as settings:
        status = connector.run(SOURCE, "check", config=settings).connection_status
        assert status["status"] == "FAILED"
        messages = [status["message"]]
        for command in ("discover", "read"):
            given = catalog if command == "read" else None
            error = failure(connector.run(SOURCE, command, config=settings, catalog=given))
            assert error["failure_type"] == "config_error"
            messages.append(error["message"])
    for message in messages:
        assert "A connection pooler (such as pgbouncer) stands between" in message
        assert "host and port of the server itself" in message
