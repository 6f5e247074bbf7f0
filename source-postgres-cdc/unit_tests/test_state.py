"""The STATE: read in every shape that a runner keeps it in; never taken for a first sync when it cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airbyte_pg.errors import ConfigError, StreamName
from source_postgres_cdc import state
from source_postgres_cdc.state import SentColumn, State, StreamIdentity, StreamProgress

USERS = StreamName("public", "users")
ORDERS = StreamName("public", 'or"ders é')


def example(position: int = 0x1_0000_0010) -> State:
    users = StreamProgress(
        True, "10:20:12,15", 0x1_0000_0020, StreamIdentity(16390, 16400, {"id": SentColumn(23, -1, 1)})
    )
    progress = {USERS: users, ORDERS: StreamProgress(is_complete=False)}
    return State("slot", "7710262860117813849", 3, "my db", position, progress)


def payload(position: int = 0x1_0000_0010) -> dict[str, Any]:
    return example(position).render(5)


SHAPES: dict[str, Callable[[], object]] = {
    "array": lambda: [payload(1), payload()],
    "one object": payload,
    "a message": lambda: {"type": "STATE", "state": payload()},
    "an array of messages": lambda: [{"type": "STATE", "state": payload()}],
    "nulls everywhere": lambda: [{**payload(), "stream": None, "data": None}],
    "PyAirbyte's spelling": lambda: {"type": "GLOBAL", "global_": payload()["global"], "global": None},
    "with destination stats": lambda: {**payload(), "destinationStats": {"recordCount": 5.0}, "id": 17},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_state(tmp_path, shape):
    path = tmp_path / "state.json"
    path.write_text(json.dumps(SHAPES[shape]()))
    assert state.load(path, "my db", (USERS, ORDERS)) == example()


def test_output_lines_of_a_destination_the_last_wins(tmp_path):
    lines = [
        {"type": "LOG", "log": {"level": "INFO", "message": "x"}},
        {"type": "STATE", "state": payload(1)},
        {"type": "STATE", "state": payload()},
        {"type": "TRACE", "trace": {}},
    ]
    path = tmp_path / "out.jsonl"
    path.write_text("a word that is no JSON\n" + "".join(json.dumps(line) + "\n" for line in lines))
    assert state.load(path, "my db", (USERS, ORDERS)) == example()


@pytest.mark.parametrize("content", ["{}", "[]", "[{}]", '{"type":"LOG","log":{}}\n{"type":"TRACE","trace":{}}\n'])
def test_no_state_is_a_first_sync(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_text(content)
    assert state.load(path, "db", (USERS,)) is None
    assert state.load(None, "db", ()) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "  \n",
        "nonsense",
        "7",
        '[{"type":"GLOBAL"',
        '{"type":"STATE","state":\n',
        '{"type":"STREAM","stream":{"stream_descriptor":{"name":"users","namespace":"public"},"stream_state":{"x":1}}}',
        '{"data":{"cursor":1}}',
        '{"type":"GLOBAL","global":{"shared_state":{"state":{"x":"y"}},"stream_states":[]}}',
        '{"type":"GLOBAL","global":{"shared_state":{"state":{"[\\"db\\",{}]":"{}"}},"stream_states":[]}}',
        '{"type":"GLOBAL","global":{"shared_state":{"state":{"[\\"db\\",{}]":"{\\"lsn\\":0}"}},"stream_states":[]}}',
        '{"type":"UNKNOWN","x":1}',
        '{"type":"GLOBAL","global":{"shared_state":{"cdc":{"version":1,"slot":"s"}},"stream_states":[]}}',
        '{"type":"GLOBAL","global":{"shared_state":{"cdc":{"version":2}},"stream_states":[]}}',
    ],
)
def test_a_state_that_cannot_be_read_is_an_error(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(ConfigError):
        state.load(path, "db", (USERS,))


def test_a_missing_state_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError):
        state.load(tmp_path / "nothing.json", "db", ())


def test_completion_is_explicit(tmp_path):
    document = payload()
    users, orders = document["global"]["stream_states"]
    users["stream_state"] = None
    orders["stream_state"]["cdc"].pop("complete")
    path = tmp_path / "state.json"
    path.write_text(json.dumps(document))
    loaded = state.load(path, "my db", (USERS, ORDERS))
    assert loaded is not None
    # A refreshed stream leaves nothing out: its rows from before may still be at the destination.
    assert loaded.streams == {USERS: StreamProgress(is_complete=False), ORDERS: StreamProgress(is_complete=False)}


def test_the_snapshot_is_kept_until_the_position_has_passed_it():
    kept = payload(0x1_0000_001F)["global"]["stream_states"][0]["stream_state"]["cdc"]
    assert kept["snapshot"] == "10:20:12,15"
    passed = payload(0x1_0000_0020)["global"]["stream_states"][0]["stream_state"]["cdc"]
    assert "snapshot" not in passed


def test_the_debezium_offset_can_be_switched_back_to():
    offset = payload()["global"]["shared_state"]["state"]
    (key,) = offset
    assert json.loads(key) == ["my db", {"server": "my_db"}]
    assert json.loads(offset[key])["lsn_commit"] == 0x1_0000_0010
    assert payload()["sourceStats"] == {"recordCount": 5.0}


def stored(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "state.json"
    path.write_text(json.dumps(document))
    return path


def of_streams(*positions: tuple[StreamName, int]) -> list[dict[str, Any]]:
    return [example(position).render_stream(name, 3) for name, position in positions]


def test_a_state_per_stream_goes_on_from_the_lowest_position(tmp_path):
    assert of_streams((USERS, 1))[0]["sourceStats"] == {"recordCount": 3.0}
    path = stored(tmp_path, of_streams((USERS, 0x50), (ORDERS, 0x30), (USERS, 0x70)))
    loaded = state.load(path, "my db", (USERS, ORDERS))
    assert loaded is not None
    assert (loaded.lsn, loaded.furthest, loaded.timeline) == (0x30, 0x70, 3)
    users = loaded.streams[USERS]
    assert (users.position, users.is_complete, users.identity) == (0x70, True, example().streams[USERS].identity)
    # What is ahead stays ahead, in either type.
    assert loaded.render_stream(USERS, 0)["stream"]["stream_state"]["cdc"]["shared"]["lsn"] == "0/70"
    again = state.load(stored(tmp_path, loaded.render(0)), "my db", ())
    assert again is not None
    assert (again.lsn, again.streams[USERS].position, again.furthest) == (0x30, 0x70, 0x70)


def test_a_stream_that_is_not_configured_any_more_does_not_hold_the_position_back(tmp_path):
    path = stored(tmp_path, of_streams((USERS, 0x50), (ORDERS, 0x30)))
    loaded = state.load(path, "my db", (USERS,))
    assert loaded is not None
    assert (loaded.lsn, set(loaded.streams)) == (0x50, {USERS})
    assert state.load(path, "my db", (StreamName("public", "new"),)) is None


def test_a_refreshed_stream_among_states_per_stream_is_read_anew(tmp_path):
    documents = of_streams((USERS, 0x50), (ORDERS, 0x30))
    ways: tuple[dict[str, Any] | None, ...] = (None, {})
    for nothing in ways:
        documents[1]["stream"]["stream_state"] = nothing
        loaded = state.load(stored(tmp_path, documents), "my db", (USERS, ORDERS))
        assert loaded is not None
        assert loaded.lsn == 0x50
        assert loaded.streams[ORDERS] == StreamProgress(is_complete=False)


def test_the_kind_of_the_last_state_counts(tmp_path):
    per_stream = of_streams((USERS, 0x50))
    mixed = state.load(stored(tmp_path, [*per_stream, payload(0x20)]), "my db", (USERS, ORDERS))
    assert mixed is not None
    assert mixed.lsn == 0x20
    mixed = state.load(stored(tmp_path, [payload(0x20), *per_stream]), "my db", (USERS, ORDERS))
    assert mixed is not None
    assert (mixed.lsn, set(mixed.streams)) == (0x50, {USERS})
