"""Names of schemas, tables and columns as the server has them: reference 3.1, line by line, and its limits."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.destination.writing import Json, one, record, records, state, status, sync, write
from integration_tests.support.catalogs import configured, stream
from integration_tests.support.databases import Database

LONG = "n" * 70
COLUMN_LIMIT = 1596


def columns(db: Database, table: str) -> list[str]:
    """The user's columns of a table, in their order."""
    found = db.rows(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
        " and attname !~ '^_airbyte_(raw_id|extracted_at|generation_id|meta)$' order by attnum",
        table,
    )
    return [name for (name,) in found]


def tables(db: Database) -> set[tuple[str, str]]:
    """All of the tables that a sync has made for streams."""
    return set(
        db.rows(
            "select schemaname::text, tablename::text from pg_tables"
            " where schemaname !~ '^(pg_|information_schema)' and tablename <> '_airbyte_pg_ledger'"
        )
    )


@pytest.mark.parametrize(
    ("namespace", "name", "final", "raw"),
    [
        ("identifiêr name", "a_unicode_name_文", ("identifier_name", "a_unicode_name__"), None),
        ("Ünï", ",identifier+name", ("Uni", "_identifier_name"), "uni_raw__stream__identifier_name"),
        ('"quoted"', "users USE special !@#$", ("_quoted_", "users_USE_special_____"), None),
        ("1st", "select", ("1st", "select"), "1st_raw__stream_select"),
        ("aaa_abab_bbb", "ccc", ("aaa_abab_bbb", "ccc"), "aaa_abab_bbb_raw__stream_ccc"),
        ("a__b", "c___d", ("a__b", "c___d"), "a__b_raw____stream_c___d"),
        ("Mixed", "Case", ("Mixed", "Case"), "mixed_raw__stream_case"),
    ],
)
def test_a_stream_gets_the_tables_that_2x_gives_it(destination_db, namespace, name, final, raw):
    of = stream(name, {"id": "integer"}, namespace=namespace, key=["id"])
    sync(destination_db, one(of, "append_dedup"), record({"id": 1}, name, namespace=namespace))
    found = tables(destination_db)
    assert final in found
    assert raw is None or ("airbyte_internal", raw) in found
    assert destination_db.value(f'select id from "{final[0]}"."{final[1]}"') == 1


def test_every_kind_of_name_is_cut_and_never_shared(destination_db):
    """Two of each that differ behind the 63rd character only; in every mode, so that helper tables are made."""
    names = [LONG + "a", LONG + "b"]
    fields = {"id": "integer", LONG + "x": "string", LONG + "y": "string", LONG + "z": "string"}
    streams = [stream(name, fields, namespace=space, key=["id"], cdc=True) for space in names for name in names]
    for number, destination in enumerate(("append_dedup", "append", "overwrite", "append_dedup"), start=1):
        catalog = configured(streams, destination=destination, generation=number, minimum=number)
        given = b"".join(
            record({"id": 1, LONG + "x": f"{space[-1]}{name[-1]}", LONG + "z": "z"}, name, namespace=space)
            for space in names
            for name in names
        )
        sync(destination_db, catalog, given, raw_data_schema=LONG)
    made = sorted(tables(destination_db))
    finals = [table for table in made if "n" * 50 in table[0] and "n" * 50 in table[1]]
    finals = [table for table in finals if columns(destination_db, '"{}"."{}"'.format(*table))[:1] == ["id"]]
    assert len(finals) == 4
    shown = set()
    for schema, table in finals:
        user_columns = columns(destination_db, f'"{schema}"."{table}"')
        assert len(set(user_columns[:4])) == 4
        shown |= set(destination_db.rows(f'select "{user_columns[1]}", "{user_columns[3]}" from "{schema}"."{table}"'))
    assert shown == {("aa", "z"), ("ab", "z"), ("ba", "z"), ("bb", "z")}


def test_adding_a_stream_renames_none(destination_db):
    spelt = [stream(name, {"id": "integer"}) for name in ("foo_foo", "foo foo", "foo-foo")]
    sync(destination_db, configured(spelt[1:2], destination="append"), record({"id": 1}, "foo foo"))
    given = b"".join(record({"id": number}, of["name"]) for number, of in enumerate(spelt))
    sync(destination_db, configured(spelt, destination="append"), given)
    assert destination_db.rows("select id from public.foo_foo order by 1") == [(1,), (1,)]
    sync(destination_db, configured(spelt[::-1], destination="append"), given)
    assert destination_db.rows("select id from public.foo_foo order by 1") == [(1,), (1,), (1,)]


