"""JDBC's parameters in libpq's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from airbyte_pg.errors import ConfigError
from airbyte_pg.jdbc import _KEYS, translate


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("", {}),
        ("connectTimeout=10", {"connect_timeout": "10"}),
        ("connectTimeout=0", {"connect_timeout": "0"}),
        ("connectTimeout=99999999999", {"connect_timeout": "2147483647"}),
        ("socketTimeout=30", {"tcp_user_timeout": "30000"}),
        ("?tcpKeepAlive=FALSE&ApplicationName=a%26b+c", {"keepalives": "0", "application_name": "a&b c"}),
        ("options=-c%20statement_timeout%3D5min", {"options": "-c statement_timeout=5min"}),
        ("targetServerType=preferSecondary", {"target_session_attrs": "prefer-standby"}),
        ("targetServerType=MASTER&", {"target_session_attrs": "primary"}),
        ("gssEncMode=disable&channelBinding=require", {"gssencmode": "disable", "channel_binding": "require"}),
        ("connectTimeout=1&connectTimeout=2", {"connect_timeout": "2"}),
        ("ApplicationName=%C3%BC", {"application_name": "ü"}),
    ],
)
def test_translated(text, parameters):
    translated = translate(text)
    assert translated.parameters == parameters
    assert translated.ignored == ()


@pytest.mark.parametrize(
    "key", ["currentSchema", "user", "password", "ssl", "sslmode", "SSLMode", "sslrootcert", "sslkey", "sslm%6fde"]
)
def test_reserved_keys_are_refused_by_name(key):
    with pytest.raises(ConfigError) as caught:
        translate(f"connectTimeout=1&{key}=secret")
    assert key.replace("%6f", "o") in caught.value.message
    assert "secret" not in caught.value.user_text


@pytest.mark.parametrize(
    "pair", ["connectTimeout=soon", "connectTimeout=-1", "connectTimeout=", "tcpKeepAlive=1", "targetServerType=any%20"]
)
def test_impossible_values_are_refused_by_name(pair):
    with pytest.raises(ConfigError) as caught:
        translate(pair)
    key, value = pair.split("=")
    assert key in caught.value.message
    assert not value or value not in caught.value.user_text


def test_what_has_no_meaning_here_is_told():
    translated = translate("prepareThreshold=0&connectTimeout=5&alone&reWriteBatchedInserts=true")
    assert translated.parameters == {"connect_timeout": "5"}
    assert translated.ignored == ("prepareThreshold", "alone", "reWriteBatchedInserts")


def test_the_documentation_has_every_key():
    text = (Path(__file__).parents[2] / "docs" / "connections.md").read_text()
    for key, (keyword, _) in _KEYS.items():
        assert f"| `{key}` | `{keyword}` |" in text
