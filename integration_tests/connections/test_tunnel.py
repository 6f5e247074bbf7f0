"""SSH tunnels: every way to log in, all connections of both connectors, and what becomes of them when one dies."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from integration_tests.connections.trying import expect, failures, read, read_config, write
from integration_tests.destination.writing import USERS, one, record, state, status
from integration_tests.source.reading import TRANSPORTS, catalog_of, failure, last_state
from integration_tests.support import connector
from integration_tests.support.certificates import private_text
from integration_tests.support.connector import DESTINATION, SOURCE
from integration_tests.support.pgserver import wait_until
from integration_tests.support.sshd import Bastion

pytestmark = pytest.mark.debian

PASSPHRASE = 'it\'s \\ a "key" ü'
ROWS = 20_000


def key_pair(key: Any, form: str, passphrase: str | None = None) -> tuple[str, str]:
    """The private half as text, the public one as authorized_keys has it."""
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private_text(key, form, passphrase), public.decode()


KEYS: dict[str, tuple[Any, str, str | None]] = {
    "RSA PEM": (rsa.generate_private_key(65537, 2048), "TraditionalOpenSSL", None),
    "RSA OpenSSH": (rsa.generate_private_key(65537, 2048), "OpenSSH", None),
    "ECDSA PKCS8": (ec.generate_private_key(ec.SECP256R1()), "PKCS8", PASSPHRASE),
    "ECDSA PEM": (ec.generate_private_key(ec.SECP384R1()), "TraditionalOpenSSL", None),
    "Ed25519 OpenSSH": (ed25519.Ed25519PrivateKey.generate(), "OpenSSH", PASSPHRASE),
    "Ed25519 PKCS8": (ed25519.Ed25519PrivateKey.generate(), "PKCS8", None),
}
SPELLINGS: dict[str, Callable[[str], str]] = {
    "RSA PEM": lambda text: text.replace("\n", "\\n"),
    "RSA OpenSSH": lambda text: base64.b64encode(text.encode()).decode(),
    "ECDSA PKCS8": lambda text: text.replace("\n", "\r\n"),
    "Ed25519 OpenSSH": lambda text: base64.encodebytes(text.encode()).decode(),
}


@pytest.mark.parametrize("name", KEYS)
def test_every_kind_of_key_logs_in(source_db, bastion, name):
    key, form, passphrase = KEYS[name]
    private, public = key_pair(key, form, passphrase)
    bastion.allow(public)
    method = {
        "tunnel_method": "SSH_KEY_AUTH",
        "ssh_key": SPELLINGS.get(name, str)(private),
        **({"ssh_key_passphrase": passphrase} if passphrase else {}),
    }
    assert failures(source_db.config(tunnel_method=bastion.tunnel(**method))) == []
    assert "Accepted publickey for traveller" in bastion.log


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_all_connections_of_a_sync_go_through_the_tunnel(source_db, bastion, transport):
    tables = "create table t (id int primary key, v text); create table u (id int primary key)"
    source_db.execute(tables)
    source_db.execute("insert into t select i, repeat('x', 50) from generate_series(1, 5000) i")
    method = {
        "transport": transport,
        "max_db_connections": 2,
        "snapshot_part_pages": 7,
        "heartbeat_action_query": "select pg_logical_emit_message(true, 'heartbeat', '')",
    }
    config = source_db.config(tunnel_method=bastion.tunnel(), host=bastion.inner_host)
    before = logins(bastion)
    first = read(config, source_db, **method)
    assert len(first.records("t")) == 5000
    source_db.execute("insert into u select generate_series(1, 30)")
    second = read(config, source_db, state=first, **method)
    assert len(second.records("u")) == 30
    # One session for each process, whatever number of connections it makes: two times discover and read.
    assert logins(bastion) - before == 4
    assert any("is SHA256:" in log["message"] for log in first.logs)


def test_the_destination_writes_through_the_tunnel(destination_db, bastion):
    write(destination_db.config(tunnel_method=bastion.tunnel(), host=bastion.inner_host), destination_db)


def test_tls_within_the_tunnel_is_with_the_database_s_own_name(tls_server, tls_db, bastion):
    tunnel = {"tunnel_method": bastion.tunnel()}
    # A name that nobody here knows.
    config = {**tls_server.config(tls_db, "verify-full"), **tunnel, "host": bastion.inner_host}
    tls_db.execute("create table t (id int primary key); insert into t values (1)")
    seen = len(tls_server.cluster.log)
    read(config, tls_db)
    write(config, tls_db)
    for name in ("source-postgres-cdc", "destination-postgres"):
        assert all("SSL enabled" in session for session in tls_server.sessions(name, seen))
    expect(failures({**config, "host": "127.0.0.1"}), "The server's certificate is for another host name.")


def test_a_host_key_that_is_pinned(source_db, bastion):
    for kind in ("ed25519", "rsa"):
        both = {"tunnel_host_key": f"# our bastion\n[{bastion.host}]:{bastion.port} {bastion.host_key(kind)}"}
        assert failures(source_db.config(tunnel_method=bastion.tunnel(**both))) == []
    fingerprints = {"tunnel_host_key": f"256 {bastion.fingerprint()} old\n3072 SHA256:{'A' * 43} new"}
    assert failures(source_db.config(tunnel_method=bastion.tunnel(**fingerprints))) == []
    for pinned in (
        f"SHA256:{'A' * 43}",
        key_pair(*KEYS["RSA OpenSSH"][:2])[1],
        key_pair(*KEYS["Ed25519 PKCS8"][:2])[1],
    ):
        said = failures(source_db.config(tunnel_method=bastion.tunnel(tunnel_host_key=pinned)))
        expect(said, "The SSH server's host key is not the one in tunnel_host_key: it shows ")
        assert all("otherwise somebody stands between" in message for message in said)


NOBODY = {"tunnel_user": "nobody-of-this-name"}
LOGINS: list[tuple[dict[str, Any], str]] = [
    ({"tunnel_user_password": "not this one"}, "The SSH server refused user and password. Check tunnel_user and"),
    (NOBODY, "The SSH server refused user and password. Check tunnel_user and"),
    ({"tunnel_host": "no-such-host.invalid"}, "The name of the SSH server (tunnel_host) is unknown. Check it."),
    ({"tunnel_port": 1}, "Nothing listens at tunnel_host and tunnel_port. Check both"),
    ({"tunnel_host_key": "garbage"}, "tunnel_host_key is neither a public key nor a fingerprint. Give a line of"),
    (
        {"tunnel_method": "SSH_KEY_AUTH", "ssh_key": key_pair(*KEYS["ECDSA PEM"])[0]},
        "The SSH server refused user and key. Check tunnel_user, and that the public half of ssh_key",
    ),
    (
        {"tunnel_method": "SSH_KEY_AUTH", "ssh_key": "garbage"},
        "ssh_key is no private key. Give an RSA, ECDSA or Ed25519 key",
    ),
    (
        {"tunnel_method": "SSH_KEY_AUTH", "ssh_key": key_pair(*KEYS["Ed25519 OpenSSH"])[0]},
        "ssh_key has a passphrase, and none is configured. Give ssh_key_passphrase.",
    ),
    (
        {
            "tunnel_method": "SSH_KEY_AUTH",
            "ssh_key": key_pair(*KEYS["Ed25519 OpenSSH"])[0],
            "ssh_key_passphrase": "not this one",
        },
        "ssh_key cannot be read with this passphrase. Check ssh_key_passphrase and ssh_key.",
    ),
]


@pytest.mark.parametrize(("wrong", "words"), LOGINS, ids=[words[:40] for _, words in LOGINS])
def test_why_the_tunnel_is_not_made(source_db, wrong, words):
    # Of its own: no key is allowed here.
    with Bastion() as bastion:
        expect(failures(source_db.config(tunnel_method=bastion.tunnel(**wrong))), words)


def test_what_the_ssh_server_does_not_do_for_us(source_db, bastion):
    config = source_db.config(tunnel_method=bastion.tunnel())
    unreachable = (
        "The SSH server cannot connect to the database's host and port. Check host and port as seen from there"
    )
    expect(failures({**config, "port": 1}), unreachable)
    expect(failures({**config, "host": "no-such-host.invalid"}), unreachable)
    expect(failures({**config, "password": "not this one"}), "The server refused user name or password.")
    expect(failures({**config, "database": "not_this_one"}), "The database does not exist.")
    server = bastion.tunnel(tunnel_port=source_db.server.port)
    expect(
        failures({**config, "tunnel_method": server}), "What answers at tunnel_host and tunnel_port does not speak SSH"
    )
    bastion.kill()
    bastion.start("AllowTcpForwarding no")
    expect(failures(config), "The SSH server does not allow connections to the database's host and port to be led")
    bastion.kill()
    bastion.start("PasswordAuthentication no", "KbdInteractiveAuthentication no")
    expect(failures(config), "The SSH server does not allow this way to log in, only publickey. Choose the other")


def filled(database: Any) -> None:
    database.execute("create table t (id int primary key, v text)")
    database.execute(f"insert into t select i, repeat('x', 5000) from generate_series(1, {ROWS}) i")


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_source_whose_tunnel_dies_says_so_and_goes_on_in_the_next_sync(source_db, bastion, how):
    filled(source_db)
    config = read_config(source_db.config(tunnel_method=bastion.tunnel()), source_db)
    catalog = catalog_of(source_db)
    with connector.start(SOURCE, "read", config=config, catalog=catalog) as sync:
        sync.wait_for(lambda message: message.get("type") == "RECORD")
        getattr(bastion, how)()
        outcome = sync.finish()
    error = failure(outcome)
    assert error["failure_type"] == "transient_error"
    assert error["message"].startswith("The SSH tunnel broke")
    assert outcome.statuses["t"][-1] == "INCOMPLETE"
    bastion.kill()
    bastion.start()
    state = [last_state(outcome)] if outcome.states else None
    again = connector.run(SOURCE, "read", config=config, catalog=catalog, state=state)
    assert again.exit_code == 0, again
    assert {row["id"] for row in outcome.records() + again.records()} == set(range(1, ROWS + 1))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_tunnel_that_dies_while_changes_are_read(source_db, bastion, transport):
    source_db.execute("create table t (id int primary key, v text)")
    direct = read(source_db.config(), source_db)
    source_db.execute(f"insert into t select i, repeat('x', 5000) from generate_series(1, {ROWS}) i")
    config = read_config(source_db.config(tunnel_method=bastion.tunnel()), source_db, transport=transport)
    state = [last_state(direct)]
    with connector.start(SOURCE, "read", config=config, catalog=catalog_of(source_db), state=state) as sync:
        sync.wait_for(lambda message: message.get("type") == "RECORD")
        bastion.kill()
        outcome = sync.finish()
    assert failure(outcome)["failure_type"] == "transient_error"
    assert failure(outcome)["message"].startswith("The SSH tunnel broke")
    bastion.start()
    again = connector.run(SOURCE, "read", config=config, catalog=catalog_of(source_db), state=state)
    assert again.exit_code == 0, again
    assert len(again.records()) == ROWS


def test_a_destination_whose_tunnel_dies_acknowledges_what_is_committed(destination_db, bastion):
    config = destination_db.config(schema="public", tunnel_method=bastion.tunnel(), flush_rows=10)
    with connector.start(DESTINATION, "write", config=config, catalog=one(USERS)) as sync:
        for number in range(20):
            sync.write(record({"id": number, "name": "x"}))
        sync.write(state(1))
        sync.wait_for(lambda message: message["type"] == "STATE")
        bastion.kill()
        for number in range(20, 40):
            sync.write(record({"id": number, "name": "x"}))
        sync.write(state(2) + status())
        outcome = sync.finish()
    assert failure(outcome)["failure_type"] == "transient_error"
    assert failure(outcome)["message"].startswith("The SSH tunnel broke")
    assert len(outcome.states) == 1
    assert destination_db.value("select count(*) from public.users") == 20


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_the_tunnel_ends_with_the_connector(source_db, bastion, how):
    filled(source_db)
    config = read_config(source_db.config(tunnel_method=bastion.tunnel()), source_db, max_db_connections=2)
    with connector.start(SOURCE, "read", config=config, catalog=catalog_of(source_db), held=True) as sync:
        wait_until(lambda: bastion.is_used, 20, "the tunnel is made")
        children = psutil.Process(sync.pid).children(recursive=True)
        assert any("airbyte_pg.forwarder" in child.cmdline() for child in children)
        getattr(sync, how)()
        outcome = sync.finish()
    assert outcome.exit_code == (143 if how == "terminate" else -9), outcome
    wait_until(lambda: not any(map(lives, children)), 20, "no process is left")
    wait_until(lambda: not bastion.is_used, 20, "no session is left")


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def logins(bastion: Bastion) -> int:
    return int(bastion.log.count("Accepted password for traveller"))
