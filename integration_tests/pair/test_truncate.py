"""TRUNCATE: warned of, the end of the sync, or sent as a record by which the destination removes what is older."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.pair.piping import differences, sync
from integration_tests.source.reading import TRANSPORTS, catalog_of, failure, last_state, read
from integration_tests.source.test_refreshes import refreshed
from integration_tests.support.catalogs import merged
from integration_tests.support.databases import Database

SHOWN = "id::text, v"
HANDLINGS = ["warn", "fail", "propagate"]


@pytest.fixture
def tables(source_db: Database) -> Database:
    for name in ("t", "other"):
        source_db.execute(f"create table {name} (id int primary key, v text)")
        source_db.execute(f"insert into {name} select i, 'old' from generate_series(1, 5) i")
    source_db.execute("create table heir (id int primary key references t, v text); insert into heir values (1, 'old')")
    return source_db


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_record_without_key_stands_for_a_truncate(tables, transport):
    catalog = catalog_of(tables)
    options: dict[str, Any] = {"transport": transport, "truncate_handling": "propagate", "emit_position": True}
    first = read(tables, catalog, **options)
    tables.execute(
        "begin; insert into t values (6, 'gone'); truncate t cascade; insert into t values (1, 'new'); commit"
    )
    second = read(tables, catalog, first, **options)
    assert second.exit_code == 0, second
    before, mark, after = second.records("t")
    assert (before["v"], after["v"]) == ("gone", "new")
    assert (mark["id"], mark["_ab_cdc_truncate"]) == (None, True)
    assert "v" not in mark
    assert mark["_ab_cdc_deleted_at"] == mark["_ab_cdc_updated_at"] == after["_ab_cdc_updated_at"]
    assert before["_ab_cdc_lsn"] < mark["_ab_cdc_lsn"] < after["_ab_cdc_lsn"]
    assert [row["_ab_cdc_ordinal"] for row in (before, mark, after)] == [2, 4, 6]
    assert [record["_ab_cdc_truncate"] for record in second.records("heir")] == [True]
    assert second.records("other") == []
    counts = [int(state["sourceStats"]["recordCount"]) for state in second.states]
    assert sum(counts) == 4


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_warning_and_no_record(tables, transport):
    catalog = catalog_of(tables)
    first = read(tables, catalog)
    tables.execute("truncate t, other, heir; insert into t values (1, 'new')")
    second = read(tables, catalog, first, transport=transport)
    assert second.exit_code == 0
    assert [record["v"] for record in second.records()] == ["new"]
    warned = [log["message"] for log in second.logs if log["level"] == "WARN" and "truncated" in log["message"]]
    assert len(warned) == 3


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_end_of_the_sync_until_the_stream_is_refreshed(tables, transport):
    catalog = catalog_of(tables)
    options = {"transport": transport, "truncate_handling": "fail"}
    first = read(tables, catalog, **options)
    tables.execute("insert into other values (6, 'x'); truncate heir; insert into other values (7, 'x')")
    for _ in range(2):
        error = failure(read(tables, catalog, first, **options))
        assert error["failure_type"] == "config_error"
        assert "public.heir was truncated" in error["message"]
    again = read(tables, catalog, [refreshed(last_state(first), "heir")], **options)
    assert again.exit_code == 0, again
    assert [record["id"] for record in again.records("other")] == [6, 7]


@pytest.mark.parametrize("destination", ["append", "append_dedup"])
@pytest.mark.parametrize("handling", HANDLINGS)
def test_what_a_snapshot_shows_is_no_truncate_of_it(tables, handling, destination):
    """Nor is one that is rolled back. Where rows of a lost attempt may be there, they go: below the snapshot's rows."""
    first = read(tables, catalog_of(tables, destination=destination), truncate_handling=handling)
    tables.execute("begin; truncate t cascade; rollback")
    tables.execute("create table late (id int primary key, v text); insert into late values (1, 'old')")
    tables.execute("alter publication airbyte_publication add table only late")
    tables.execute("truncate late; insert into late values (2, 'new')")
    second = read(tables, catalog_of(tables, destination=destination), first, truncate_handling=handling)
    assert second.exit_code == 0, second
    assert second.records("t") == []
    row, *marks = second.records("late")
    assert row["id"] == 2
    assert len(marks) == (handling == "propagate" and destination == "append_dedup")
    assert all(mark["_ab_cdc_truncate"] and mark["_ab_cdc_lsn"] < row["_ab_cdc_lsn"] for mark in marks)


