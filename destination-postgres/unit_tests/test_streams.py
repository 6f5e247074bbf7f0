"""Plans: what cannot be written is refused before anything is."""

from __future__ import annotations

from typing import Any

import pytest

from airbyte_pg.catalog import AirbyteStream, ConfiguredStream
from airbyte_pg.errors import ConfigError
from destination_postgres.sqlgen import Dedup, Table
from destination_postgres.streams import StreamPlan, plan_streams

PROPERTIES = {
    "id": {"type": "integer"},
    "part 2": {"type": "string"},
    "_ab_cdc_lsn": {"type": "number"},
    "_ab_cdc_deleted_at": {"type": "string"},
}


def planned(*, namespace: str | None = "public", stream: dict[str, Any] | None = None, **configured: Any) -> StreamPlan:
    made = AirbyteStream("users", namespace, {"properties": PROPERTIES}, **(stream or {}))
    return plan_streams([ConfiguredStream(made, **configured)], "my default", "airbyte_internal", {})[0]


def test_dedup_takes_key_and_cursor_by_the_columns_names():
    plan = planned(destination_sync_mode="append_dedup", primary_key=[["id"], ["part 2"]], cursor_field=["id"])
    assert plan.dedup == Dedup(("id", "part_2"), "id", "_ab_cdc_deleted_at", (None, "hashtext"))
    assert plan.visible.tombstones is not None


def test_a_source_may_define_key_and_cursor():
    own = {
        "source_defined_primary_key": [["id"]],
        "source_defined_cursor": True,
        "default_cursor_field": ["_ab_cdc_lsn"],
    }
    plan = planned(destination_sync_mode="append_dedup", stream=own)
    assert plan.dedup == Dedup(("id",), "_ab_cdc_lsn", "_ab_cdc_deleted_at", (None,))
    suggested = {**own, "source_defined_cursor": False}
    plan = planned(destination_sync_mode="append_dedup", stream=suggested)
    assert plan.dedup is not None
    assert plan.dedup.cursor is None


def test_append_knows_no_key():
    plan = planned(destination_sync_mode="append", primary_key=[["id"]])
    assert plan.dedup is None
    assert plan.visible.tombstones is None


def test_tables():
    plan = planned(namespace=None)
    assert plan.namespace == "my default"
    assert plan.label == "users"
    assert plan.visible.raw == Table("airbyte_internal", "my_default_raw__stream_users")
    assert plan.visible.final == Table("my_default", "users")
    assert planned().label == "public.users"
    own = {plan.aside.raw.name, plan.aside.final.name, plan.staging.name}
    assert len(own) == 3
    assert all(name.startswith("_airbyte_pg_") for name in own)


@pytest.mark.parametrize(
    ("configured", "text"),
    [
        ({}, "needs a primary key"),
        ({"primary_key": [["id", "nested"]]}, "primary key must be a top-level column"),
        ({"primary_key": [["nowhere"]]}, "primary key is no column of the stream: nowhere"),
        ({"primary_key": [["id"]], "cursor_field": ["a", "b"]}, "cursor must be a top-level column"),
        ({"primary_key": [["id"]], "cursor_field": ["nowhere"]}, "cursor is no column of the stream: nowhere"),
    ],
)
def test_dedup_without_a_usable_key_is_refused(configured: dict[str, Any], text: str):
    with pytest.raises(ConfigError, match=text) as caught:
        planned(destination_sync_mode="append_dedup", **configured)
    assert caught.value.stream is not None


@pytest.mark.parametrize(("namespace", "name"), [("public", "a\0b"), ("\0", "a")])
def test_a_name_that_the_server_cannot_store_is_refused(namespace: str, name: str):
    stream = ConfiguredStream(AirbyteStream(name, namespace, {"properties": PROPERTIES}))
    with pytest.raises(ConfigError, match="NUL"):
        plan_streams([stream], "public", "airbyte_internal", {})


def test_an_empty_catalog_is_refused():
    with pytest.raises(ConfigError, match="no streams"):
        plan_streams([], "public", "airbyte_internal", {})
