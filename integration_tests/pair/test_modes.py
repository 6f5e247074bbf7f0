"""The four modes over two syncs each, and the tables that they leave, named and typed as Airbyte 2.x does."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.pair.piping import Passed, sync
from integration_tests.source.reading import catalog_of
from integration_tests.support.catalogs import merged
from integration_tests.support.databases import Database

FINAL = "select id, v from public.items order by id, v"
RAW = 'airbyte_internal."public_raw__stream_items"'


@pytest.fixture
def items(source_db):
    source_db.execute("create table items (id int primary key, v text not null, price numeric(10,2))")
    source_db.execute("insert into items select i, 'old', i from generate_series(1, 5) i")
    return source_db


def two_syncs(source: Database, destination: Database, sync_mode: str, destination_mode: str) -> list[Passed]:
    """One sync of the table, one after an update, an insert and a delete."""
    catalog = catalog_of(source, sync_mode)
    (stream,) = catalog["streams"]
    stream["destination_sync_mode"] = destination_mode
    done = []
    state: dict[str, Any] | None = None
    for number in (1, 2):
        if destination_mode == "overwrite":
            stream |= {"generation_id": number, "minimum_generation_id": number}
        stream["sync_id"] = number
        done.append(sync(source, destination, catalog, state))
        assert done[-1].ok, done[-1].printed[-3:]
        state = done[-1].states[-1] if done[-1].states else None
        if number == 1:
            source.execute("update items set v = 'new' where id = 1")
            source.execute("insert into items values (6, 'six')")
            source.execute("delete from items where id = 2")
    return done


BEFORE = [(i, "old") for i in range(1, 6)]
AFTER = [(1, "new"), (3, "old"), (4, "old"), (5, "old"), (6, "six")]


def test_full_refresh_overwrite(items, destination_db):
    two_syncs(items, destination_db, "full_refresh", "overwrite")
    assert destination_db.rows(FINAL) == AFTER
    assert destination_db.value(f"select count(*) from {RAW}") == 5
    assert destination_db.rows("select distinct _airbyte_generation_id from public.items") == [(2,)]


def test_an_overwrite_that_died_on_the_way_begins_anew_with_the_same_ids(items, destination_db):
    # The stream says that it is resumable, as everything that can be followed does; a full refresh of it is not.
    items.execute("insert into items select i, repeat('x', 500), i from generate_series(6, 20000) i")
    items.execute("create table followed (id int primary key)")
    items.execute("insert into followed values (1)")
    catalog = merged(
        catalog_of(items, "full_refresh", only=["items"], destination="overwrite"),
        catalog_of(items, "incremental", only=["followed"]),
    )
    for stream in catalog["streams"]:
        stream |= {"generation_id": 1, "minimum_generation_id": int(stream["destination_sync_mode"] == "overwrite")}
    small: dict[str, Any] = {"flush_rows": 1000}
    died = sync(items, destination_db, catalog, kill=("source", 15000), destination_options=small)
    assert not died.ok
    assert 0 < destination_db.value("select count(*) from public.items") < 20000
    assert sync(items, destination_db, catalog, died.states[-1], destination_options=small).ok
    rows = destination_db.rows("select count(*), count(distinct id) from public.items")
    assert rows == [(20000, 20000)]


def test_full_refresh_append(items, destination_db):
    two_syncs(items, destination_db, "full_refresh", "append")
    assert destination_db.rows(FINAL) == sorted(BEFORE + AFTER)


def test_incremental_append(items, destination_db):
    two_syncs(items, destination_db, "incremental", "append")
    # Each change once: the delete is a row of its own, with its key and the mark.
    found = destination_db.rows(
        "select id, v, _ab_cdc_deleted_at is not null from public.items order by _ab_cdc_lsn, id"
    )
    assert found == [*((i, "old", False) for i in range(1, 6)), (1, "new", False), (6, "six", False), (2, None, True)]


def test_incremental_append_dedup(items, destination_db):
    first, second = two_syncs(items, destination_db, "incremental", "append_dedup")
    assert destination_db.rows(FINAL) == AFTER
    assert destination_db.value(f"select count(*) from {RAW}") == 8
    for passed, count in ((first, 5), (second, 3)):
        assert sum(state["destinationStats"]["recordCount"] for state in passed.states) == count
        assert all(state["destinationStats"] == state["sourceStats"] for state in passed.states)


def test_the_tables_are_airbytes(items, destination_db):
    two_syncs(items, destination_db, "incremental", "append_dedup")
    columns = (
        "select column_name, data_type, coalesce(character_maximum_length, 0) from information_schema.columns"
        " where table_schema = %s and table_name = %s order by ordinal_position"
    )
    assert sorted(destination_db.rows(columns, "airbyte_internal", "public_raw__stream_items")) == [
        ("_airbyte_data", "jsonb", 0),
        ("_airbyte_extracted_at", "timestamp with time zone", 0),
        ("_airbyte_generation_id", "bigint", 0),
        ("_airbyte_loaded_at", "timestamp with time zone", 0),
        ("_airbyte_meta", "jsonb", 0),
        ("_airbyte_raw_id", "character varying", 0),
    ]
    assert destination_db.rows(columns, "public", "items") == [
        ("id", "bigint", 0),
        ("v", "character varying", 0),
        ("price", "numeric", 0),
        ("_ab_cdc_lsn", "numeric", 0),
        ("_ab_cdc_updated_at", "character varying", 0),
        ("_ab_cdc_deleted_at", "character varying", 0),
        ("_airbyte_raw_id", "character varying", 36),
        ("_airbyte_extracted_at", "timestamp with time zone", 0),
        ("_airbyte_generation_id", "bigint", 0),
        ("_airbyte_meta", "jsonb", 0),
    ]
    raw = f"select count(*), count(_airbyte_loaded_at), count(distinct _airbyte_raw_id) from {RAW}"
    assert destination_db.rows(raw) == [(8, 8, 8)]
