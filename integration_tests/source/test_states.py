"""States of other connectors and of other types go on where they are, without a reset and without a loss."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, confirmed, failure, last_state, read, slot_of
from integration_tests.support.connector import Outcome
from integration_tests.support.databases import Database
from source_postgres_cdc import lsn

DONE: dict[str, Any] = {"stream_name": "a", "stream_namespace": "public", "cursor_field": []}
RUNNING: dict[str, Any] = {
    "version": 2,
    "state_type": "ctid",
    "ctid": "(0,1)",
    "incremental_state": {},
    "relation_filenode": 1,
}
BULK: dict[str, Any] = {
    "version": 3,
    "state_type": "ctid_based",
    "stream_name": "",
    "stream_namespace": "",
    "cursors": {},
    "relation_filenode": 1,
}


@pytest.fixture
def two(source_db: Database) -> Database:
    """Two tables, of which one has three rows."""
    source_db.execute("create table a (id int primary key, v text); create table b (id int primary key)")
    source_db.execute("insert into a select i, 'old' from generate_series(1, 3) i")
    return source_db


def foreign(outcome: Outcome, a: Any, b: Any, **offset: Any) -> dict[str, Any]:
    """The state that Airbyte's own connector would have at this place."""
    shape = last_state(outcome)["global"]
    written = shape["shared_state"]["state"]
    (key,) = written
    if offset:
        position = json.loads(written[key])["lsn"]
        written = {key: json.dumps({name: position if value is ... else value for name, value in offset.items()})}
    streams = [
        {"stream_descriptor": {"name": name, "namespace": "public"}, "stream_state": state}
        for name, state in (("a", a), ("b", b))
        if state != "absent"
    ]
    return {"type": "GLOBAL", "global": {"shared_state": {"state": written}, "stream_states": streams}}


@pytest.mark.parametrize(
    ("a", "b", "offset", "rereads"),
    [
        (DONE, DONE, {"lsn": ..., "txId": 7, "ts_usec": 1, "transaction_id": None}, set()),
        ({**DONE, "cursor": None}, "absent", {"lsn_proc": ..., "lsn_commit": ..., "lsn": 1 << 50}, {"b"}),
        (BULK, None, {}, set()),
        ({**BULK, "ctid": "(0,1)"}, BULK, {}, {"a"}),
        (RUNNING, DONE, {}, {"a"}),
        ({}, DONE, {}, {"a"}),
    ],
    ids=["legacy", "legacy, one absent", "bulk, one empty", "bulk, one running", "legacy, one running", "unsaid"],
)
def test_an_airbyte_state_is_continued_without_a_reset(two, a, b, offset, rereads):
    catalog = catalog_of(two)
    first = read(two, catalog)
    two.execute("insert into b values (1)")
    two.execute("update a set v = 'new' where id = 2")
    given = foreign(first, a, b, **offset)
    second = read(two, catalog, given)
    assert second.exit_code == 0, second
    ids = sorted(row["id"] for row in second.records("a"))
    assert ids == ([1, 2, 3] if "a" in rereads else [2])
    assert [row["id"] for row in second.records("b")] == [1]
    # The position was taken over by the slot, and from now on the state is ours.
    assert confirmed(two) == last_state(first)["global"]["shared_state"]["cdc"]["lsn"]
    ours = last_state(second)["global"]
    assert {stream["stream_state"]["cdc"]["complete"] for stream in ours["stream_states"]} == {True}
    assert all("table" in stream["stream_state"]["cdc"] for stream in ours["stream_states"])
    assert json.loads(next(iter(ours["shared_state"]["state"].values())))["lsn_commit"] > 0
    two.execute("delete from a where id = 2")
    assert [row["id"] for row in read(two, catalog, second).records()] == [2]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_state_from_before_types_is_continued(two, wrapped):
    catalog = catalog_of(two)
    first = read(two, catalog)
    two.execute("update a set v = 'new' where id = 2")
    data = {
        "cdc": True,
        "cdc_state": {"state": last_state(first)["global"]["shared_state"]["state"]},
        "streams": [{**DONE, "stream_name": name} for name in ("a", "b")],
    }
    given: Any = [{"type": "LEGACY", "data": data}] if wrapped else data
    assert [row["id"] for row in read(two, catalog, given).records()] == [2]


def test_a_position_behind_a_page_header_loses_nothing(two):
    catalog = catalog_of(two)
    first = read(two, catalog)
    # Fill a WAL page exactly, by a message of the right size; again where another session has written in between.
    size = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
    emit = "select pg_logical_emit_message(false, '', repeat('x', %s))"
    position = 0
    for _ in range(100):
        before = two.value(size)
        two.execute(emit, 1000)
        overhead = two.value(size) - before - 1000
        rest = 8192 - two.value(size) % 8192
        is_one_page = before // 8192 == two.value(size) // 8192
        if is_one_page and overhead < 100 and rest > 1000:
            two.execute(emit, rest - overhead)
        position = two.value(size)
        if position % 8192 in (24, 40):
            break
    assert position % 8192 in (24, 40)
    two.execute("insert into a values (4)")
    given = foreign(first, DONE, DONE, lsn=position, lsn_commit=position)
    second = read(two, catalog, given)
    assert second.exit_code == 0, second
    assert [row["id"] for row in second.records()] == [4]
    assert confirmed(two) == lsn.render(position - position % 8192)


