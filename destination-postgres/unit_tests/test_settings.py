"""The configuration: both generations of Airbyte's are accepted; what cannot be honoured is refused."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import jsonschema
import pytest

from airbyte_pg.errors import ConfigError
from airbyte_pg.settings import parse_settings
from destination_postgres.settings import DestinationSettings
from destination_postgres.spec import connector_specification

CONFIG = {"host": "h", "port": 5432, "database": "d", "username": "u", "password": "p", "schema": "public"}

TUNNEL = {"tunnel_method": "SSH_KEY_AUTH", "tunnel_host": "h", "tunnel_user": "u", "ssh_key": "k"}


def settings(**more: Any) -> DestinationSettings:
    return parse_settings({**CONFIG, **more}, DestinationSettings)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"ssl": False, "ssl_mode": {"mode": "disable"}, "tunnel_method": {"tunnel_method": "NO_TUNNEL"}},
        {"raw_data_schema": "raw", "disable_type_dedupe": False, "drop_cascade": True, "jdbc_url_params": None},
        {"cdc_deletion_mode": "Hard delete", "unconstrained_number": False, "raw_retention": "typed"},
        {"disable_type_dedupe": True, "raw_retention": "keep"},
        {"tunnel_method": TUNNEL, "jdbc_url_params": "connectTimeout=10"},
        {"something_of_a_later_version": {"a": 1}},
    ],
)
def test_accepted(more: dict[str, Any]):
    settings(**more).refuse_unsupported()


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"disable_type_dedupe": True, "raw_retention": "none"}, "would lose every row"),
        ({"tunnel_method": TUNNEL, "host": "/var/run/postgresql"}, "does not lead to a Unix socket"),
        ({"tunnel_method": {"tunnel_method": "SSH_KEY_AUTH"}}, "tunnel_method.SSH_KEY_AUTH.tunnel_host"),
    ],
)
def test_what_cannot_be_honoured_is_refused(more: dict[str, Any], text: str):
    with pytest.raises(ConfigError, match=text):
        settings(**more).refuse_unsupported()


@pytest.mark.parametrize("more", [{"database": ""}, {"database": None}])
def test_the_database_is_the_users_by_default(more: dict[str, Any]):
    assert settings(**more).database == "u"


@pytest.mark.parametrize(
    ("schema", "names"),
    [("public", ["public"]), ("a, b ,c", ["a", "b", "c"]), ("", ["public"]), (" , ", ["public"])],
)
def test_of_several_schemas_the_first_is_the_default(schema: str, names: list[str]):
    found = settings(schema=schema)
    assert found.schema_names == names
    assert found.default_schema == names[0]


def test_spec_json_is_what_the_settings_say():
    document = resources.files("destination_postgres").joinpath("spec.json").read_text()
    assert json.loads(document) == connector_specification()


def test_spec_is_a_schema_that_takes_our_configuration():
    specification = connector_specification()
    schema = specification["connectionSpecification"]
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(CONFIG, schema)
    assert schema["required"] == ["host", "port", "username", "schema"]
    assert schema["properties"]["password"]["airbyte_secret"] is True
    assert specification["supported_destination_sync_modes"] == ["overwrite", "append", "append_dedup"]
    assert "$ref" not in json.dumps(schema)
    orders = [shown["order"] for shown in schema["properties"].values()]
    assert orders == list(range(len(orders)))
