"""What raw tables keep, and streams that have no raw or no final table: in every mode, and from one to the other."""

from __future__ import annotations

import pytest

from integration_tests.destination.writing import (
    USERS_CDC,
    Json,
    one,
    own_tables,
    record,
    records,
    state,
    sync,
    users,
    write,
)
from integration_tests.support import connector
from integration_tests.support.catalogs import stream
from integration_tests.support.connector import DESTINATION
from integration_tests.support.databases import Database

RAW = "airbyte_internal.public_raw__stream_users"
ROWS: list[Json] = [{"id": 1, "name": "a"}, {"id": "x", "name": "b"}, {"id": 3, "name": "c"}]
OWN_CHANGE = {"changes": [{"field": "name", "change": "NULLED", "reason": "SOURCE_RETRIEVAL_ERROR"}]}


def tables(db: Database) -> set[str]:
    """Every table of the streams."""
    listed = "select schemaname || '.' || tablename from pg_tables where tablename like '%users%'"
    return {name for (name,) in db.rows(listed)}


def raw_names(db: Database) -> list[str]:
    return [name for (name,) in db.rows(f"select _airbyte_data ->> 'name' from {RAW} order by _airbyte_raw_id")]


def test_typed_keeps_the_rows_with_a_change_of_ours(destination_db):
    lines = records(ROWS) + record({"id": 4}, meta=OWN_CHANGE) + record({"id": 5.5, "name": "e"}, meta=OWN_CHANGE)
    sync(destination_db, one(), lines, raw_retention="typed")
    assert users(destination_db) == [(1, "a"), (3, "c"), (4, None), (None, "b"), (None, "e")]
    assert raw_names(destination_db) == ["b", "e"]
    joined = (
        f"select r._airbyte_data ->> 'id', u._airbyte_meta #>> '{{changes,0,field}}', r._airbyte_loaded_at is not null"
        f" from {RAW} r join public.users u using (_airbyte_raw_id) order by 1"
    )
    assert destination_db.rows(joined) == [("5.5", "id", True), ("x", "id", True)]


@pytest.mark.parametrize("destination", ["append", "append_dedup"])
def test_typed_keeps_the_rows_of_which_the_server_refused_something(destination_db, destination):
    stream_of_documents = stream("docs", {"id": "integer", "a": "object", "b": "integer"}, key=["id"])
    data = [
        '{"id":1,"a":{"n":1e9}}',
        '{"id":2,"a":{"n":1e999999}}',
        '{"id":3,"a":{"n":3},"b":"x"}',
        '{"id":4,"a":{"n":4e999999},"b":"x"}',
        '{"id":5}',
    ]
    lines = b"".join(record(one, "docs") for one in data)
    sync(destination_db, one(stream_of_documents, destination=destination), lines, raw_retention="typed")
    changed = "jsonb_array_length(_airbyte_meta -> 'changes')"
    assert destination_db.rows(f"select id, a ->> 'n', {changed} from public.docs order by id") == [
        (1, "1000000000", 0),
        (2, None, 1),
        (3, "3", 1),
        (4, None, 2),
        (5, None, 0),
    ]
    kept = (
        "select _airbyte_data ->> 'id', _airbyte_data ->> 'a' from airbyte_internal.public_raw__stream_docs order by 1"
    )
    assert destination_db.rows(kept) == [("2", '{"n":1e999999}'), ("3", '{"n": 3}'), ("4", '{"n":4e999999}')]


@pytest.mark.parametrize("destination", ["append", "append_dedup", "overwrite"])
def test_none_makes_no_raw_table(destination_db, destination):
    generation: Json = {"generation": 1, "minimum": 1} if destination == "overwrite" else {}
    sync_mode = "full_refresh" if destination == "overwrite" else "incremental"
    catalog = one(destination=destination, sync_mode=sync_mode, **generation)
    outcome = sync(destination_db, catalog, records(ROWS) + state(1), raw_retention="none")
    assert [one["destinationStats"] for one in outcome.states] == [{"recordCount": 3.0}]
    assert users(destination_db) == [(1, "a"), (3, "c"), (None, "b")]
    assert tables(destination_db) == {"public.users"}
    assert own_tables(destination_db) == set()
    changed = 'select count(*) from public.users where _airbyte_meta @> \'{"changes":[{"field":"id"}]}\''
    assert destination_db.value(changed) == 1


@pytest.mark.parametrize("retention", ["typed", "none"])
def test_a_late_row_loses_against_a_deletion_that_no_raw_table_remembers(destination_db, retention):
    def row(lsn: int, *, deleted: bool = False) -> bytes:
        deleted_at = "2024-01-01T00:00:00Z" if deleted else None
        return record({"id": 1, "name": str(lsn), "_ab_cdc_lsn": lsn, "_ab_cdc_deleted_at": deleted_at})

    catalog = one(USERS_CDC, destination="append_dedup")
    for lines, found in ((row(5), [(1, "5")]), (row(7, deleted=True), []), (row(6), []), (row(8), [(1, "8")])):
        sync(destination_db, catalog, lines, raw_retention=retention)
        assert users(destination_db) == found


