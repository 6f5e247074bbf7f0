"""Airbyte's cases that begin with tables of an earlier version: 0.6.3 (v1), 2.0.4 (no meta in raw), 2.0.15 (no ids).

The tables are made here with the DDL of those versions (reference 3.2, 3.3, 3.10) and hold what they had written.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable

import pytest
from psycopg2 import sql
from psycopg2.extras import execute_values

from integration_tests.destination.test_typing_vectors import COLUMNS, typed_stream
from integration_tests.destination.vectors import (
    cases,
    configured_stream,
    expect_same,
    expect_tables,
    expected,
    lines_of,
    messages,
    needs_vectors,
    objects,
    stored,
)
from integration_tests.destination.writing import Json, state, status, write
from integration_tests.support.databases import Database

pytestmark = needs_vectors

V1 = """\
create schema if not exists {schema};
create table {table} (
  _airbyte_ab_id varchar primary key, _airbyte_data jsonb,
  _airbyte_emitted_at timestamp with time zone default current_timestamp)"""
# Of 2.0.15; before, raw had no meta.
RAW = """\
create schema if not exists airbyte_internal;
create table {table} (
  _airbyte_raw_id varchar primary key, _airbyte_data jsonb,
  _airbyte_extracted_at timestamp with time zone default current_timestamp,
  _airbyte_loaded_at timestamp with time zone default null{meta});
create index {name}_raw_id on {table} (_airbyte_raw_id);
create index {name}_extracted_at on {table} (_airbyte_extracted_at);
create index {name}_loaded_at on {table} (_airbyte_loaded_at, _airbyte_extracted_at)"""
FINAL = """\
create schema {schema};
create table {table} (
  id1 bigint, id2 bigint, updated_at timestamp with time zone, _ab_cdc_deleted_at timestamp with time zone,
  name varchar, address jsonb, age bigint, registration_date date,
  _airbyte_raw_id varchar(36) not null, _airbyte_extracted_at timestamp with time zone not null,
  _airbyte_meta jsonb not null);
