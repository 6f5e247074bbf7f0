"""No secret of a configuration is in what a run prints, in the process list, or in a file that it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from integration_tests.connections.test_tunnel import KEYS, key_pair
from integration_tests.connections.trying import Json, read_config
from integration_tests.destination.writing import NEW, USERS, one, records, state, status
from integration_tests.source.reading import catalog_of
from integration_tests.support import connector
from integration_tests.support.certificates import Signed
from integration_tests.support.connector import DESTINATION, SOURCE, Outcome
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until
from integration_tests.support.sshd import Bastion
from integration_tests.support.tlsserver import TlsServer

pytestmark = pytest.mark.debian

KEY_PASSWORD = 'client-key\'s "password" ü'
PASSPHRASE = 'ssh-key\'s "passphrase" ü'


@pytest.fixture
def config(tls_server: TlsServer, tls_db: Database, bastion: Bastion) -> Json:
    """A configuration with every secret there is, that works."""
    private, public = key_pair(KEYS["ECDSA PKCS8"][0], "OpenSSH", PASSPHRASE)
    bastion.allow(public)
    client: Signed = tls_server.client("encrypted")
    texts = {
        "client_certificate": client.certificate,
        "client_key": client.encrypted(KEY_PASSWORD),
        "client_key_password": KEY_PASSWORD,
    }
    tunnel = bastion.tunnel(tunnel_method="SSH_KEY_AUTH", ssh_key=private, ssh_key_passphrase=PASSPHRASE)
    # The password of the SSH server is of no use then, and a secret all the same.
    return {**tls_server.config(tls_db, "verify-full", **texts), "tunnel_method": tunnel, "schema": "public"}


def secrets_of(config: Any, name: str = "") -> Iterator[str]:
    """Every secret in it, and every line of its PEM texts."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from secrets_of(value, key)
    elif name in {"password", "ssh_key_passphrase", "client_key_password", "tunnel_user_password"}:
        yield config
    elif name in {"ca_certificate", "client_certificate", "client_key", "ssh_key"}:
        yield from (line for line in config.splitlines() if line and not line.startswith("-----"))


def expect_none_of(secrets: list[str], *places: str) -> None:
    for secret in secrets:
        for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
            for place in places:
                assert form not in place


def said_by(outcome: Outcome) -> str:
    return b"".join(outcome.lines).decode() + outcome.stderr


def shown_by(pid: int) -> str:
    """What anybody (or the same user) sees of a process and its children from outside."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(processes) >= 2  # the connector, and its tunnel
    files = [Path(f"/proc/{process.pid}/{name}") for process in processes for name in ("cmdline", "environ")]
    return "".join(file.read_bytes().decode(errors="replace") for file in files)


def left_in(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


@pytest.mark.parametrize("end", ["success", "failure", "SIGTERM", "SIGKILL"])
def test_a_sync_of_the_source(config, tls_db, bastion, tmp_path, end):
    tls_db.execute("create table t (id int primary key, v text)")
    tls_db.execute("insert into t select i, repeat('x', 5000) from generate_series(1, 20000) i")
    whole = read_config(config, tls_db, max_db_connections=2, snapshot_part_pages=100)
    secrets = list(secrets_of(whole))
    assert len(secrets) > 20
    given: Json = {"environment": {"TMPDIR": str(tmp_path)}, "arguments": ["--debug"]}
    with connector.start(SOURCE, "read", config=whole, catalog=catalog_of(tls_db), held=True, **given) as sync:
        wait_until(lambda: bastion.is_used and len(psutil.Process(sync.pid).children()) == 3, 60, "it reads")
        shown = shown_by(sync.pid)
        # Not even while it runs: keys are in files without a name.
        assert left_in(tmp_path) == []
        if end == "failure":
            bastion.kill()
        elif end == "SIGTERM":
            sync.terminate()
        elif end == "SIGKILL":
            sync.kill()
        outcome = sync.finish()
    assert outcome.exit_code == {"success": 0, "failure": 1, "SIGTERM": 143, "SIGKILL": -9}[end], outcome
    assert (outcome.error is not None) == (end == "failure")
    assert left_in(tmp_path) == []
    expect_none_of(secrets, said_by(outcome), shown)


@pytest.mark.parametrize("end", ["success", "failure"])
def test_a_sync_of_the_destination(config, bastion, tmp_path, end):
    given: Json = {"environment": {"TMPDIR": str(tmp_path)}, "arguments": ["--debug"]}
    with connector.start(DESTINATION, "write", config={**config, "flush_rows": 1}, catalog=one(USERS), **given) as sync:
        sync.write(records(NEW) + state(1))
        sync.wait_for(lambda message: message["type"] == "STATE")
        shown = shown_by(sync.pid)
        if end == "failure":
            bastion.kill()
        sync.write(records(NEW) + state(2) + status())
        outcome = sync.finish()
    assert outcome.exit_code == (1 if end == "failure" else 0), outcome
    assert left_in(tmp_path) == []
    expect_none_of(list(secrets_of(config)), said_by(outcome), shown)


@pytest.mark.parametrize(
    "wrong",
    [
        {"password": "wrong-password-1"},
        {"password": 4711471147114711},
        {"ssl_mode": {"mode": "verify-full", "ca_certificate": "wrong-certificate-1"}},
        {"ssl_mode": {"client_key_password": "wrong-key-password-2"}},
        {
            "tunnel_method": {
                "ssh_key": "-----BEGIN RSA PRIVATE KEY-----\nd3Jvbmcta2V5LTEyMzQ1Njc4\n-----END RSA PRIVATE KEY-----"
            }
        },
        {"tunnel_method": {"ssh_key_passphrase": "wrong-passphrase-2"}},
        {"tunnel_method": {"tunnel_method": "SSH_PASSWORD_AUTH", "tunnel_user_password": "wrong-password-3"}},
        {"jdbc_url_params": "password=wrong-password-4"},
        {"jdbc_url_params": "connectTimeout=wrong-value-5"},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_configurations_that_fail(config, tmp_path, wrong):
    mixed = {key: {**config[key], **value} if isinstance(value, dict) else value for key, value in wrong.items()}
    failing = {**config, **mixed}
    given: Json = {"environment": {"TMPDIR": str(tmp_path)}, "arguments": ["--debug"]}
    secrets = [*secrets_of(config), *map(str, secrets_of(failing)), "wrong-password-4", "wrong-value-5"]
    found = connector.run(SOURCE, "discover", config=failing, **given)
    assert found.error is not None
    checked = connector.run(DESTINATION, "check", config=failing, **given)
    assert checked.connection_status["status"] == "FAILED"
    expect_none_of(secrets, said_by(found), said_by(checked))
    assert left_in(tmp_path) == []