@pytest.mark.parametrize("retention", ["typed", "none"])
def test_a_refresh_is_built_aside_and_replaces(destination_db, retention):
    sync(destination_db, one(), records(ROWS), raw_retention=retention)
    refresh = one(generation=2, minimum=2)
    broken = write(destination_db, refresh, records(ROWS[:2]) + state(1), raw_retention=retention)
    assert broken.exit_code == 1
    assert users(destination_db) == [(1, "a"), (3, "c"), (None, "b")]
    sync(destination_db, refresh, records([{"id": 9, "name": "i"}]), raw_retention=retention)
    assert users(destination_db) == [(1, "a"), (9, "i"), (None, "b")]
    assert own_tables(destination_db) == set()
    if retention == "typed":
        assert raw_names(destination_db) == ["b"]


@pytest.mark.parametrize("destination", ["append", "append_dedup"])
def test_raw_only(destination_db, destination):
    lines = records([*ROWS, {"id": 1, "name": "a\0"}, {"undeclared": [1.0]}]) + state(1)
    outcome = sync(destination_db, one(destination=destination), lines, disable_type_dedupe=True)
    assert [one["destinationStats"] for one in outcome.states] == [{"recordCount": 5.0}]
    assert tables(destination_db) == {RAW}
    assert raw_names(destination_db) == ["a", "b", "c", "a", None]
    assert destination_db.value(f"select count(*) from {RAW} where _airbyte_loaded_at is not null") == 0
    assert own_tables(destination_db) == set()


def test_raw_only_is_truncated_by_a_refresh(destination_db):
    sync(destination_db, one(), records(ROWS), disable_type_dedupe=True)
    refresh = one(generation=2, minimum=2)
    assert write(destination_db, refresh, records(ROWS[:1]), disable_type_dedupe=True).exit_code == 1
    assert raw_names(destination_db) == ["a", "b", "c"]
    sync(destination_db, refresh, records(ROWS[2:]), disable_type_dedupe=True)
    assert raw_names(destination_db) == ["a", "c"]


@pytest.mark.parametrize("destination", ["append", "append_dedup"])
def test_final_rows_that_a_refresh_without_final_tables_has_replaced_go(destination_db, destination):
    old, new, newer = ([{"id": number, "name": name}] for number, name in enumerate(("old", "new", "newer"), start=1))
    sync(destination_db, one(destination=destination), records(old))
    refresh = one(destination=destination, generation=2, minimum=2)
    sync(destination_db, refresh, records(new), disable_type_dedupe=True)
    sync(destination_db, one(destination=destination, generation=2), records(newer), disable_type_dedupe=True)
    assert users(destination_db) == [(1, "old")]
    for _ in range(2):
        sync(destination_db, one(destination=destination, generation=2), b"")
        assert users(destination_db) == [(2, "new"), (3, "newer")]


def test_a_refresh_that_began_without_final_tables_goes_on_with_them(destination_db):
    sync(destination_db, one(), records(ROWS))
    refresh = one(generation=2, minimum=2)
    assert write(destination_db, refresh, records(ROWS[:1]) + state(1), disable_type_dedupe=True).exit_code == 1
    sync(destination_db, refresh, records(ROWS[2:]))
    assert users(destination_db) == [(1, "a"), (3, "c")]


def test_raw_only_needs_neither_key_nor_few_columns(destination_db):
    stream = {**USERS_CDC, "json_schema": {"properties": {f"c{number}": {} for number in range(2000)}}}
    stream.pop("source_defined_primary_key")
    sync(destination_db, one(stream, destination="append_dedup"), records(ROWS), disable_type_dedupe=True)
    assert raw_names(destination_db) == ["a", "b", "c"]


def test_rows_that_are_only_raw_are_not_left_out_of_a_final_table(destination_db):
    sync(destination_db, one(), records(ROWS[:1]), disable_type_dedupe=True)
    sync(destination_db, one(), records(ROWS[1:]))
    assert users(destination_db) == [(1, "a"), (3, "c"), (None, "b")]
    assert raw_names(destination_db) == ["a", "b", "c"]


def test_keeping_less_leaves_what_there_is(destination_db):
    for row, retention in zip(ROWS, ("keep", "none", "keep"), strict=True):
        sync(destination_db, one(), record(row), raw_retention=retention)
    assert users(destination_db) == [(1, "a"), (3, "c"), (None, "b")]
    assert raw_names(destination_db) == ["a", "c"]
    assert destination_db.value("select raw_history from airbyte_internal._airbyte_pg_ledger") == "partial"


def test_what_would_lose_every_row_is_refused(destination_db):
    options = {"schema": "public", "disable_type_dedupe": True, "raw_retention": "none"}
    checked = connector.run(DESTINATION, "check", config=destination_db.config(**options))
    assert checked.connection_status["status"] == "FAILED"
    assert "raw_retention none" in checked.connection_status["message"]
