"""From a catalog to a configured catalog, and the generations that go into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airbyte_pg.configure import configure, refreshable
from airbyte_pg.errors import ConfigError, StreamName
from airbyte_pg.generations import Generations

KEYED = {
    "name": "users",
    "namespace": "public",
    "json_schema": {"properties": {"id": {"type": "integer"}}},
    "supported_sync_modes": ["full_refresh", "incremental"],
    "source_defined_primary_key": [["id"]],
    "default_cursor_field": ["_ab_cdc_lsn"],
}
KEYLESS = {"name": "log", "namespace": "public", "supported_sync_modes": ["full_refresh", "incremental"]}
VIEW = {**KEYED, "name": "view", "supported_sync_modes": ["full_refresh"]}


def configured(catalog: Any, state: Path) -> list[dict[str, Any]]:
    generations = Generations.beside(state)
    streams = configure(catalog if isinstance(catalog, bytes) else json.dumps(catalog).encode(), generations)["streams"]
    generations.save()
    assert isinstance(streams, list)
    return streams


def ids(stream: dict[str, Any]) -> tuple[int, int, int]:
    return stream["generation_id"], stream["minimum_generation_id"], stream["sync_id"]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def test_keyed_stream_is_followed_and_any_other_replaced(state: Path):
    users, log, view = configured({"streams": [KEYED, KEYLESS, VIEW]}, state)
    assert (users["sync_mode"], users["destination_sync_mode"]) == ("incremental", "append_dedup")
    assert (users["cursor_field"], users["primary_key"]) == (["_ab_cdc_lsn"], [["id"]])
    assert users["stream"] == KEYED
    for replaced in (log, view):
        assert (replaced["sync_mode"], replaced["destination_sync_mode"]) == ("full_refresh", "overwrite")


def test_generations_stay_where_rows_are_kept_and_rise_where_they_are_replaced(state: Path):
    for sync in (1, 2, 3):
        users, log = configured({"streams": [KEYED, KEYLESS]}, state)
        assert ids(users) == (1, 0, sync)
        assert ids(log) == (sync, sync, sync)


def test_generation_of_a_stream_that_was_away_is_not_forgotten(state: Path):
    configured({"streams": [KEYLESS]}, state)
    configured({"streams": [KEYED]}, state)
    assert ids(configured({"streams": [KEYLESS]}, state)[0]) == (2, 2, 3)


def test_configured_catalog_is_taken_as_it_is_with_nulls_filled(state: Path):
    given = {"stream": KEYED, "sync_mode": "incremental", "destination_sync_mode": "append", "extra": 1}
    own_ids = {"generation_id": 7, "minimum_generation_id": 7, "sync_id": 9}
    first, second = configured({"streams": [{**given, "generation_id": None}, {**given, **own_ids}]}, state)
    assert first == {**given, "generation_id": 1, "minimum_generation_id": 0, "sync_id": 1}
    assert second == {**given, **own_ids}


def test_what_discover_printed_is_a_catalog(state: Path):
    log = b'{"type":"LOG","log":{"level":"INFO","message":"x"}}\n'
    line = json.dumps({"type": "CATALOG", "catalog": {"streams": [KEYED]}}).encode()
    assert configured(log + line + b"\n", state)[0]["stream"] == KEYED
    assert configured(line, state)[0]["stream"] == KEYED


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"x", b'{"streams": 1}', b'{"streams":[{}]}', b'{"streams":[]}']
)
def test_anything_else_is_refused(state: Path, content: bytes):
    with pytest.raises(ConfigError):
        configured(content, state)


def test_damaged_generations_are_refused(state: Path):
    Generations.beside(state).save()
    path = next(state.parent.iterdir())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ConfigError, match="damaged"):
        Generations.beside(state)


def test_refresh_replaces_rows_until_a_sync_has_ended_well(state: Path):
    users, _ = configured({"streams": [KEYED, KEYLESS]}, state)
    assert ids(users) == (1, 0, 1)
    generations = Generations.beside(state)
    generations.refresh([StreamName("public", "users")])
    generations.save()
    for sync in (3, 4):
        users, log = configured({"streams": [KEYED, KEYLESS]}, state)
        assert ids(users) == (2, 2, sync)
    generations = Generations.beside(state)
    generations.end_well()
    generations.save()
    users, log = configured({"streams": [KEYED, KEYLESS]}, state)
    assert ids(users) == (2, 0, 6)
    assert ids(log) == (4, 4, 6)


def test_only_streams_with_generations_of_ours_can_be_refreshed(state: Path):
    generations = Generations.beside(state)
    catalog = json.dumps({"streams": [KEYED, KEYLESS]}).encode()
    assert refreshable(configure(catalog, generations), generations) == [StreamName("public", "users")]
    given = {"streams": [{"stream": KEYED, "sync_mode": "incremental", "generation_id": 5}]}
    generations = Generations.beside(state)
    assert refreshable(configure(json.dumps(given).encode(), generations), generations) == []


def test_without_generations_the_ids_stay_null():
    (stream,) = configure(json.dumps({"streams": [KEYED]}).encode(), None)["streams"]
    assert stream["destination_sync_mode"] == "append_dedup"
    assert "generation_id" not in stream
