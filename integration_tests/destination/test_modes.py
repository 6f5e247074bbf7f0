"""The four modes over two syncs, and what the tables look like."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from integration_tests.destination.writing import (
    USERS,
    USERS_CDC,
    one,
    own_tables,
    raw_count,
    record,
    records,
    state,
    status,
    sync,
    users,
    write,
)
from integration_tests.support import connector
from integration_tests.support.catalogs import TYPES, configured, stream
from integration_tests.support.connector import DESTINATION

FIRST = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
SECOND = [{"id": 2, "name": "c"}, {"id": 3, "name": "d"}]


def test_append_adds(destination_db):
    for rows in (FIRST, SECOND):
        sync(destination_db, one(), records(rows))
    assert users(destination_db) == [(1, "a"), (2, "b"), (2, "c"), (3, "d")]
    assert raw_count(destination_db) == 4


def test_append_dedup_replaces_by_key(destination_db):
    for emitted_at, rows in enumerate((FIRST, SECOND)):
        sync(destination_db, one(destination="append_dedup"), records(rows, emitted_at=emitted_at))
    assert users(destination_db) == [(1, "a"), (2, "c"), (3, "d")]
    assert raw_count(destination_db) == 4
    assert own_tables(destination_db) == set()


@pytest.mark.parametrize("generations", [(1, 2), (1, 1), (None, None)])
def test_overwrite_replaces_everything(destination_db, generations):
    for generation, rows in zip(generations, (FIRST, SECOND), strict=True):
        catalog = one(sync_mode="full_refresh", destination="overwrite", generation=generation, minimum=generation)
        sync(destination_db, catalog, records(rows))
    assert users(destination_db) == [(2, "c"), (3, "d")]
    assert raw_count(destination_db) == 2
    assert own_tables(destination_db) == set()


@pytest.mark.parametrize("destination", ["append", "append_dedup"])
def test_a_truncate_refresh_replaces_everything(destination_db, destination):
    """What the platform sends for full refresh | overwrite to a destination that supports refreshes."""
    sync(destination_db, one(destination=destination, generation=1, minimum=0), records(FIRST))
    sync(destination_db, one(destination=destination, generation=2, minimum=2), records(SECOND))
    assert users(destination_db) == [(2, "c"), (3, "d")]
    assert raw_count(destination_db) == 2
    generations = destination_db.rows("select distinct _airbyte_generation_id from public.users")
    assert generations == [(2,)]


def test_clear_leaves_empty_tables(destination_db):
    sync(destination_db, one(), records(FIRST))
    sync(destination_db, one(generation=2, minimum=2), b"")
    assert users(destination_db) == []
    assert raw_count(destination_db) == 0


def test_deletions_of_a_cdc_source(destination_db):
    catalog = one(USERS_CDC, "append_dedup")
    sync(destination_db, catalog, records([{**row, "_ab_cdc_lsn": 10} for row in FIRST]))
    deletion = {"id": 1, "_ab_cdc_lsn": 20, "_ab_cdc_deleted_at": "2024-01-01T00:00:00Z"}
    sync(destination_db, catalog, records([deletion]))
    assert users(destination_db) == [(2, "b")]
    assert raw_count(destination_db) == 3
    appended = one({**USERS_CDC, "name": "appended"})
    sync(destination_db, appended, record(deletion, "appended"))
    assert destination_db.value("select _ab_cdc_deleted_at from public.appended") == "2024-01-01T00:00:00Z"


def test_tables_have_airbytes_columns(destination_db):
    catalog = one(stream("everything", {f"c_{kind}": kind for kind in TYPES} | {"c_any": {}}))
    data = {"c_string": "x", "c_integer": 1, "c_any": None}
    meta = {"changes": [{"field": "c_number", "change": "NULLED", "reason": "SOURCE_RETRIEVAL_ERROR"}]}
    sync(destination_db, catalog, record(data, "everything", meta=meta) + state(1, "everything"))
    columns = (
        "select column_name, data_type, is_nullable from information_schema.columns"
        " where table_schema = %s and table_name = %s order by ordinal_position"
    )
    assert destination_db.rows(columns, "public", "everything") == [
        ("c_string", "character varying", "YES"),
        ("c_integer", "bigint", "YES"),
        ("c_number", "numeric", "YES"),
        ("c_boolean", "boolean", "YES"),
        ("c_date", "date", "YES"),
        ("c_timestamp", "timestamp without time zone", "YES"),
        ("c_timestamptz", "timestamp with time zone", "YES"),
        ("c_time", "time without time zone", "YES"),
        ("c_timetz", "time with time zone", "YES"),
        ("c_array", "jsonb", "YES"),
        ("c_object", "jsonb", "YES"),
        ("c_any", "jsonb", "YES"),
        ("_airbyte_raw_id", "character varying", "NO"),
        ("_airbyte_extracted_at", "timestamp with time zone", "NO"),
        ("_airbyte_generation_id", "bigint", "YES"),
        ("_airbyte_meta", "jsonb", "NO"),
    ]
    assert destination_db.rows(columns, "airbyte_internal", "public_raw__stream_everything") == [
        ("_airbyte_raw_id", "character varying", "YES"),
        ("_airbyte_data", "jsonb", "YES"),
        ("_airbyte_extracted_at", "timestamp with time zone", "YES"),
        ("_airbyte_loaded_at", "timestamp with time zone", "YES"),
        ("_airbyte_meta", "jsonb", "YES"),
        ("_airbyte_generation_id", "bigint", "YES"),
    ]
    ((raw_id, found, extracted_ms, is_loaded, raw_meta, generation),) = destination_db.rows(
        "select _airbyte_raw_id, _airbyte_data, extract(epoch from _airbyte_extracted_at) * 1000,"
        " _airbyte_loaded_at between now() - interval '5 minutes' and now() + interval '5 minutes',"
        " _airbyte_meta, _airbyte_generation_id from airbyte_internal.public_raw__stream_everything"
    )
    assert (found, extracted_ms, is_loaded, generation) == (data, Decimal(1_700_000_000_000), True, 1)
    assert raw_meta == {**meta, "sync_id": 1}
    ((final_id, any_value, final_meta),) = destination_db.rows(
        "select _airbyte_raw_id, c_any::text, _airbyte_meta from public.everything"
    )
    assert (final_id, any_value, final_meta) == (raw_id, "null", raw_meta)


def test_streams_of_several_modes_in_one_sync_with_odd_names(destination_db):
    plain = {**USERS, "name": "Plain Tàble!", "namespace": None}
    odd = stream(
        'o"dd',
        {"key col": "integer", 'va"l\\ue': "string", "vå lue": "string", "va_lue": "string", "_airbyte_meta": "string"},
        namespace="Ünusual näme",
        key=["key col"],
    )
    long = {**USERS, "name": "l" * 70}
    catalog = {
        "streams": [
            *configured([plain], destination="append")["streams"],
            *configured([odd], destination="append_dedup")["streams"],
            *configured([long], destination="overwrite")["streams"],
        ]
    }
    values = {"key col": 1, 'va"l\\ue': "1", "vå lue": "2", "va_lue": "3", "_airbyte_meta": "4"}
    for _ in range(2):
        sync(
            destination_db,
            catalog,
            record({"id": 1}, "Plain Tàble!", namespace=None)
            + record(values, 'o"dd', namespace="Ünusual näme")
            + record({"id": 2}, "l" * 70)
            + state(1, None),
        )
    assert destination_db.value('select count(*) from public."Plain_Table_"') == 2
    assert destination_db.rows(
        'select key_col, va_l_ue, va_lue, va_lue_1, _airbyte_meta_1 from "Unusual_name".o_dd'
    ) == [(1, "1", "2", "3", "4")]
    ((long_name,),) = destination_db.rows("select tablename from pg_tables where tablename like 'llll%'")
    assert len(long_name) == 63
    assert destination_db.value(f'select count(*) from public."{long_name}"') == 1
    raw = {name for (name,) in destination_db.rows("select tablename from pg_tables where tablename ~ '_raw__'")}
    assert {"public_raw__stream_plain_table_", "unusual_name_raw__stream_o_dd"} <= raw


def test_fields_with_names_that_the_server_or_our_sql_uses(destination_db):
    fields = ["ctid", "w", "xmin", "t", "winner", "rival", "place", "is_newer", "is_beaten", "tableoid", "row_number"]
    for cursor in ("t", "winner"):
        odd = stream(f"odd_{cursor}", dict.fromkeys(fields, "integer"), key=fields[:3])
        catalog = one(odd | {"default_cursor_field": [cursor]}, "append_dedup")
        row = dict.fromkeys(fields, 1)
        lines = (record(changed, odd["name"]) for changed in (row, {**row, cursor: 3}, {**row, cursor: 2, "rival": 2}))
        sync(destination_db, catalog, state(1).join(lines), flush_bytes=1)
        columns = ", ".join(name if name not in ("ctid", "xmin", "tableoid") else f"{name}_1" for name in fields)
        (found,) = destination_db.rows(f"select {columns} from public.{odd['name']}")
        assert dict(zip(fields, found, strict=True)) == {**row, cursor: 3}


def test_a_new_stream_in_the_catalog_does_not_take_an_older_ones_table(destination_db):
    old, new = {**USERS, "name": "a_b"}, {**USERS, "name": "a b"}
    sync(destination_db, one(old), record({"id": 1, "name": "old"}, "a_b"))
    sync(
        destination_db,
        configured([new, old], destination="append"),
        record({"id": 2, "name": "new"}, "a b") + record({"id": 3, "name": "old"}, "a_b"),
    )
    assert destination_db.rows("select distinct name from public.a_b") == [("old",)]


def test_several_syncs_may_begin_at_once(destination_db):
    """They create the same schemas and the same ledger; whoever comes second goes on with what is there."""
    names = [f"s{number}" for number in range(6)]
    config = destination_db.config(schema="my schema")
    started = []
    for name in names:
        catalog = one({**USERS, "name": name, "namespace": None}, "append_dedup")
        running = connector.start(DESTINATION, "write", config=config, catalog=catalog)
        running.write(record({"id": 1}, name, namespace=None) + status(name, namespace=None))
        started.append(running)
    for running in started:
        with running:
            outcome = running.finish()
        assert outcome.exit_code == 0, outcome
    for name in names:
        assert destination_db.value(f"select count(*) from my_schema.{name}") == 1


def test_existing_tables_are_continued_in_any_order_of_columns(destination_db):
    """A table that destination-postgres 3.x made (its columns first), and a raw table of 2.x with its indexes."""
    destination_db.execute(
        "create table public.users (_airbyte_raw_id varchar not null, _airbyte_extracted_at timestamptz not null,"
        " _airbyte_meta jsonb not null, _airbyte_generation_id bigint, name varchar, id bigint);"
        "insert into public.users values ('x', now(), '{}', 0, 'old', 7);"
        "create schema airbyte_internal;"
        "create table airbyte_internal.public_raw__stream_users (_airbyte_raw_id varchar primary key,"
        " _airbyte_data jsonb, _airbyte_extracted_at timestamptz default now(), _airbyte_loaded_at timestamptz,"
        " _airbyte_meta jsonb, _airbyte_generation_id bigint)"
    )
    sync(destination_db, one(), records(FIRST))
    assert users(destination_db) == [(1, "a"), (2, "b"), (7, "old")]
    assert raw_count(destination_db) == 2


@pytest.mark.parametrize("destination", ["append", "append_dedup"])
def test_rows_that_2x_acknowledged_and_never_typed_are_not_forgotten(destination_db, destination):
    sync(destination_db, one(destination=destination), records(FIRST))
    # As a sync of 2.x leaves them that is broken off: it types at the end, and acknowledges before.
    destination_db.execute("delete from public.users where id = 2; drop table airbyte_internal._airbyte_pg_ledger")
    destination_db.execute(
        "update airbyte_internal.public_raw__stream_users set _airbyte_loaded_at = null"
        " where _airbyte_data ->> 'id' = '2'"
    )
    sync(destination_db, one(destination=destination), record({"id": 3}))
    assert users(destination_db) == [(1, "a"), (2, "b"), (3, None)]


@pytest.mark.parametrize(
    ("ddl", "texts"),
    [
        ("create table public.users (id bigint, name varchar)", ["public.users", "no _airbyte columns"]),
        ("create view public.users as select 1 as id", ["public.users", "no ordinary table"]),
        ("create table public.users (id bigint) partition by list (id)", ["public.users", "no ordinary table"]),
        (
            "create table public.users (id bigint); create table public.child () inherits (public.users)",
            ["public.users", "has child tables"],
        ),
        (
            "create table public.users (id int, old text, _airbyte_raw_id varchar, _airbyte_extracted_at timestamptz,"
            " _airbyte_generation_id bigint, _airbyte_meta jsonb)",
            ["public.users", "id (integer instead of bigint)"],
        ),
    ],
)
def test_tables_that_do_not_fit_are_left_alone(destination_db, ddl, texts):
    destination_db.execute(ddl)
    outcome = write(destination_db, one(), records(FIRST) + state(1))
    assert outcome.exit_code == 1
    assert outcome.states == []
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert outcome.error["stream_descriptor"] == {"name": "users", "namespace": "public"}
    for text in texts:
        assert text in outcome.error["message"]


@pytest.mark.parametrize(
    "ddl",
    [
        "create view public.users as select * from public.mine",
        "create type public.users as enum ()",
        "create index users on public.mine (id)",
    ],
)
def test_what_has_taken_the_name_of_a_table_is_left_alone(destination_db, ddl):
    sync(destination_db, one(), records(FIRST))
    destination_db.execute(f"alter table public.users rename to mine; {ddl}")
    columns = stream("users", {"id": "integer", "name": "string", "new": "string"}, key=["id"])
    outcome = write(destination_db, one(columns), records(FIRST) + state(1))
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "public.users exists and is no ordinary table" in outcome.error["message"]
    assert outcome.states == []
    assert destination_db.value("select count(*) from public.mine") == len(FIRST)


def test_what_was_committed_is_logged_by_stream_and_flush(destination_db):
    outcome = sync(destination_db, one(), records(FIRST) + state(1))
    size = sum(len(json.dumps(row)) for row in FIRST)
    assert [log["message"] for log in outcome.logs] == [f"committed stream=public.users rows=2 bytes={size}"]