create index on {table} (id1, id2, updated_at, _airbyte_extracted_at);
create index on {table} (_airbyte_extracted_at);
create index on {table} (_airbyte_raw_id)"""
LOADED_AT = "2024-01-01T00:00:00Z"
OLD = "expected-postgres-2.4.0/dat/sync1_expectedrecords_"
REPLACED = "expected-postgres-2.4.0/dat/sync2_expectedrecords"


def insert(db: Database, table: sql.Identifier, rows: Iterable[Json]) -> None:
    """Rows as an earlier version wrote them; objects are jsonb."""
    given = list(rows)
    names = list(dict.fromkeys(name for row in given for name in row))
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    statement = sql.SQL("insert into {} ({}) values %s").format(table, columns)
    values = [
        [json.dumps(cell) if isinstance(cell, dict | list) else cell for cell in map(row.get, names)] for row in given
    ]
    connection = db.connect()
    try:
        with connection.cursor() as cursor:
            execute_values(cursor, statement, values)
    finally:
        connection.close()


def make_v1(db: Database, schema: str, table: str, rows: Iterable[Json]) -> None:
    """A raw table of version 1."""
    named = sql.Identifier(schema, table)
    db.execute(sql.SQL(V1).format(schema=sql.Identifier(schema), table=named))
    insert(db, named, rows)


def make_v2(db: Database, schema: str, final: Iterable[Json], *, with_meta: bool) -> None:
    """Raw and final table of a version without generation ids, after the first sync; ``final``: rows as 2.4 has them.

    Until 2.0.4 there was no meta in raw, and another one in final.
    """
    raw = sql.Identifier("airbyte_internal", f"{schema}_raw__stream_s")
    meta = sql.SQL(", _airbyte_meta jsonb default null" if with_meta else "")
    db.execute(sql.SQL(RAW).format(table=raw, name=sql.SQL(f"{schema}_raw__stream_s"), meta=meta))
    rows = [as_before(row, with_meta=with_meta) for row in objects(f"{OLD}raw.jsonl")]
    insert(db, raw, ({**row, "_airbyte_raw_id": str(uuid.uuid4()), "_airbyte_loaded_at": LOADED_AT} for row in rows))
    table = sql.Identifier(schema, "s")
    db.execute(sql.SQL(FINAL).format(schema=sql.Identifier(schema), table=table))
    typed = [as_before(row, with_meta=True) for row in final]
    errors: Json = {} if with_meta else {"_airbyte_meta": {"errors": []}}
    insert(db, table, ({**row, **errors, "_airbyte_raw_id": str(uuid.uuid4())} for row in typed))


def as_before(row: Json, *, with_meta: bool) -> Json:
    """A row as it was before there were generations and sync ids."""
    left = {key: value for key, value in row.items() if key not in {"_airbyte_generation_id", "_airbyte_meta"}}
    return {**left, "_airbyte_meta": {"changes": row["_airbyte_meta"]["changes"]}} if with_meta else left


@pytest.mark.parametrize("case", ["testRawTableMetaMigration_append", "testRawTableMetaMigration_incrementalDedupe"])
def test_tables_without_meta(destination_db, case):
    (sync,) = cases("end_to_end")[case]["syncs"]
    kept = "dedup" if sync["destination_sync_mode"] == "append_dedup" else "nondedup"
    make_v2(destination_db, "dat", objects(f"{OLD}{kept}_final.jsonl"), with_meta=False)
    catalog = {"streams": [configured_stream(sync, namespace="dat")]}
    outcome = write(destination_db, catalog, lines_of(sync, namespace="dat"))
    assert outcome.exit_code == 0, outcome
    raw, final = expected(sync["expected_raw"]), expected(sync["expected_final"])
    expect_tables(destination_db, "dat", "s", raw=raw, final=final)


def test_tables_without_generations(destination_db):
    _, sync = cases("end_to_end")["testAirbyteMetaAndGenerationIdMigration"]["syncs"]
    make_v2(destination_db, "dat", objects(f"{OLD}nondedup_final.jsonl"), with_meta=True)
    catalog = {"streams": [configured_stream(sync, namespace="dat")]}
    outcome = write(destination_db, catalog, lines_of(sync, namespace="dat"))
    assert outcome.exit_code == 0, outcome
    raw, final = (
        [as_before(row, with_meta=True) if number < 5 else row for number, row in enumerate(expected(sync[part]))]
        for part in ("expected_raw", "expected_final")
    )
    expect_tables(destination_db, "dat", "s", raw=raw, final=final)
    # Nothing was typed anew.
    loads = "select count(*), _airbyte_loaded_at = %s from airbyte_internal.dat_raw__stream_s group by 2 order by 2"
    assert destination_db.rows(loads, LOADED_AT) == [(3, False), (5, True)]


def test_tables_without_generations_are_replaced(destination_db):
    """The same case for overwrite, which CASES.json has not: only the rows of the second sync are left."""
    _, sync = cases("end_to_end")["testAirbyteMetaAndGenerationIdMigration"]["syncs"]
    make_v2(destination_db, "dat", objects(f"{OLD}nondedup_final.jsonl"), with_meta=True)
    stream = configured_stream({**sync, "minimum_generation_id": 43}, namespace="dat")
    outcome = write(destination_db, {"streams": [stream]}, lines_of(sync, namespace="dat"))
    assert outcome.exit_code == 0, outcome
    raw, final = expected(f"{REPLACED}_overwrite_raw.jsonl"), expected(f"{REPLACED}_fullrefresh_overwrite_final.jsonl")
    expect_tables(destination_db, "dat", "s", raw=raw, final=final)


def test_a_raw_table_of_version_1_whose_stream_has_capitals(destination_db):
    (sync,) = cases("end_to_end")["testMixedCaseRawTableV1V2Migration"]["syncs"]
    before: list[Json] = [
        {
            "_airbyte_ab_id": str(uuid.uuid4()),
            "_airbyte_data": each["data"],
            "_airbyte_emitted_at": "1970-01-01T00:00:01Z",
        }
        for each in messages({"messages": ["inputs/dat/sync1_messages.jsonl"]})
    ]
    make_v1(destination_db, "dat", "_airbyte_raw_mixed_case_table", before)
    name = "Mixed Case Table"
    catalog = {"streams": [configured_stream(sync, namespace="dat", name=name)]}
    outcome = write(destination_db, catalog, lines_of(sync, namespace="dat", name=name))
    assert outcome.exit_code == 0, outcome
    raw, final = expected(sync["expected_raw"]), expected(sync["expected_final"])
    expect_tables(destination_db, "dat", "Mixed_Case_Table", raw=raw, final=final)
    assert ids(destination_db, "dat._airbyte_raw_mixed_case_table", "_airbyte_ab_id") == before_ids(before)
    assert ids(destination_db, "airbyte_internal.dat_raw__stream_mixed_case_table") > before_ids(before)


def test_a_raw_table_of_version_1(destination_db):
    case = cases("sql_generator")["testV1V2migration"]
    before = [row for file in case["v1_raw_input"] for row in objects(file)]
    make_v1(destination_db, "public", "_airbyte_raw_t", before)
    catalog = {"streams": [typed_stream(COLUMNS, case["mode"])]}
    outcome = write(destination_db, catalog, state(1, "t") + status("t"))
    assert outcome.exit_code == 0, outcome
    expect_same(stored(destination_db, "airbyte_internal", "public_raw__stream_t"), expected(case["expected_raw"]))
    expect_same(stored(destination_db, "public", "t"), expected(case["expected_final"]))
    for table in ("airbyte_internal.public_raw__stream_t", "public.t"):
        assert ids(destination_db, table) == before_ids(before)
    assert len(ids(destination_db, "public._airbyte_raw_t", "_airbyte_ab_id")) == 5


def ids(db: Database, table: str, column: str = "_airbyte_raw_id") -> set[str]:
    return {found for (found,) in db.rows(f"select {column} from {table}")}


def before_ids(rows: Iterable[Json]) -> set[str]:
    return {row["_airbyte_ab_id"] for row in rows}


def test_the_file_of_the_first_sync_before_meta_has_the_same_rows():
    """So that the tables above may be filled from the rows that later versions have for it."""
    found = objects("expected-postgres-2.4.0/dat/sync1_messages_before_meta.jsonl")
    assert found == objects("inputs/dat/sync1_messages.jsonl")
