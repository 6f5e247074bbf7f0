"""Strict mode: no command makes a connection that might not be encrypted."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.connections.trying import expect, failures, read, write
from integration_tests.destination.writing import NEW, USERS, one, records, status
from integration_tests.source.reading import catalog_of, config, failure
from integration_tests.support import connector
from integration_tests.support.connector import DESTINATION, SOURCE

STRICT = {"DEPLOYMENT_MODE": "CLOUD"}
REFUSED = "Unsecured connection not allowed"
NO_TUNNEL = {"tunnel_method": "NO_TUNNEL"}


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
@pytest.mark.parametrize("more", [{}, {"tunnel_method": NO_TUNNEL}, {"ssl": False}], ids=["absent", "none", "ssl"])
def test_every_command_refuses(source_db, destination_db, mode, more):
    source_db.execute("create table t (id int primary key); insert into t values (1)")
    given: dict[str, Any] = {"ssl_mode": {"mode": mode}, **more}
    source = config(source_db) | given
    destination = destination_db.config(schema="public") | given
    catalog = catalog_of(source_db)
    for name, configuration in ((SOURCE, source), (DESTINATION, destination)):
        said = connector.run(name, "check", config=configuration, environment=STRICT).connection_status
        assert said["status"] == "FAILED"
        assert said["message"].startswith(REFUSED)
        for remedy in ("SSH Tunnel", "require", "verify-ca", "verify-full"):
            assert remedy in said["message"]
    runs = [
        connector.run(SOURCE, "discover", config=source, environment=STRICT),
        connector.run(SOURCE, "read", config=source, catalog=catalog, environment=STRICT),
        connector.run(
            DESTINATION,
            "write",
            config=destination,
            catalog=one(USERS),
            stdin=records(NEW) + status(),
            environment=STRICT,
        ),
    ]
    for outcome in runs:
        assert failure(outcome)["failure_type"] == "config_error"
        assert failure(outcome)["message"].startswith(REFUSED)
    assert destination_db.rows("select 1 from pg_tables where schemaname = 'public'") == []


@pytest.mark.parametrize("more", [{}, {"ssl": False}, {"ssl_mode": {}}, {"ssl_mode": {"mode": "require"}}])
def test_tls_is_insisted_on_whatever_else_is_said(source_db, more):
    given = {key: value for key, value in source_db.config().items() if key != "ssl_mode"}
    expect(failures({**given, **more}, STRICT), "The server offers no TLS.")


def test_elsewhere_a_server_without_tls_will_do_where_nothing_is_said(source_db):
    given = {key: value for key, value in source_db.config().items() if key != "ssl_mode"}
    for more in ({}, {"ssl": False}, {"ssl_mode": {"mode": "prefer"}}):
        expect(failures({**given, **more}), None)
    expect(failures({**given, "ssl": True}), "The server offers no TLS. Choose ssl_mode prefer or disable.")


@pytest.mark.parametrize("name", [SOURCE, DESTINATION])
def test_the_specification_says_so(name):
    lenient = connector.run(name, "spec").spec["connectionSpecification"]["properties"]
    strict = connector.run(name, "spec", environment=STRICT).spec["connectionSpecification"]["properties"]
    assert strict["ssl_mode"]["default"] == {"mode": "require"}
    assert lenient["ssl_mode"]["default"] == {"mode": "prefer"}
    assert lenient.keys() - strict.keys() == {"ssl"}


@pytest.mark.debian
def test_what_is_encrypted_works(tls_server, tls_db, bastion):
    tls_db.execute("create table t (id int primary key); insert into t values (1)")
    drop_slot = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active"
    config = tls_server.config(tls_db, "require")
    tunnelled = {**tls_server.config(tls_db, "disable", "unencrypted"), "tunnel_method": bastion.tunnel()}
    absent = {key: value for key, value in config.items() if key != "ssl_mode"}
    for given in (config, absent, {**config, "ssl": False}, tunnelled):
        assert len(read(given, tls_db, environment=STRICT).records("t")) == 1
        write(given, tls_db, STRICT)
        # As it was at first.
        tls_db.execute(f"{drop_slot} and database = current_database(); drop table users")
