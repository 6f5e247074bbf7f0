"""The STATE: read in every shape that a runner keeps it in; never taken for a first sync when it cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airbyte_pg.errors import ConfigError, StreamName
from source_postgres_cdc import state
from source_postgres_cdc.state import State, StreamIdentity, StreamProgress

USERS = StreamName("public", "users")
ORDERS = StreamName("public", 'or"ders é')


def example(position: int = 0x1_0000_0010) -> State:
    users = StreamProgress(True, "10:20:12,15", 0x1_0000_0020, StreamIdentity(16390, 16400, {"id": 23}))
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
    assert state.load(path, "my db") == example()


def test_output_lines_of_a_destination_the_last_wins(tmp_path):
    lines = [
        {"type": "LOG", "log": {"level": "INFO", "message": "x"}},
        {"type": "STATE", "state": payload(1)},
        {"type": "STATE", "state": payload()},
        {"type": "TRACE", "trace": {}},
    ]
    path = tmp_path / "out.jsonl"
    path.write_text("a word that is no JSON\n" + "".join(json.dumps(line) + "\n" for line in lines))
    assert state.load(path, "my db") == example()


@pytest.mark.parametrize("content", ["{}", "[]", "[{}]", '{"type":"LOG","log":{}}\n{"type":"TRACE","trace":{}}\n'])
def test_no_state_is_a_first_sync(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_text(content)
    assert state.load(path, "db") is None
    assert state.load(None, "db") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "  \n",
        "nonsense",
        "7",
        '[{"type":"GLOBAL"',
        '{"type":"STATE","state":\n',
        '{"type":"STREAM","stream":{"stream_descriptor":{"name":"a"},"stream_state":{"x":1}}}',
        '{"data":{"cursor":1}}',
        '{"type":"GLOBAL","global":{"shared_state":{"state":{"x":"y"}},"stream_states":[]}}',
        '{"type":"GLOBAL","global":{"shared_state":{"cdc":{"version":1,"slot":"s"}},"stream_states":[]}}',
        '{"type":"GLOBAL","global":{"shared_state":{"cdc":{"version":2}},"stream_states":[]}}',
    ],
)
def test_a_state_that_cannot_be_read_is_an_error(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(ConfigError):
        state.load(path, "db")


def test_a_missing_state_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError):
        state.load(tmp_path / "nothing.json", "db")


def test_completion_is_explicit(tmp_path):
    document = payload()
    users, orders = document["global"]["stream_states"]
    users["stream_state"] = None
    orders["stream_state"]["cdc"].pop("complete")
    path = tmp_path / "state.json"
    path.write_text(json.dumps(document))
    loaded = state.load(path, "my db")
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