def test_a_slot_that_the_old_connector_confirmed_as_far_as_its_last_commit_is_gone_on_from(two):
    if two.server.major < 11:
        pytest.skip("pg_replication_slot_advance came with PostgreSQL 11")
    catalog = catalog_of(two)
    first = read(two, catalog)
    committed = int(two.value("select pg_current_wal_flush_lsn() - '0/0'::pg_lsn"))
    two.execute("select pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", slot_of(two))
    two.execute("insert into a values (4)")
    given = foreign(first, DONE, DONE, lsn_proc=committed - 8, lsn_commit=committed, lsn=committed)
    second = read(two, catalog, given)
    assert [row["id"] for row in second.records()] == [4]
    # Further than that, and changes are gone.
    two.execute("select pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", slot_of(two))
    assert "ahead of the state" in failure(read(two, catalog, given))["message"]


@pytest.mark.parametrize(
    "stream_state",
    [
        {"version": 2, "state_type": "xmin", "num_wraparound": 0, "xmin_xid_value": 7, "xmin_raw_value": 7},
        {"version": 2, "state_type": "cursor_based", "stream_name": "a", "cursor_field": ["id"], "cursor": "3"},
    ],
    ids=["xmin", "cursor"],
)
def test_a_state_of_another_update_method_is_refused(two, stream_state):
    descriptor = {"name": "a", "namespace": "public"}
    given = [{"type": "STREAM", "stream": {"stream_descriptor": descriptor, "stream_state": stream_state}}]
    error = failure(read(two, catalog_of(two), given))
    assert error["failure_type"] == "config_error"
    assert "update method" in error["message"]
    assert "read anew" in error["message"]


def test_an_airbyte_state_of_another_database_is_refused(two):
    given = foreign(read(two, catalog_of(two)), DONE, DONE)
    state = given["global"]["shared_state"]["state"]
    given["global"]["shared_state"]["state"] = {'["theirs",{"server":"theirs"}]': next(iter(state.values()))}
    assert "the database theirs" in failure(read(two, catalog_of(two), given))["message"]


def last_of_each(*outcomes: Outcome) -> dict[str, dict[str, Any]]:
    """The last STREAM state of each stream, as a runner keeps them."""
    found: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        for line in outcome.lines:
            if line.startswith(b'{"type":"STATE"'):
                state = json.loads(line)["state"]
                assert state["type"] == "STREAM"
                found[state["stream"]["stream_descriptor"]["name"]] = state
    return found


def test_a_state_per_stream_counts_its_own_records_and_goes_on(two):
    catalog = catalog_of(two)
    first = read(two, catalog, state_type="stream")
    two.execute("insert into b values (1), (2)")
    two.execute("update a set v = 'new' where id = 2")
    kept = last_of_each(first)
    second = read(two, catalog, list(kept.values()), state_type="stream")
    assert second.exit_code == 0, second
    assert sorted((record["stream"], record["data"]["id"]) for record in second.record_payloads()) == [
        ("a", 2),
        ("b", 1),
        ("b", 2),
    ]
    for outcome, expected in ((first, {"a": 3, "b": 0}), (second, {"a": 1, "b": 2})):
        counts = dict.fromkeys(expected, 0)
        for state in outcome.states:
            counts[state["stream"]["stream_descriptor"]["name"]] += int(state["sourceStats"]["recordCount"])
        assert counts == expected
    # And from the lines that a destination printed, and back to a global state.
    third = read(two, catalog, b"\n".join(second.lines))
    assert third.records() == []
    assert {state["type"] for state in third.states} == {"GLOBAL"}


def test_a_stream_whose_state_stayed_behind_holds_the_position_back(two):
    catalog = catalog_of(two)
    first = read(two, catalog, state_type="stream")
    two.execute("insert into b values (1); update a set v = 'seen' where id = 2")
    second = read(two, catalog, list(last_of_each(first).values()), state_type="stream")
    assert len(second.records()) == 2
    two.execute("insert into b values (2); insert into a values (4)")
    # What came back for b is of the first sync; a has had its changes since.
    mixed = {**last_of_each(first, second), "b": last_of_each(first)["b"]}
    third = read(two, catalog, list(mixed.values()), state_type="stream")
    assert third.exit_code == 0, third
    assert [row["id"] for row in third.records("b")] == [1, 2]
    assert [row["id"] for row in third.records("a")] == [4]


def test_a_stream_that_is_refreshed_is_read_anew_among_states_per_stream(two):
    catalog = catalog_of(two)
    kept = last_of_each(read(two, catalog, state_type="stream"))
    kept["a"]["stream"]["stream_state"] = None
    second = read(two, catalog, list(kept.values()), state_type="stream")
    assert sorted(row["id"] for row in second.records()) == [1, 2, 3]
    # One that was removed is read anew when it returns.
    kept = last_of_each(second)
    third = read(two, catalog_of(two, only=["b"]), list(kept.values()), state_type="stream")
    assert list(last_of_each(third)) == ["b"]
    assert len(read(two, catalog, list(last_of_each(third).values()), state_type="stream").records("a")) == 3


def test_a_stream_that_was_removed_for_a_while_is_read_anew_though_its_state_was_kept(two):
    catalog = catalog_of(two)
    first = read(two, catalog, state_type="stream")
    two.execute("insert into b values (1)")
    alone = catalog_of(two, only=["b"])
    second = read(two, alone, list(last_of_each(first).values()), state_type="stream")
    third = read(two, alone, list(last_of_each(second).values()), state_type="stream")
    two.execute("delete from a where id = 1; insert into b values (2)")
    # The runner still has the state of a stream that nobody has followed meanwhile.
    back = read(two, catalog, list(last_of_each(first, second, third).values()), state_type="stream")
    assert back.exit_code == 0, back
    # What was deleted while nobody followed it is told as well.
    assert [(row["id"], row["_ab_cdc_deleted_at"] is None) for row in back.records("a")] == [
        (2, True),
        (3, True),
        (1, False),
    ]
    assert [row["id"] for row in back.records("b")] == [2]
    assert any("read anew: public.a" in entry["message"] for entry in back.logs)
