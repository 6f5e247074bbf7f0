"""Addresses and names of every kind, odd passwords, and servers that are not there yet."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2 import sql

from integration_tests.connections.trying import expect, failures, read, write
from integration_tests.source.reading import catalog_of, config, failure
from integration_tests.support import connector
from integration_tests.support.binaries import open_directory
from integration_tests.support.connector import DESTINATION, SOURCE
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Cluster, Path]]:
    """A server that listens in every way, and the directory of its socket.

    Its user `hurried` has timeouts that must not reach our sessions.
    """
    directory = open_directory("s-")
    also = "::1" if has_ipv6() else ""
    with Cluster(embedded(16), also_listens=also, socket_directory=directory) as cluster:
        with contextlib.closing(cluster.connect()) as session, session.cursor() as cursor:
            cursor.execute("create role hurried superuser login replication password 'p'")
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                cursor.execute(f"alter role hurried set {name} = '1ms'")
        yield cluster, directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("kind", ["IPv4", "IPv6", "brackets", "socket"])
def test_every_kind_of_address(server, kind):
    cluster, directory = server
    host = {"IPv4": "127.0.0.1", "IPv6": "::1", "brackets": " [::1] ", "socket": str(directory)}[kind]
    if "::1" in host and not has_ipv6():
        pytest.skip("no IPv6 here")
    with Database(cluster) as database:
        database.execute("create table t (id int primary key); insert into t select generate_series(1, 100)")
        where = {**database.config(), "host": host, "username": "hurried", "password": "p"}
        assert len(read(where, database).records("t")) == 100
        write(where, database)


def test_there_is_no_socket(source_db):
    expect(
        failures({**source_db.config(), "host": "/nonexistent"}),
        "There is no Unix socket of a server in this directory for this port. Check host and",
    )


@pytest.mark.parametrize(
    "password", ["it's", '"quoted"', "back\\slash\\", " spaces ", "ünï €", "a=b&c%41", "p'w\\' \\\\", "{$HOME}`x`;#"]
)
def test_odd_passwords_and_names(source_db, password):
    role = f"odd 'user' \\ ü {source_db.name}"
    made = sql.SQL("create role {} superuser login replication password {}")
    source_db.execute(made.format(sql.Identifier(role), sql.Literal(password)))
    try:
        given = {**source_db.config(), "username": role, "password": password}
        assert failures(given) == []
        expect(failures({**given, "password": f"{password}x"}), "The server refused user name or password.")
    finally:
        source_db.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


def test_a_database_with_an_odd_name(source_cluster):
    with Database(source_cluster, name="odd 'name' \\ = ü & %41") as database:
        assert failures(database.config()) == []


def test_what_may_pass_soon_is_tried_again(source_db):
    source_db.execute("create table t (id int primary key)")
    role = f"one_{source_db.name}"
    source_db.execute(f"create role {role} superuser login password 'p' ")
    source_db.execute(f"alter database {source_db.name} connection limit 2")
    # Limits are not for superusers.
    source_db.execute(f"alter role {role} nosuperuser connection limit 1")
    given = {**config(source_db), "username": role, "password": "p"}
    with source_db.server.connect(source_db.name, user=role, password="p"):
        pass
    blocking = source_db.server.connect(source_db.name, user=role, password="p")
    with connector.start(DESTINATION, "check", config={**given, "schema": "public"}) as waiting:
        waiting.wait_for(lambda message: "Trying again" in str(message.get("log", "")))
        blocking.close()
        outcome = waiting.finish()
    # What the user may not do is another matter: it has come in.
    assert "free connection" not in outcome.connection_status.get("message", "")
    blocking = source_db.server.connect(source_db.name, user=role, password="p")
    error = failure(connector.run(SOURCE, "discover", config=given))
    blocking.close()
    assert error["failure_type"] == "transient_error"
    assert error["message"] == "The server has no free connection. Raise the limit or close others."
    source_db.execute(f"drop role {role}")


def test_a_server_that_does_not_answer(source_db):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        given = {**source_db.config(), "port": silent.getsockname()[1], "jdbc_url_params": "connectTimeout=2"}
        expect(failures(given), "The server did not answer in time or cannot be reached. Check host, port and")


def test_what_answers_is_no_server(source_db, tmp_path):
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = other.accept()
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    client.close()

        threading.Thread(target=greet, daemon=True).start()
        for mode in ("disable", "require"):
            given = {**source_db.config(), "port": other.getsockname()[1], "ssl_mode": {"mode": mode}}
            expect(failures(given), "What answers at host and port is no PostgreSQL server. Check both.")
    assert catalog_of(source_db) == {"streams": []}
