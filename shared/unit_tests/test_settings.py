"""What encrypts a connection: ``ssl``, ``ssl_mode``, strict mode, and what is left out. What may be a host."""

from __future__ import annotations

import pytest

from airbyte_pg.errors import ConfigError
from airbyte_pg.settings import ConnectionSettings, parse_settings
from airbyte_pg.strict import adapted

BASE = {"host": "h", "database": "d", "username": "u"}
PASSWORD_TUNNEL = {
    "tunnel_method": "SSH_PASSWORD_AUTH",
    "tunnel_host": "b",
    "tunnel_user": "u",
    "tunnel_user_password": "p",
}


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setenv("DEPLOYMENT_MODE", "cloud")


def settings(**more: object) -> ConnectionSettings:
    return parse_settings({**BASE, **more}, ConnectionSettings)


@pytest.mark.parametrize(
    ("more", "lenient", "in_strict_mode"),
    [
        ({}, "prefer", "require"),
        ({"ssl_mode": {}}, "prefer", "require"),
        ({"ssl_mode": {"mode": None}}, "prefer", "require"),
        ({"ssl": True}, "require", "require"),
        ({"ssl": False}, "prefer", "require"),
        ({"ssl": False, "ssl_mode": {"mode": "require"}}, "prefer", "require"),
        ({"ssl": True, "ssl_mode": {"mode": "allow"}}, "allow", "allow"),
        ({"ssl_mode": {"mode": "disable"}}, "disable", "disable"),
    ],
)
def test_which_mode_counts(more, lenient, in_strict_mode, monkeypatch):
    assert settings(**more).encryption.mode == lenient
    monkeypatch.setenv("DEPLOYMENT_MODE", "CLOUD")
    assert settings(**more).encryption.mode == in_strict_mode


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
@pytest.mark.parametrize("tunnel", [{}, {"tunnel_method": {"tunnel_method": "NO_TUNNEL"}}, {"tunnel_method": {}}])
@pytest.mark.usefixtures("strict")
def test_strict_mode_takes_no_unencrypted_connection(mode, tunnel):
    with pytest.raises(ConfigError, match="Unsecured connection not allowed") as caught:
        settings(ssl_mode={"mode": mode}, **tunnel).refuse_unsupported()
    for word in ("SSH Tunnel", "require", "verify-ca", "verify-full"):
        assert word in caught.value.remedy
    settings(ssl_mode={"mode": mode}, tunnel_method=PASSWORD_TUNNEL).refuse_unsupported()


@pytest.mark.parametrize("host", ["/var/run/postgresql", "@abstract", "db, /tmp"])
@pytest.mark.usefixtures("strict")
def test_strict_mode_takes_no_socket_which_libpq_does_not_encrypt(host):
    with pytest.raises(ConfigError, match="Unix socket"):
        settings(host=host, ssl_mode={"mode": "require"}).refuse_unsupported()


@pytest.mark.parametrize(
    ("given", "meant"), [("[::1]", "::1"), (" db.example \n", "db.example"), ("/run/pg", "/run/pg"), ("::1", "::1")]
)
def test_hosts(given, meant):
    assert settings(host=given).host == meant


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_whom_to_trust_must_be_said_where_it_counts(mode):
    with pytest.raises(ConfigError, match=f"{mode} needs ca_certificate"):
        settings(ssl_mode={"mode": mode}).refuse_unsupported()
    settings(ssl_mode={"mode": mode}, ssl=False).refuse_unsupported()


def test_the_specification_of_strict_mode(monkeypatch):
    ssl_mode = {"default": {"mode": "prefer"}, "oneOf": []}
    plain = {"connectionSpecification": {"properties": {"ssl": {}, "ssl_mode": ssl_mode, "host": {}}}}
    assert adapted(plain) == plain
    monkeypatch.setenv("DEPLOYMENT_MODE", "CLOUD")
    assert adapted(plain)["connectionSpecification"]["properties"] == {
        "ssl_mode": {"default": {"mode": "require"}, "oneOf": []},
        "host": {},
    }
