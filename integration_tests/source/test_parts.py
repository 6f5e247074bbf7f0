"""Tables in parts: what is read, in which pieces, and what the states say in between."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, read
from integration_tests.support.connector import Outcome
from integration_tests.support.databases import Database

ROWS = 3000


@pytest.fixture
def table(source_db):
    source_db.execute("create table t (id int primary key, v text, secret text)")
    source_db.execute(f"insert into t select i, rpad(i::text, 70, '.'), 's' from generate_series(1, {ROWS}) i")
    source_db.execute("vacuum analyze t")
    return source_db


def progress_of(outcome: Outcome, name: str = "t") -> list[dict[str, Any]]:
    """What the states say of a stream, one after the other."""
    entries = [entry for state in outcome.states for entry in state["global"]["stream_states"]]
    return [entry["stream_state"]["cdc"] for entry in entries if entry["stream_descriptor"]["name"] == name]


def state_lines(outcome: Outcome) -> list[dict[str, Any]]:
    """The states as a runner keeps them."""
    return [json.loads(line)["state"] for line in outcome.lines if line.startswith(b'{"type":"STATE"')]


def ids(outcome: Outcome) -> list[int]:
    return [row["id"] for row in outcome.records("t")]


def needs_parts(database: Database) -> None:
    if database.server.major < 14:
        pytest.skip("tables stay whole before 14")


def test_every_row_comes_once_and_the_states_tell_the_next_page(table):
    needs_parts(table)
    pages = table.value("select pg_relation_size('t') / 8192")
    outcome = read(table, catalog_of(table), snapshot_part_pages=7)
    assert outcome.exit_code == 0, outcome
    assert sorted(ids(outcome)) == list(range(1, ROWS + 1))
    told = progress_of(outcome)
    assert [entry.get("page") for entry in told[:-2]] == list(range(0, pages, 7))
    assert [entry["complete"] for entry in told] == [False] * (len(told) - 2) + [True, True]
    assert len({entry["file"] for entry in told[:-2]}) == 1
    # Between the parts of one sync nothing was read of the changes.
    assert len({state["global"]["shared_state"]["cdc"]["lsn"] for state in outcome.states[:-1]}) == 1
    assert sum(state["sourceStats"]["recordCount"] for state in outcome.states) == ROWS


def test_a_small_table_is_read_whole(table):
    outcome = read(table, catalog_of(table))
    assert [entry["complete"] for entry in progress_of(outcome)] == [False, True, True]
    assert progress_of(outcome)[0].get("page", 0) == 0


def test_an_unfinished_table_goes_on_at_its_page(table):
    needs_parts(table)
    first = read(table, catalog_of(table), snapshot_part_pages=7)
    state = state_lines(first)[2]
    page = progress_of(first)[2]["page"]
    assert page == 14
    second = read(table, catalog_of(table), [state], snapshot_part_pages=7)
    assert second.exit_code == 0, second
    left = [key for (key,) in table.rows("select id from t where ctid >= '(14,0)' order by id")]
    assert sorted(ids(second)) == left
    # A column that the parts before have not sent.
    table.execute("alter table t add more int")
    third = read(table, catalog_of(table), [state], snapshot_part_pages=7)
    assert sorted(ids(third)) == list(range(1, ROWS + 1))


def test_row_filter_and_column_list_hold_in_parts(table):
    if table.server.major < 15:
        pytest.skip("row filters came with 15")
    table.execute("create publication airbyte_publication for table t (id, v) where (id % 3 = 0 or id < 10)")
    outcome = read(table, catalog_of(table), snapshot_part_pages=7)
    assert outcome.exit_code == 0, outcome
    assert sorted(ids(outcome)) == [i for i in range(1, ROWS + 1) if i % 3 == 0 or i < 10]
    assert not any("secret" in row for row in outcome.records("t"))
    assert len(progress_of(outcome)) > 5


def test_what_has_no_pages_of_its_own_stays_whole(table):
    table.execute("create view w as select id from t")
    table.execute("create table p (id int) partition by range (id)")
    table.execute("create table p1 partition of p default")
    table.execute("insert into p select generate_series(1, 1000)")
    outcome = read(table, catalog_of(table, "full_refresh", only=["w", "p"]), snapshot_part_pages=1)
    assert outcome.exit_code == 0, outcome
    assert len(outcome.records("w")) == ROWS
    assert len(outcome.records("p")) == 1000