def test_the_order_of_fields_and_new_ones_rename_no_column(destination_db):
    def of(*fields: str) -> Json:
        return stream("users", {"id": "integer", **dict.fromkeys(fields, "string")}, key=["id"])

    def put(number: int, *fields: str) -> None:
        row = {"id": number, **{field: f"{field}{number}" for field in fields}}
        sync(destination_db, one(of(*fields), "append_dedup"), record(row) + state(number))

    put(1, "a b", "a_b")
    put(2, "a_b", "a b")
    put(3, "a-b", "a_b", "a b")
    # One is gone, and its name is not given to the one that comes.
    put(4, "a.b", "a_b", "a-b")
    query = "select id, {} from public.users order by id"
    assert columns(destination_db, "public.users") == ["id", "a_b_1", "a_b_2", "a_b_3"]
    assert destination_db.rows(query.format("a_b_1, a_b_2, a_b_3")) == [
        (1, "a_b1", None, None),
        (2, "a_b2", None, None),
        (3, "a_b3", "a-b3", None),
        (4, "a_b4", "a-b4", "a.b4"),
    ]


def test_columns_are_named_like_ours_and_the_servers(destination_db):
    fields = [
        "_airbyte_raw_id",
        "_airbyte_meta",
        "_airbyte_data",
        "ctid",
        "xmin",
        "oid",
        "tableoid",
        "select",
        "Select",
        "",
    ]
    of = stream("users", dict.fromkeys(fields, "string"), key=["_airbyte_raw_id"])
    row = {field: f"<{field}>" for field in fields}
    for destination in ("append_dedup", "append"):
        sync(destination_db, one(of, destination), record(row))
    found = dict(zip(fields, columns(destination_db, "public.users"), strict=True))
    assert found["_airbyte_raw_id"] == "_airbyte_raw_id_1"
    assert found["select"] == "select"
    assert found[""] == "_"
    for field, column in found.items():
        assert destination_db.rows(f'select distinct "{column}" from public.users') == [(f"<{field}>",)]


@pytest.mark.parametrize("destination", ["append", "append_dedup", "overwrite"])
def test_as_many_columns_as_a_table_can_have(destination_db, destination):
    of = stream("users", {"id": "integer", **{f"c{n}": "string" for n in range(1, COLUMN_LIMIT)}}, key=["id"])
    given: list[Json] = [{"id": 1, **{f"c{n}": "x" for n in range(1, COLUMN_LIMIT, 2)}}, {"id": 2}]
    sync(destination_db, one(of, destination), records(given))
    assert len(columns(destination_db, "public.users")) == COLUMN_LIMIT
    assert destination_db.rows("select id, c1, c1595 from public.users order by id") == [(1, "x", "x"), (2, None, None)]


def test_one_column_too_many_is_refused_before_anything_is_written(destination_db):
    of = stream("users", {f"c{n}": "string" for n in range(COLUMN_LIMIT + 1)})
    outcome = write(destination_db, one(of), record({"c1": "x"}) + state(1) + status())
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert str(COLUMN_LIMIT) in outcome.error["message"]
    assert outcome.states == []


def test_a_row_that_is_wider_than_a_page_loses_as_little_as_can_be(destination_db):
    """1,596 numbers need more than the 8 KiB that the server has for a row; they are in the raw table."""
    of = stream("users", {f"c{n}": "integer" for n in range(COLUMN_LIMIT)})
    row: dict[str, Any] = {f"c{n}": 10**15 + n for n in range(COLUMN_LIMIT)}
    sync(destination_db, one(of), record({"c1": 1}) + record(row))
    nulled = destination_db.value(
        "select jsonb_array_length(_airbyte_meta -> 'changes') from public.users where c1 is distinct from 1"
    )
    assert 0 < nulled < COLUMN_LIMIT
    assert destination_db.value("select count(*) from airbyte_internal.public_raw__stream_users") == 2


def test_what_is_unqualified_is_looked_for_in_the_configured_schemas(destination_db):
    """In the user's own triggers, say. The first schema takes the streams without a namespace."""
    destination_db.execute(
        """create schema one; create schema "Two"; create table "Two".seen (id bigint);
        create table one.users (
          id bigint, _airbyte_raw_id varchar, _airbyte_extracted_at timestamptz, _airbyte_meta jsonb);
        create function one.note() returns trigger language plpgsql as
          $$ begin insert into seen values (new.id); return new; end $$;
        create trigger note before insert on one.users for each row execute procedure one.note()"""
    )
    of = {**stream("users", {"id": "integer"}), "namespace": None}
    given = record({"id": 7}, namespace=None)
    catalog = one(of)
    ends = status(namespace=None)
    outcome = write(destination_db, catalog, given + ends, schema="one, Two")
    assert outcome.exit_code == 0, outcome
    assert destination_db.rows('select id from "Two".seen') == [(7,)]
    assert destination_db.rows("select id from one.users") == [(7,)]
