"""Columns that come, go and change, between syncs and in what a sync still has to read.

Where rows that nobody touches have other values than were sent, the table is read anew: a rewrite of a table, or the
default of a new column, is in no change.
"""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.source.reading import TRANSPORTS, catalog_of, last_state, read
from integration_tests.source.test_seam import newest
from integration_tests.support.connector import Outcome
from integration_tests.support.databases import Database

META = {"_ab_cdc_lsn", "_ab_cdc_updated_at", "_ab_cdc_deleted_at"}


@pytest.fixture
def table(source_db: Database) -> Database:
    source_db.execute("create table t (id int primary key, v varchar(5), n numeric(10,2), w int)")
    source_db.execute("insert into t select i, 'old', i, i from generate_series(1, 3) i")
    source_db.execute("create table other (id int primary key); insert into other values (1)")
    return source_db


def rows(outcome: Outcome) -> list[dict[str, Any]]:
    """The records of t without the meta columns, in order."""
    assert outcome.exit_code == 0, outcome
    return [{key: value for key, value in record.items() if key not in META} for record in outcome.records("t")]


def is_complete(outcome: Outcome) -> bool:
    streams = last_state(outcome)["global"]["stream_states"]
    return all(entry["stream_state"]["cdc"]["complete"] for entry in streams)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_new_column_with_its_default_and_its_backfill(table, transport):
    first = read(table, catalog_of(table))
    table.execute("insert into t values (4, 'old', 4, 4); delete from t where id = 1")
    table.execute("alter table t add column made int default 7")
    table.execute("update t set made = 8 where id = 2; insert into t values (5, 'new', 5, 5, 9)")
    # The catalog does not know of it yet: it is not sent, and nothing is read anew.
    unknown = read(table, catalog_without(table, "made"), first, transport=transport)
    assert [row.get("id") for row in rows(unknown)] == [4, 1, 2, 5]
    assert not any("made" in row for row in rows(unknown))
    # It does now, and the rows that the backfill has not touched have its default.
    table.execute("delete from t where id = 3")
    second = read(table, catalog_of(table), unknown, transport=transport)
    assert second.exit_code == 0
    assert newest(second.records("t"), "made") == {2: 8, 4: 7, 5: 9}
    assert [record["id"] for record in second.records("t") if record["_ab_cdc_deleted_at"]] == [3]
    assert second.records("other") == []
    assert is_complete(second)
    # Nothing more is owed.
    assert rows(read(table, catalog_of(table), second)) == []


def catalog_without(database: Database, *columns: str) -> dict[str, Any]:
    catalog = catalog_of(database)
    for entry in catalog["streams"]:
        for column in columns:
            entry["stream"]["json_schema"]["properties"].pop(column, None)
    return catalog


@pytest.mark.parametrize(
    "statement",
    [
        "alter table t alter w type text",
        "alter table t alter w type text using 'number ' || w",
        "alter table t alter n type numeric(10,1)",
        "alter table t alter v type varchar(3)",
        "alter table t alter v type char(5)",
        "alter table t drop column w, add column w int default 70",
        "alter table t rename w to x",
        "alter table t rename w to w2; alter table t rename v to w; alter table t rename w2 to v",
        "alter table t alter w type real",
    ],
)
def test_rows_are_read_anew_where_they_have_other_values(table, statement):
    first = read(table, catalog_of(table))
    table.execute(statement)
    table.execute("insert into other values (2)")
    second = read(table, catalog_of(table), first)
    fresh = {
        record["id"]: record for record in rows(read(table, catalog_of(table), replication_slot=f"o_{table.name}"))
    }
    assert {row["id"]: row for row in rows(second)} == fresh
    assert len(rows(second)) == 3
    assert [record["id"] for record in second.records("other")] == [2]
    assert is_complete(second)


@pytest.mark.parametrize(
    "statement",
    [
        "alter table t alter w type bigint",
        "alter table t alter v type text",
        "alter table t alter v type varchar(50)",
        "alter table t alter v type varchar",
        "alter table t alter n type numeric(12,2)",
        "alter table t alter n type numeric",
        "alter table t drop column w",
        "alter table t alter w set default 9",
        "vacuum full t",
    ],
)
def test_rows_are_not_read_anew_where_they_have_not(table, statement):
    first = read(table, catalog_of(table))
    table.execute(statement)
    table.execute("update t set v = 'new' where id = 2")
    (row,) = rows(read(table, catalog_of(table), first))
    assert (row["id"], row["v"]) == (2, "new")
    assert ("w" in row) == ("drop" not in statement)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_warning_and_nothing_else(table, transport):
    first = read(table, catalog_of(table))
    table.execute("alter table t add column made int default 7, alter v type text using v || '!'")
    table.execute("insert into t values (4, 'new', 4, 4, 4)")
    second = read(table, catalog_of(table), first, schema_change="warn", transport=transport)
    assert rows(second) == [{"id": 4, "v": "new", "n": 4, "w": 4, "made": 4}]
    warnings = [entry["message"] for entry in second.logs if entry["level"] == "WARN"]
    assert any("made" in text for text in warnings), warnings


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_column_that_had_another_type_for_a_while(table, transport):
    """Catalog and state agree; what was sent in between does not, and the rewrite back is in no change."""
    first = read(table, catalog_of(table))
    table.execute("alter table t alter w type text using 'number ' || w")
    table.execute("insert into t values (4, 'new', 4, 'four')")
    table.execute("alter table t alter w type int using length(w)")
    second = read(table, catalog_of(table), first, transport=transport)
    assert second.exit_code == 0, second
    assert not is_complete(second)
    third = read(table, catalog_of(table), second, transport=transport)
    assert newest(third.records("t"), "w") == dict(table.rows("select id, w from t"))
    assert is_complete(third)


def test_a_dropped_column_and_a_changed_key(table):
    first = read(table, catalog_of(table))
    catalog = catalog_of(table)
    table.execute("alter table t drop column w; update t set v = 'new' where id = 1")
    second = read(table, catalog, first)
    assert rows(second) == [{"id": 1, "v": "new", "n": 1}]
    table.execute("alter table t drop constraint t_pkey; alter table t add primary key (id, v)")
    third = read(table, catalog, second)
    assert third.error is not None
    assert third.error["failure_type"] == "config_error"


def test_an_unfinished_load_begins_anew_with_the_new_column(table):
    catalog = catalog_of(table)
    first = read(table, catalog)
    state = last_state(first)
    (entry,) = [each for each in state["global"]["stream_states"] if each["stream_descriptor"]["name"] == "t"]
    entry["stream_state"]["cdc"] |= {"complete": False, "page": 1, "pages": 1, "file": 1}
    table.execute("alter table t add column made int default 7")
    second = read(table, catalog_of(table), [state])
    assert newest(second.records("t"), "made") == {1: 7, 2: 7, 3: 7}
    assert is_complete(second)


def test_a_state_that_knows_only_the_types_of_columns(table):
    first = read(table, catalog_of(table))
    state = last_state(first)
    for entry in state["global"]["stream_states"]:
        columns = entry["stream_state"]["cdc"]["columns"]
        entry["stream_state"]["cdc"]["columns"] = {name: sent[0] for name, sent in columns.items()}
    table.execute("update t set v = 'new' where id = 1")
    assert [row["id"] for row in rows(read(table, catalog_of(table), [state]))] == [1]
