"""SQL as text. Short enough to read, and to see what a change does to it."""

from __future__ import annotations

import re

from psycopg2 import sql

from destination_postgres import sqlgen
from destination_postgres.sqlgen import Dedup, Table

USERS = Table("my schema", 'us"ers')
STAGING = Table("airbyte_internal", "staging")
GRAVES = Table("airbyte_internal", "tombstones")
COLUMNS = ["id", "lsn", "_airbyte_raw_id", "_airbyte_extracted_at"]


def shown(composable: sql.Composable) -> str:
    """The SQL without a connection: identifiers are quoted as the server would, white space is one blank."""
    if isinstance(composable, sql.Composed):
        text = "".join(shown(part) for part in composable.seq)
    elif isinstance(composable, sql.Identifier):
        text = ".".join('"{}"'.format(part.replace('"', '""')) for part in composable.strings)
    elif isinstance(composable, sql.SQL):
        text = composable.string
    else:
        raise TypeError(type(composable))
    return re.sub(r"\s+", " ", text)


def test_tables_and_indexes():
    types = {"id": "bigint", "_airbyte_raw_id": "character varying"}
    assert shown(sqlgen.create_table(USERS, types, required=["_airbyte_raw_id"])) == (
        'create table if not exists "my schema"."us""ers" ("id" bigint, "_airbyte_raw_id" character varying not null)'
    )
    assert shown(sqlgen.create_table(STAGING, {"id": "bigint"}, unlogged=True)) == (
        'create unlogged table if not exists "airbyte_internal"."staging" ("id" bigint)'
    )
    assert shown(sqlgen.create_index("i", USERS, ["a", "b"])) == (
        'create index if not exists "i" on "my schema"."us""ers" ("a", "b")'
    )
    assert shown(sqlgen.drop_tables([USERS, STAGING])) == (
        'drop table if exists "my schema"."us""ers", "airbyte_internal"."staging"'
    )


def test_rows_go_in_by_copy_and_are_never_truncated_where_they_are_read():
    assert shown(sqlgen.copy_in(USERS, ["a", "B c"])) == 'copy "my schema"."us""ers" ("a", "B c") from stdin'
    assert shown(sqlgen.delete_all(USERS)) == 'delete from "my schema"."us""ers"'
    assert shown(sqlgen.append(USERS, STAGING, ["a"])) == (
        'insert into "my schema"."us""ers" ("a") select "a" from "airbyte_internal"."staging"'
    )


def test_merge_without_tombstones():
    found = shown(sqlgen.merge(STAGING, USERS, None, COLUMNS, Dedup(("id",), "lsn", None), [False]))
    newer = (
        'coalesce(t."lsn" > w."lsn", t."lsn" is not null and w."lsn" is null)'
        ' or (t."lsn" is not distinct from w."lsn" and t."_airbyte_extracted_at" > w."_airbyte_extracted_at")'
    )
    assert found == (
        'with winner as (select distinct on ("id") "id", "lsn", "_airbyte_raw_id", "_airbyte_extracted_at"'
        ' from "airbyte_internal"."staging" where "id" is not null'
        ' order by "id", "lsn" desc nulls last, "_airbyte_extracted_at" desc, "_airbyte_raw_id" collate "C" desc), '
        '"rival" as (select w."_airbyte_raw_id" as winner_id, t.place, t.is_newer, true as deletes'
        " from winner w cross join lateral"
        f' (select t.ctid as place, {newer} as is_newer from only "my schema"."us""ers" t'
        ' where t."id" = w."id" offset 0) t), '
        '"outdated" as (delete from only "my schema"."us""ers" t'
        ' where t.ctid = any (array(select place from "rival" where deletes and not is_newer)))'
        ' insert into "my schema"."us""ers" ("id", "lsn", "_airbyte_raw_id", "_airbyte_extracted_at")'
        ' select "id", "lsn", "_airbyte_raw_id", "_airbyte_extracted_at" from winner w'
        ' where w."_airbyte_raw_id" not in (select winner_id from "rival" where is_newer)'
    )


def test_merge_with_tombstones_keeps_what_was_deleted_from_coming_back():
    found = shown(sqlgen.merge(STAGING, USERS, GRAVES, COLUMNS, Dedup(("id",), "lsn", "gone"), [False]))
    assert 'from only "airbyte_internal"."tombstones" t where t."id" = w."id" offset 0) t)' in found
    assert (
        '"lifted" as (delete from only "airbyte_internal"."tombstones" t'
        ' where t.ctid = any (array(select place from "grave" where deletes and not is_newer)))'
    ) in found
    assert (
        'buried as (insert into "airbyte_internal"."tombstones" ("id", "lsn", "_airbyte_extracted_at")'
        ' select "id", "lsn", "_airbyte_extracted_at" from winner w where w."gone" is not null'
        ' and w."_airbyte_raw_id" not in (select winner_id from "grave" where is_newer))'
    ) in found
    assert found.endswith(
        'w."gone" is null and w."_airbyte_raw_id" not in (select winner_id from "grave" where is_newer)'
    )


def test_null_key_parts_are_compared_in_a_way_that_an_index_serves():
    found = shown(sqlgen.merge(STAGING, USERS, None, COLUMNS, Dedup(("a", "b"), None, None), [False, True]))
    assert 'where "a" is not null and "b" is null order by' in found
    assert 'where t."a" = w."a" and t."b" is null offset 0' in found
    assert "is not distinct from" not in found


def test_without_a_cursor_the_time_of_extraction_decides():
    found = shown(sqlgen.merge(STAGING, USERS, None, COLUMNS, Dedup(("id",), None, None), [False]))
    assert 't."_airbyte_extracted_at" > w."_airbyte_extracted_at" as is_newer' in found
    assert 'order by "id", "_airbyte_extracted_at" desc, "_airbyte_raw_id" collate "C" desc' in found


def test_what_a_merge_has_to_reckon_with_is_asked_in_one_query():
    dedup = Dedup(("a", "b"), None, "gone")
    assert shown(sqlgen.survey(STAGING, GRAVES, dedup)) == (
        'select coalesce(bool_or("a" is null or "b" is null), false), coalesce(bool_or("gone" is not null), false),'
        ' exists (select from only "airbyte_internal"."tombstones") from "airbyte_internal"."staging"'
    )
    assert shown(sqlgen.survey(STAGING, None, dedup)) == (
        'select coalesce(bool_or("a" is null or "b" is null), false), coalesce(bool_or(false), false), false'
        ' from "airbyte_internal"."staging"'
    )


def test_rows_under_a_tombstone_are_found_by_its_own_null_parts():
    assert shown(sqlgen.delete_buried(USERS, GRAVES, Dedup(("a", "b"), None, "gone"), [False, True])) == (
        'delete from only "my schema"."us""ers" t using "airbyte_internal"."tombstones" w'
        ' where w."a" is not null and w."b" is null and t."a" = w."a" and t."b" is null'
        ' and not (t."_airbyte_extracted_at" > w."_airbyte_extracted_at")'
    )