@pytest.mark.parametrize("deletion", ["Hard delete", "Soft delete"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_rows_that_are_older_go(tables, destination_db, transport, deletion):
    catalog = catalog_of(tables)
    options: dict[str, Any] = {
        "transport": transport,
        "truncate_handling": "propagate",
        "destination_options": {"cdc_deletion_mode": deletion},
    }
    passed = sync(tables, destination_db, catalog, **options)
    for script in (
        "truncate t cascade",
        "insert into t values (1, 'new'), (9, 'new')",
        "begin; insert into t values (2, 'gone'); truncate t cascade; insert into t values (3, 'new'); commit;"
        "insert into t values (4, 'new'); truncate t cascade; insert into t values (3, 'newest'), (5, 'new')",
        "delete from t where id = 3; truncate other; insert into other values (1, 'a')",
        "truncate t cascade",
    ):
        tables.execute(script)
        passed = sync(tables, destination_db, catalog, passed.states[-1], **options)
        assert passed.ok, passed.printed[-5:]
        if deletion == "Soft delete":
            deleted = destination_db.rows("select id from public.t where _ab_cdc_deleted_at is not null order by 1")
            destination_db.execute(
                "create or replace view public.live as select * from public.t where _ab_cdc_deleted_at is null"
            )
            live = destination_db.rows("select id::text, v from public.live order by 1")
            assert live == tables.rows("select id::text, v from t order by 1")
            assert deleted
            assert destination_db.value("select count(*) from public.t where id is null") == 0
        else:
            for table in ("t", "other", "heir"):
                assert differences(tables, destination_db, table, SHOWN) == []
    # All of them are in the raw tables.
    marks = "select count(*) from airbyte_internal.public_raw__stream_t where _airbyte_data ? '_ab_cdc_truncate'"
    assert destination_db.value(marks) == 4


def test_the_order_of_arrival_decides_where_there_is_no_cursor(tables, destination_db):
    catalog = catalog_of(tables)
    for entry in catalog["streams"]:
        entry["cursor_field"] = []
    passed = sync(tables, destination_db, catalog, truncate_handling="propagate")
    tables.execute("insert into t values (7, 'gone'); truncate t cascade; insert into t values (8, 'new')")
    passed = sync(tables, destination_db, catalog, passed.states[-1], truncate_handling="propagate")
    assert passed.ok, passed.printed[-5:]
    assert differences(tables, destination_db, "t", SHOWN) == []


def test_a_merge_refresh_removes_what_was_truncated_meanwhile(tables, destination_db):
    catalog = catalog_of(tables)
    first = sync(tables, destination_db, catalog)
    tables.execute("truncate t cascade; insert into t values (2, 'new')")
    state = refreshed(first.states[-1], "t")
    second = sync(tables, destination_db, catalog, state, truncate_handling="propagate")
    assert second.ok, second.printed[-5:]
    assert differences(tables, destination_db, "t", SHOWN) == []


def test_other_modes_keep_the_record_as_it_is(tables, destination_db):
    catalog = merged(catalog_of(tables, destination="append", only=["t"]))
    first = sync(tables, destination_db, catalog)
    tables.execute("truncate t cascade")
    second = sync(tables, destination_db, catalog, first.states[-1], truncate_handling="propagate")
    assert second.ok, second.printed[-5:]
    rows = destination_db.rows("select id, v from public.t where _ab_cdc_deleted_at is not null")
    assert rows == [(None, None)]
    assert destination_db.value("select count(*) from public.t") == 6


@pytest.mark.parametrize(
    "script",
    [
        "drop table other; create table other (id int primary key, v text);"
        "alter publication airbyte_publication add table only other; insert into other values (2, 'of the new')",
        "alter publication airbyte_publication drop table other; delete from other where id > 2;"
        "update other set v = 'unseen' where id = 2; alter publication airbyte_publication add table only other",
    ],
    ids=["made anew", "not published for a while"],
)
def test_a_table_whose_changes_were_not_seen_is_read_anew_and_what_is_older_goes(tables, destination_db, script):
    catalog = catalog_of(tables)
    passed = sync(tables, destination_db, catalog, truncate_handling="propagate")
    tables.execute("insert into other values (8, 'gone')")
    for statement in script.split(";"):
        tables.execute(statement)
    passed = sync(tables, destination_db, catalog, passed.states[-1], truncate_handling="propagate")
    assert passed.ok, passed.printed[-5:]
    assert differences(tables, destination_db, "other", SHOWN) == []
