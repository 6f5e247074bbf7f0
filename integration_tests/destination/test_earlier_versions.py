"""Tables that earlier versions left are gone on with: raw ones of 2.x and of version 1, final ones of 2.x and 3.x."""

from __future__ import annotations

import json
import uuid

import pytest

from integration_tests.destination.writing import (
    USERS,
    USERS_CDC,
    Json,
    one,
    raw_count,
    record,
    records,
    state,
    status,
    sync,
    users,
    write,
)
from integration_tests.support.catalogs import stream
from integration_tests.support.databases import Database

RAW = "airbyte_internal.public_raw__stream_users"
# 2.4.0's, its columns in another order than ours.
RAW_TABLE = f"""
create schema airbyte_internal;
create table {RAW} (
  _airbyte_data jsonb, _airbyte_raw_id varchar primary key, _airbyte_loaded_at timestamptz default null,
  _airbyte_extracted_at timestamptz default now(), _airbyte_meta jsonb, _airbyte_generation_id bigint)"""
FINAL_TABLE = """
create table public.users (
  name varchar, id bigint, _airbyte_raw_id varchar(36) not null, _airbyte_extracted_at timestamptz not null,
  _airbyte_generation_id bigint, _airbyte_meta jsonb not null)"""
V1_TABLE = """
create table public._airbyte_raw_users (
  _airbyte_ab_id varchar primary key, _airbyte_data jsonb, _airbyte_emitted_at timestamptz)"""
SYNC_STATE = state(1)


def put(
    db: Database,
    data: Json,
    *,
    typed: bool = False,
    meta: Json | None = None,
    at: str = "2024-01-01 10:00:00.123456+00",
) -> str:
    """A row of 2.x's raw table; its id."""
    raw_id = str(uuid.uuid4())
    db.execute(
        f"insert into {RAW} values (%s, %s, case when %s then now() end, %s, %s, 7)",
        json.dumps(data),
        raw_id,
        typed,
        at,
        None if meta is None else json.dumps(meta),
    )
    return raw_id


def put_final(db: Database, raw_id: str, name: str, number: int) -> None:
    db.execute(
        "insert into public.users values (%s, %s, %s, '2024-01-01 10:00:00+00', 7, '{\"errors\": []}')",
        name,
        number,
        raw_id,
    )


def test_rows_that_2x_has_not_typed_are_typed_with_what_it_knew_of_them(destination_db):
    destination_db.execute(RAW_TABLE)
    first = put(destination_db, {"id": 1, "name": "a\t\\b\nc"}, meta={"changes": [], "sync_id": 12})
    own = {"field": "x", "change": "NULLED", "reason": "SOURCE_RETRIEVAL_ERROR"}
    second = put(destination_db, {"id": "two", "name": None}, meta={"changes": [own], "sync_id": 13})
    third = put(destination_db, {}, meta=None)
    sync(destination_db, one(), record({"id": 4, "name": "new"}) + SYNC_STATE)
    destination_db.execute("set timezone = 'UTC'")
    found = destination_db.rows(
        "select _airbyte_raw_id, id, name, _airbyte_extracted_at::text, _airbyte_generation_id, _airbyte_meta"
        " from public.users where _airbyte_generation_id = 7 order by _airbyte_meta ->> 'sync_id' nulls last"
    )
    at = "2024-01-01 10:00:00.123456+00"
    unfit = {"field": "id", "change": "NULLED", "reason": "DESTINATION_TYPECAST_ERROR"}
    assert found == [
        (first, 1, "a\t\\b\nc", at, 7, {"changes": [], "sync_id": 12}),
        (second, None, None, at, 7, {"changes": [unfit, own], "sync_id": 13}),
        (third, None, None, at, 7, {"changes": [], "sync_id": None}),
    ]
    assert destination_db.value(f"select count(*) from {RAW} where _airbyte_loaded_at is null") == 0
    assert raw_count(destination_db) == 4
    # Once.
    sync(destination_db, one(), SYNC_STATE)
    assert destination_db.value("select count(*) from public.users") == 4


def test_a_sync_of_raw_tables_alone_is_typed_by_the_next_that_types(destination_db):
    rows = records({"id": number % 100, "name": str(number)} for number in range(1000))
    sync(destination_db, one(), records([{"id": 1, "name": "first"}]) + state(1))
    sync(destination_db, one(), rows + state(2), disable_type_dedupe=True)
    assert users(destination_db) == [(1, "first")]
    sync(destination_db, one(destination="append_dedup"), state(3))
    assert users(destination_db) == sorted((number, str(900 + number)) for number in range(100))


def test_deletions_that_2x_has_typed_hold_against_what_comes_late(destination_db):
    destination_db.execute(RAW_TABLE)
    deleted = {"_ab_cdc_deleted_at": "2024-01-01T00:00:00Z"}
    put(destination_db, {"id": 1, "name": "a", "_ab_cdc_lsn": 10}, typed=True)
    put(destination_db, {"id": 1, "_ab_cdc_lsn": 30, **deleted}, typed=True)
    put(destination_db, {"id": 2, "name": "b", "_ab_cdc_lsn": 10})
    put(destination_db, {"id": 2, "_ab_cdc_lsn": 20, **deleted})
    put(destination_db, {"id": 2, "name": "again", "_ab_cdc_lsn": 25})
    catalog = one(USERS_CDC, "append_dedup")
    late = [{"id": 1, "name": "late", "_ab_cdc_lsn": 20}, {"id": 3, "name": "c", "_ab_cdc_lsn": 5}]
    sync(destination_db, catalog, records(late) + SYNC_STATE)
    assert users(destination_db) == [(2, "again"), (3, "c")]


