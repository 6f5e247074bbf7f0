"""The specification: every key of Airbyte's connector and ours, forms for people, secrets marked, configs validated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import source_postgres_cdc
from airbyte_pg.settings import parse_settings
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.spec import connector_specification

FORM = connector_specification()["connectionSpecification"]
BASE = {"host": "h", "port": 5432, "database": "d", "username": "u", "password": "p"}
CDC = {"method": "CDC", "replication_slot": "s", "publication": "p"}

# Configurations as the two generations of Airbyte's connector save them, and the source seed's.
CONFIGS: dict[str, dict[str, Any]] = {
    "least": {},
    "legacy": {
        "schemas": ["public", "Other"],
        "jdbc_url_params": "",
        "ssl_mode": {"mode": "require"},
        "replication_method": {
            **CDC,
            "plugin": "pgoutput",
            "initial_waiting_seconds": 300,
            "queue_size": 10000,
            "lsn_commit_behaviour": "While reading Data",
            "heartbeat_action_query": "",
            "invalid_cdc_cursor_position_behavior": "Re-sync data",
            "initial_load_timeout_hours": 8,
        },
        "tunnel_method": {"tunnel_method": "NO_TUNNEL"},
    },
    "3.8": {
        "schemas": [],
        "entra_service_principal_auth": False,
        "ssl_mode": {"mode": "prefer", "an_unknown_key": 1},
        "replication_method": {**CDC, "debezium_shutdown_timeout_seconds": 60, "initial_waiting_seconds": 1200},
        "check_privileges": True,
        "checkpoint_target_interval_seconds": 300,
        "max_db_connections": 4,
    },
    "ancient": {"ssl": True, "replication_method": CDC},
    "ours": {
        "schema": "public",
        "tables": "public.users, orders",
        "initial_load": False,
        "replication_method": {"method": "CDC"},
        "special_values": "text",
    },
    "ssh key": {
        "tunnel_method": {
            "tunnel_method": "SSH_KEY_AUTH",
            "tunnel_host": "b",
            "tunnel_port": 22,
            "tunnel_user": "u",
            "ssh_key": "k",
            "ssh_connection_options": {"session_heartbeat_interval": 1000},
        }
    },
    "ssh password": {
        "tunnel_method": {
            "tunnel_method": "SSH_PASSWORD_AUTH",
            "tunnel_host": "b",
            "tunnel_port": 22,
            "tunnel_user": "u",
            "tunnel_user_password": "p",
        }
    },
    "verify": {
        "ssl_mode": {"mode": "verify-full", "ca_certificate": "c", "client_certificate": "c", "client_key": "k"}
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_real_configurations_are_valid_for_the_platform_and_for_us(name):
    config = {**BASE, **CONFIGS[name]}
    jsonschema.Draft7Validator(FORM).validate(config)
    parse_settings(config, SourceSettings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ssl_mode": {"mode": "sometimes"}},
        {"tunnel_method": {"tunnel_method": "SSH"}},
        {"replication_method": {"method": "Standard"}},
        {"replication_method": {**CDC, "plugin": "wal2json"}},
        {"port": "5432"},
    ],
)
def test_what_is_wrong_is_invalid_for_the_platform_too(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(FORM).validate({**BASE, **wrong})


def test_every_key_of_airbytes_connector_is_there():
    jsonschema.Draft7Validator.check_schema(FORM)
    top = "host port database schemas username password jdbc_url_params ssl_mode replication_method tunnel_method"
    later = "entra_service_principal_auth entra_tenant_id entra_client_id check_privileges"
    later += " checkpoint_target_interval_seconds max_db_connections"
    assert {*top.split(), *later.split(), "tables", "schema", "initial_load"} <= FORM["properties"].keys()
    assert FORM["required"] == ["host", "port", "database", "username"]
    (cdc,) = FORM["properties"]["replication_method"]["oneOf"]
    keys = "method plugin replication_slot publication initial_waiting_seconds queue_size lsn_commit_behaviour"
    keys += " heartbeat_action_query invalid_cdc_cursor_position_behavior initial_load_timeout_hours"
    assert {*keys.split(), "debezium_shutdown_timeout_seconds"} <= cdc["properties"].keys()
    assert cdc["required"] == ["method"]
    modes = [each["properties"]["mode"]["const"] for each in FORM["properties"]["ssl_mode"]["oneOf"]]
    assert modes == ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
    ways = [each["properties"]["tunnel_method"]["const"] for each in FORM["properties"]["tunnel_method"]["oneOf"]]
    assert ways == ["NO_TUNNEL", "SSH_KEY_AUTH", "SSH_PASSWORD_AUTH"]


def test_a_form_can_be_drawn_from_it():
    groups = [group["id"] for group in FORM["groups"]]
    assert groups == ["db", "auth", "security", "advanced", "performance"]
    for form in forms(FORM):
        shown = form["properties"]
        assert [field["order"] for field in shown.values()] == list(range(len(shown)))
        for name, field in shown.items():
            assert field["title"], name
            assert "const" in field or field["description"], name
            assert form is not FORM or field["group"] in groups, name


def test_secrets_are_marked_and_known_to_us():
    marked = {name for form in forms(FORM) for name, field in form["properties"].items() if field.get("airbyte_secret")}
    tls = {"ca_certificate", "client_certificate", "client_key", "client_key_password"}
    assert marked == {"password", "ssh_key", "ssh_key_passphrase", "tunnel_user_password", *tls}
    config = {
        **BASE,
        "password": "secret 1",
        # A certificate that the mode has no use for.
        "ssl_mode": {"mode": "require", "client_key": "secret 2"},
        "tunnel_method": {**CONFIGS["ssh key"]["tunnel_method"], "ssh_key": "secret 3"},
    }
    assert sorted(parse_settings(config, SourceSettings).secrets()) == ["secret 1", "secret 2", "secret 3"]


def test_the_file_is_what_the_models_say():
    file = Path(source_postgres_cdc.__file__).with_name("spec.json")
    assert json.loads(file.read_text()) == connector_specification()


def test_the_readme_names_every_key():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    hidden = {
        "snapshot_part_pages",
        "acknowledge_seconds",
        "entra_tenant_id",
        "entra_client_id",
        "entra_service_principal_auth",
    }
    (cdc,) = FORM["properties"]["replication_method"]["oneOf"]
    for name in {*FORM["properties"], *cdc["properties"]} - hidden - {"method"}:
        assert name in readme, name


def forms(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The form itself, and those of the choices in it."""
    inner = [choice for field in schema["properties"].values() for choice in field.get("oneOf", [])]
    return [schema, *(form for choice in inner for form in forms(choice))]
