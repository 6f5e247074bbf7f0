"""Configurations of Airbyte's connectors are taken as they are; what cannot be honoured yet is said plainly."""

from __future__ import annotations

import pytest

from airbyte_pg.errors import ConfigError
from airbyte_pg.settings import parse_settings
from source_postgres_cdc.settings import SourceSettings

BASE = {"host": "h", "port": 5432, "database": "d", "username": "u", "password": "secret word"}


def given(**more: object) -> SourceSettings:
    return parse_settings({**BASE, **more}, SourceSettings)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"ssl_mode": {"mode": "require"}, "tunnel_method": {"tunnel_method": "NO_TUNNEL"}, "schemas": ["a", "B"]},
        {
            "replication_method": {
                "method": "CDC",
                "plugin": "pgoutput",
                "replication_slot": "s",
                "publication": "p",
                "initial_waiting_seconds": 300,
                "queue_size": 10000,
                "lsn_commit_behaviour": "While reading Data",
                "heartbeat_action_query": "select 1",
                "invalid_cdc_cursor_position_behavior": "Re-sync data",
                "initial_load_timeout_hours": 8,
                "debezium_shutdown_timeout_seconds": 60,
            },
            "check_privileges": True,
            "checkpoint_target_interval_seconds": 300,
            "max_db_connections": None,
            "ssl_mode": {"mode": None, "ca_certificate": None},
            "entra_service_principal_auth": False,
        },
    ],
)
def test_airbyte_configurations_are_accepted(more):
    settings = given(**more)
    settings.refuse_unsupported()
    assert "secret word" in set(settings.secrets())


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"replication_method": {"method": "Standard"}}, "CDC"),
        ({"replication_method": {"method": "Xmin"}}, "CDC"),
        ({"replication_method": {"method": "CDC", "plugin": "wal2json"}}, "pgoutput"),
        ({"tunnel_method": {"tunnel_method": "SSH_KEY_AUTH"}}, "tunnel"),
        ({"ssl_mode": {"ca_certificate": "x"}}, "mode must be one of"),
        ({"host": " "}, "a host is needed"),
        ({"ssl_mode": {"mode": "on"}}, "disable, allow, prefer, require, verify-ca, verify-full"),
        ({"tunnel_method": {"tunnel_method": "SSH"}}, "NO_TUNNEL, SSH_KEY_AUTH, SSH_PASSWORD_AUTH"),
        ({"replication_method": {"method": "cdc"}}, '{"method": "CDC"}'),
        ({"replication_method": {"method": "CDC", "plugin": "decoderbufs"}}, "pgoutput"),
        ({"replication_method": {"lsn_commit_behaviour": "Never"}}, "'After loading Data in the destination'"),
        ({"replication_method": {"invalid_cdc_cursor_position_behavior": "x"}}, "'Fail sync' or 'Re-sync data'"),
        ({"state_type": "legacy"}, "'global' or 'stream'"),
        ({"entra_service_principal_auth": True}, "password"),
        ({"jdbc_url_params": "currentSchema=a"}, "currentSchema"),
        ({"truncate_handling": "ignore"}, "'warn', 'fail' or 'propagate'"),
        ({"run_mode": "forever"}, "'batch' or 'continuous'"),
        ({"tables": "public.a b.c"}, "whitelist"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(more, word):
    with pytest.raises(ConfigError) as caught:
        given(**more).refuse_unsupported()
    assert word in caught.value.user_text


def test_our_options_are_taken_in_either_place_and_the_top_wins():
    for more in (
        {"failover": True, "state_type": "stream"},
        {"replication_method": {"failover": True, "state_type": "stream"}},
        {"failover": True, "state_type": "stream", "replication_method": {"failover": False, "state_type": "global"}},
    ):
        settings = given(**more)
        assert (settings.failover, settings.state_type) == (True, "stream")


def test_a_wrong_field_is_named_without_its_value():
    with pytest.raises(ConfigError, match="port") as caught:
        given(port="secret-port")
    assert "secret-port" not in caught.value.user_text
    assert caught.value.__cause__ is None