@pytest.mark.parametrize("retention", ["keep", "typed", "none"])
def test_rows_of_version_1_are_taken_over_and_its_table_stays(destination_db, retention):
    destination_db.execute(V1_TABLE)
    old_id = str(uuid.uuid4())
    destination_db.execute(
        'insert into public._airbyte_raw_users values (%s, \'{"id": 1, "name": "old"}\', \'2022-02-02 02:02:02+00\')',
        old_id,
    )
    sync(destination_db, one(), record({"id": 2, "name": "new"}) + SYNC_STATE, raw_retention=retention)
    assert users(destination_db) == [(1, "old"), (2, "new")]
    taken = destination_db.rows("select _airbyte_raw_id, _airbyte_generation_id from public.users where id = 1")
    assert taken == [(old_id, 0)]
    assert destination_db.value("select count(*) from public._airbyte_raw_users") == 1
    sync(destination_db, one(), SYNC_STATE, raw_retention=retention)
    assert users(destination_db) == [(1, "old"), (2, "new")]


def test_rows_of_version_1_do_not_come_back_with_a_refresh(destination_db):
    destination_db.execute(V1_TABLE)
    destination_db.execute("insert into public._airbyte_raw_users values ('x', '{\"id\": 1}', now())")
    catalog = one(generation=2, minimum=2)
    sync(destination_db, catalog, record({"id": 2, "name": "new"}) + SYNC_STATE)
    assert users(destination_db) == [(2, "new")]


def test_a_table_of_the_name_but_not_of_version_1_is_left_alone(destination_db):
    destination_db.execute("create table public._airbyte_raw_users (id int, _airbyte_data jsonb)")
    sync(destination_db, one(), record({"id": 2, "name": "new"}) + SYNC_STATE)
    assert users(destination_db) == [(2, "new")]


def test_version_1s_normalised_table_is_refused_by_name(destination_db):
    destination_db.execute(
        "create table public.users (id bigint, name varchar, _airbyte_ab_id varchar, _airbyte_emitted_at timestamptz)"
    )
    outcome = write(destination_db, one(), SYNC_STATE + status())
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "public.users" in outcome.error["message"]
    assert "Rename" in outcome.error["message"]


def test_final_tables_of_2x_go_on_whatever_the_order_of_their_columns(destination_db):
    destination_db.execute(RAW_TABLE)
    destination_db.execute(FINAL_TABLE.replace("  _airbyte_generation_id bigint,", ""))
    destination_db.execute(f"alter table {RAW} drop column _airbyte_meta, drop column _airbyte_generation_id")
    raw_id = str(uuid.uuid4())
    destination_db.execute(f"insert into {RAW} values ('{{\"id\": 1}}', %s, now(), now())", raw_id)
    destination_db.execute("insert into public.users values ('old', 1, %s, '2020-02-02', '{\"errors\": []}')", raw_id)
    sync(
        destination_db,
        one(USERS, "append_dedup"),
        records([{"id": 1, "name": "new"}, {"id": 2}]) + SYNC_STATE,
    )
    assert users(destination_db) == [(1, "new"), (2, None)]
    assert raw_count(destination_db) == 3


ODD = stream("users", {"id": "integer", "price": "number", "either": "string"}, key=["id"])
ODD["json_schema"]["properties"]["either"] = {"type": ["string", "integer", "null"]}


def test_final_tables_of_3x_go_on_with_the_columns_that_they_have(destination_db):
    """3.x keeps unions as jsonb, and numbers without limits."""
    destination_db.execute(
        "create table public.users (_airbyte_raw_id varchar not null, _airbyte_extracted_at timestamptz not null,"
        " _airbyte_meta jsonb not null, _airbyte_generation_id bigint, id bigint, price decimal, either jsonb)"
    )
    destination_db.execute("insert into public.users values ('r', now(), '{\"changes\": []}', 1, 1, 1.5, '\"x\"')")
    given = '{"id": 2, "price": 123456789012345678901234567890.1234567890123, "either": 7}'
    sync(destination_db, one(ODD), record(given) + SYNC_STATE, unconstrained_number=False)
    assert destination_db.rows("select id, price::text, either::text from public.users order by id") == [
        (1, "1.5", '"x"'),
        (2, "123456789012345678901234567890.1234567890123", "7"),
    ]


def test_many_rows_are_typed_in_parts_and_a_kill_is_gone_on_from(destination_db):
    destination_db.execute(RAW_TABLE)
    destination_db.execute(
        f"insert into {RAW} select json_build_object('id', i, 'name', repeat('x', 1000)), md5(i::text), null, now(),"
        " null, 7 from generate_series(1, 40000) i"
    )
    # The second part finds a row that the table's rule does not let in, as if the process had died there.
    destination_db.execute(
        FINAL_TABLE.replace(
            "name varchar, id bigint", "name varchar, id bigint constraint not_this check (id <> 35000)"
        )
    )
    outcome = write(destination_db, one(), SYNC_STATE + status())
    assert outcome.exit_code == 1
    assert 0 < destination_db.value("select count(*) from public.users") < 35000
    destination_db.execute("alter table public.users drop constraint not_this")
    sync(destination_db, one(), SYNC_STATE)
    assert destination_db.rows(
        "select count(*), count(distinct id), min(_airbyte_generation_id) from public.users"
    ) == [(40000, 40000, 7)]
