"""TLS in every mode, for both connectors and every connection of theirs; each cause of a failure by its name."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.connections.trying import expect, failures, read, write
from integration_tests.source.reading import TRANSPORTS
from integration_tests.support.certificates import Authority

pytestmark = pytest.mark.debian

PASSWORD = 'it\'s \\ a "key" ü'
# Which of the modes get an encrypted session of a server that offers it and leaves the choice to the client.
MODES = {"disable": 0, "allow": 0, "prefer": 1, "require": 1, "verify-ca": 1, "verify-full": 1}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_encrypts_what_it_should(tls_server, tls_db, mode):
    config = {**tls_server.config(tls_db, mode), "username": "postgres", "password": tls_server.cluster.password}
    tls_db.execute("create table t (id int primary key); insert into t values (1)")
    seen = len(tls_server.cluster.log)
    read(config, tls_db)
    write(config, tls_db)
    for connector in ("source-postgres-cdc", "destination-postgres"):
        sessions = tls_server.sessions(connector, seen)
        assert sessions
        assert [int("SSL enabled" in session) for session in sessions] == [MODES[mode]] * len(sessions)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_connection_is_encrypted_and_has_the_client_s_certificate(tls_server, tls_db, transport):
    client = tls_server.client()
    given = {"client_certificate": client.certificate, "client_key": client.key}
    # The server lets this user in with a certificate only.
    config = {**tls_server.config(tls_db, "verify-full", "certified", **given), "password": None}
    tls_db.execute("create table t (id int primary key); create table u (id int primary key)")
    tls_db.execute("insert into t select generate_series(1, 3000); insert into u values (1)")
    query = "select pg_logical_emit_message(true, 'heartbeat', '')"
    method = {"heartbeat_action_query": query, "transport": transport, "max_db_connections": 2}
    seen = len(tls_server.cluster.log)
    first = read(config, tls_db, snapshot_part_pages=3, **method)
    tls_db.execute("insert into u values (2)")
    read(config, tls_db, state=first, **method)
    sessions = tls_server.sessions("source-postgres-cdc", seen)
    assert len(sessions) > 4
    assert all("SSL enabled" in session for session in sessions)
    write(config, tls_db)


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\\n"], ids=["LF", "CRLF", "escaped"])
def test_keys_with_passwords_and_texts_with_odd_line_ends(tls_server, tls_db, form, line_end):
    client = tls_server.client()
    texts = {
        "ca_certificate": tls_server.authority.certificate,
        "client_certificate": client.certificate,
        "client_key": client.encrypted(PASSWORD, form),
    }
    given = {key: text.replace("\n", line_end) for key, text in texts.items()}
    config = tls_server.config(tls_db, "verify-full", "certified", **given, client_key_password=PASSWORD)
    assert failures(config) == []


def test_of_several_authorities_one_is_enough(tls_server, tls_db):
    both = Authority("another").certificate + tls_server.authority.certificate
    assert failures(tls_server.config(tls_db, "verify-full", ca_certificate=both)) == []


def test_a_server_that_wants_encryption_says_so(tls_server, tls_db):
    assert failures(tls_server.config(tls_db, "allow")) == []
    refused = "The server does not accept this user from this address"
    expect(failures(tls_server.config(tls_db, "disable")), f"{refused} without encryption. Choose ssl_mode require, or")
    expect(failures(tls_server.config(tls_db, "require", "unencrypted")), f"{refused}. See pg_hba.conf.")


NOT_TRUSTED = "The server's certificate is not trusted. Check ssl_mode.ca_certificate"
OTHER_NAME = "The server's certificate is for another host name. Give the host as the certificate has it"


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_server_that_is_not_the_one(tls_server, tls_db, mode):
    config = tls_server.config(tls_db, mode)
    expect(failures({**config, "ssl_mode": {"mode": mode, "ca_certificate": Authority().certificate}}), NOT_TRUSTED)
    # The certificate is for the name alone.
    by_address = failures({**config, "host": "127.0.0.1"})
    expect(by_address, OTHER_NAME if mode == "verify-full" else None)
    with tls_server.showing(tls_server.authority.sign("the server", "localhost", days=-1)):
        expect(failures(config), "The server's certificate, or its authority's, has expired or is not valid yet. Renew")
        expect(failures(tls_server.config(tls_db, "require")), None)
    with tls_server.showing(tls_server.authority.sign("the server", "db.example")):
        expect(failures(config), OTHER_NAME if mode == "verify-full" else None)
    with tls_server.showing(Authority("a stranger").sign("the server", "localhost")):
        expect(failures(config), NOT_TRUSTED)


def test_client_certificates_that_do_not_do(tls_server, tls_db):
    client, other = tls_server.client(), tls_server.client("somebody")
    stranger = Authority("a stranger").sign("certified")
    certificate, key = client.certificate, client.key
    locked = client.encrypted(PASSWORD)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "The server asks for a client certificate. Give client_certificate and client_key"),
        ({"client_certificate": certificate}, "ssl_mode has only one of client_certificate and client_key. Give both"),
        (
            {"client_certificate": other.certificate, "client_key": other.key},
            "The server does not take the client certificate for this user. Its common name (CN) must be",
        ),
        (
            {"client_certificate": stranger.certificate, "client_key": stranger.key},
            "The server does not trust the client certificate. It must be valid, and signed by",
        ),
        (
            {"client_certificate": certificate, "client_key": other.key},
            "ssl_mode.client_key is not the key of ssl_mode.client_certificate. Give the two",
        ),
        (
            {"client_certificate": certificate, "client_key": locked, "client_key_password": "not this one"},
            "ssl_mode.client_key cannot be read with this password. Check ssl_mode.client_key_password",
        ),
        (
            {"client_certificate": certificate, "client_key": locked},
            "ssl_mode.client_key has a password, and none is configured. Give ssl_mode.client_key_password",
        ),
        (
            {"client_certificate": certificate, "client_key": key.replace("MIG", "AAA", 1)},
            "ssl_mode.client_key is damaged or in a form that is not known: it cannot be read. Give the whole",
        ),
        (
            {"client_certificate": certificate[:27] + "AAAA" + certificate[31:], "client_key": key},
            "ssl_mode.client_certificate is damaged: it cannot be read. Give the whole",
        ),
        (
            {"client_certificate": key, "client_key": key},
            "ssl_mode.client_certificate is no certificate in PEM text. Give the whole text",
        ),
        ({"ca_certificate": "MIIC"}, "ssl_mode.ca_certificate is no certificate in PEM text. Give the whole text"),
    ]
    for given, words in cases:
        expect(failures(tls_server.config(tls_db, "verify-full", "certified", **given)), words)
