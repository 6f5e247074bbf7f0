"""pgbouncer (Debian's package) in front of a server, in transaction mode."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from integration_tests.support.binaries import owner
from integration_tests.support.pgserver import wait_until

_SETTINGS = """
[databases]
* = host={host} port={port} user={username} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
ignore_startup_parameters = {ignored}
"""


@contextlib.contextmanager
def pooled(settings: dict[str, Any], ignored: str = "extra_float_digits") -> Iterator[dict[str, Any]]:
    """A connector's configuration like ``settings`` that goes through pgbouncer; ``ignored``: its
    ignore_startup_parameters."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own_port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "pgbouncer.ini"
        file.write_text(_SETTINGS.format(own_port=own_port, ignored=ignored, **settings))
        for path in (file.parent, file):
            owner().take(path)
        process = subprocess.Popen(
            ["pgbouncer", str(file)], stderr=subprocess.DEVNULL, user=owner().uid, group=owner().gid
        )
        try:
            wait_until(lambda: _listens(own_port), 20, "pgbouncer listens")
            yield {**settings, "port": own_port}
        finally:
            process.terminate()
            process.wait(20)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
