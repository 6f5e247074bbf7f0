"""States of Airbyte's own connectors (reference/source.md 4.1): their position, and what they have read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airbyte_pg.errors import ConfigError, StreamName
from source_postgres_cdc import foreign_state, lsn

KEY = '["my db",{"server":"my_db"}]'


def of_global(offset: dict[str, Any], *states: Any, key: str = KEY) -> foreign_state.Foreign | None:
    streams = [
        {"stream_descriptor": {"name": f"s{number}", "namespace": "public"}, "stream_state": state}
        for number, state in enumerate(states)
    ]
    return foreign_state.of_global({"state": {key: json.dumps(offset)}}, streams, "my db")


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ({"transaction_id": None, "lsn": 30660608, "txId": 777, "ts_usec": 1}, 30660608),
        ({"lsn_proc": 500, "lsn_commit": 400, "lsn": 600}, 400),
        ({"lsn_proc": 300, "lsn_commit": 400, "lsn": 600}, 300),
        ({"lsn_proc": None, "lsn_commit": 400, "lsn": 600}, 400),
        ({"lsn_commit": 400, "lsn": 600, "lsn_events_processed": 3}, 400),
        ({"lsn": 8192 * 7 + 24}, 8192 * 7),
        ({"lsn": 8192 * 7 + 40}, 8192 * 7),
        ({"lsn": 8192 * 7 + 48}, 8192 * 7 + 48),
    ],
)
def test_the_position_is_where_every_commit_before_was_sent(offset, expected):
    found = of_global(offset)
    assert found is not None
    assert found.lsn == expected


@pytest.mark.parametrize(
    ("stream_state", "is_complete"),
    [
        (None, True),
        ({}, False),
        ({"stream_name": "users", "stream_namespace": "public", "cursor_field": []}, True),
        ({"stream_name": "users", "stream_namespace": "public", "cursor_field": [], "cursor": None}, True),
        ({"version": 2, "state_type": "ctid", "ctid": "(4521,17)", "incremental_state": {}}, False),
        ({"version": 2, "state_type": "ctid", "incremental_state": {}}, False),
        ({"version": 3, "state_type": "ctid_based", "stream_name": "", "ctid": "(1,1)", "cursors": {}}, False),
        ({"version": 3, "state_type": "ctid_based", "stream_name": "", "cursors": {}, "relation_filenode": 1}, True),
        ({"what": "is this"}, False),
    ],
)
def test_completion_of_a_stream(stream_state, is_complete):
    found = of_global({"lsn": 400}, stream_state)
    assert found is not None
    assert found.streams == {StreamName("public", "s0"): is_complete}


@pytest.mark.parametrize(
    "stream_state",
    [
        {"version": 2, "state_type": "xmin", "num_wraparound": 0, "xmin_xid_value": 7},
        {"version": 3, "state_type": "cursor_based", "cursors": {"id": 7}},
        {"stream_name": "users", "cursor_field": ["id"], "cursor": "7"},
    ],
)
def test_a_state_of_another_update_method_is_refused(stream_state):
    with pytest.raises(ConfigError, match="update method"):
        of_global({"lsn": 400}, stream_state)


def test_a_state_of_another_database_is_refused():
    with pytest.raises(ConfigError, match="theirs"):
        of_global({"lsn": 400}, key='["theirs",{"server":"theirs"}]')


def test_a_state_that_knows_nothing_yet_is_a_first_sync_and_one_without_position_is_nonsense():
    entry = {"stream_descriptor": {"name": "users"}, "stream_state": None}
    assert foreign_state.of_global({}, [entry], "my db") is None
    with pytest.raises(ValueError, match="position"):
        foreign_state.of_global({}, [{**entry, "stream_state": {"stream_name": "users"}}], "my db")


def test_legacy_states_from_before_types():
    data = {
        "cdc": True,
        "cdc_state": {"state": {KEY: json.dumps({"lsn_commit": 400, "lsn": 500})}},
        "streams": [{"stream_name": "users", "stream_namespace": "public", "cursor_field": []}],
    }
    found = foreign_state.of_legacy(data, "my db")
    assert found == foreign_state.Foreign(400, 400, {StreamName("public", "users"): True})
    with pytest.raises(ConfigError, match="update method"):
        foreign_state.of_legacy({**data, "cdc": False}, "my db")
    assert foreign_state.of_legacy({"cdc": True, "streams": []}, "my db") is None


def test_only_a_page_header_is_rounded_away():
    assert [lsn.before_header(position) for position in (8192, 8192 + 8, 8192 + 24, 8192 + 32, 8192 + 40)] == [
        8192,
        8192 + 8,
        8192,
        8192 + 32,
        8192,
    ]
