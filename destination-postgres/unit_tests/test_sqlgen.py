"""SQL as text. Short enough to read, and to see what a change does to it."""

from __future__ import annotations

import re

from psycopg2 import sql

from destination_postgres import mergesql, sqlgen
from destination_postgres.sqlgen import Dedup, Table

USERS = Table("my schema", 'us"ers')
STAGING = Table("airbyte_internal", "staging")
GRAVES = Table("airbyte_internal", "tombstones")
COLUMNS = ["id", "lsn", "_airbyte_raw_id", "_airbyte_extracted_at"]
PLAIN = Dedup(("id",), "lsn", None, (None,))
CDC = Dedup(("id",), "lsn", "gone", (None,))
PARTS = Dedup(("a", "b"), None, None, ("hashtext", None))


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
    assert shown(sqlgen.create_hash_index("i", USERS, ["a", "b"], ["hashtext", None])) == (
        'create index if not exists "i" on "my schema"."us""ers" (hashtext("a"), "b")'
    )
    assert shown(sqlgen.drop_index(USERS, "i")) == 'drop index if exists "my schema"."i"'
    assert shown(sqlgen.add_column(USERS, "c", "bigint")) == 'alter table "my schema"."us""ers" add column "c" bigint'
    assert shown(sqlgen.drop_tables([USERS, STAGING])) == (
        'drop table if exists "my schema"."us""ers", "airbyte_internal"."staging"'
    )


def test_rows_go_in_by_copy_and_are_never_truncated_where_they_are_read():
    assert shown(sqlgen.copy_in(USERS, ["a", "B c"])) == 'copy "my schema"."us""ers" ("a", "B c") from stdin'
    assert shown(sqlgen.delete_all(USERS)) == 'delete from "my schema"."us""ers"'
    assert shown(sqlgen.append(USERS, STAGING, ["a"])) == (
        'insert into "my schema"."us""ers" ("a") select "a" from "airbyte_internal"."staging"'
    )


def test_merge():
    found = shown(mergesql.merge(STAGING, USERS, COLUMNS, PLAIN, [False], hashed=False))
    newer = (
        'coalesce(t."lsn" > w."lsn", t."lsn" is not null and w."lsn" is null)'
        ' or (t."lsn" is not distinct from w."lsn" and t."_airbyte_extracted_at" > w."_airbyte_extracted_at")'
    )
    assert found == (
        'with winner as (select distinct on ("id") ctid, "id", "lsn", "_airbyte_extracted_at"'
        ' from only "airbyte_internal"."staging" w where w."id" is not null and true'
        ' order by "id", "lsn" desc nulls last, "_airbyte_extracted_at" desc, "_airbyte_raw_id" collate "C" desc),'
        " fight as (select w.ctid as winner, t.place as rival, coalesce(t.is_newer, false) as is_beaten"
        f" from winner w left join lateral (select t.ctid as place, {newer} as is_newer"
        ' from only "my schema"."us""ers" t'
        ' where t."id" = w."id" offset 0) t on true),'
        ' outdated as (delete from only "my schema"."us""ers" t'
        " where t.ctid = any (array(select rival from fight where rival is not null and not is_beaten)) returning 1)"
        ' insert into "my schema"."us""ers" ("id", "lsn", "_airbyte_raw_id", "_airbyte_extracted_at")'
        ' select "id", "lsn", "_airbyte_raw_id", "_airbyte_extracted_at" from only "airbyte_internal"."staging" w'
        " where w.ctid = any (array(select winner from fight group by winner having not bool_or(is_beaten))) and true"
        ' and (select count(*) >= 0 from outdated) order by "id"'
    )


def test_deletions_do_not_go_in_but_become_tombstones():
    merged = shown(mergesql.merge(STAGING, USERS, COLUMNS, CDC, [False], hashed=False))
    assert 'having not bool_or(is_beaten))) and w."gone" is null and (select count(*) >= 0 from outdated)' in merged
    buried = shown(mergesql.bury(STAGING, GRAVES, CDC, [False], hashed=False))
    assert 'from only "airbyte_internal"."staging" w where w."id" is not null and w."gone" is not null' in buried
    assert ' insert into "airbyte_internal"."tombstones" ("id", "lsn", "_airbyte_extracted_at") select ' in buried
    assert shown(mergesql.delete_deletions(USERS, CDC)) == (
        'delete from only "my schema"."us""ers" w where w."gone" is not null'
    )


def test_null_key_parts_are_compared_in_a_way_that_an_index_serves():
    found = shown(mergesql.merge(STAGING, USERS, COLUMNS, PARTS, [False, True], hashed=False))
    assert 'where w."a" is not null and w."b" is null and true order by' in found
    assert 'where t."a" = w."a" and t."b" is null offset 0' in found
    assert "is not distinct from" not in found


def test_wide_keys_are_looked_up_by_their_hashes():
    found = shown(mergesql.merge(STAGING, USERS, COLUMNS, PARTS, [False, False], hashed=True))
    assert 'where hashtext(t."a") = hashtext(w."a") and t."a" = w."a" and t."b" = w."b" offset 0' in found
    found = shown(mergesql.drop_beaten(STAGING, GRAVES, PARTS, [True, True], hashed=True))
    assert 'where hashtext(t."a") is null and t."a" is null and t."b" is null and (' in found


def test_without_a_cursor_the_time_of_extraction_decides():
    found = shown(mergesql.merge(STAGING, USERS, COLUMNS, Dedup(("id",), None, None, (None,)), [False], hashed=False))
    assert 't."_airbyte_extracted_at" > w."_airbyte_extracted_at" as is_newer' in found
    assert 'order by "id", "_airbyte_extracted_at" desc, "_airbyte_raw_id" collate "C" desc' in found


def test_what_a_merge_has_to_reckon_with_is_asked_in_one_query():
    dedup = Dedup(("a", "b"), None, "gone", (None, None))
    assert shown(mergesql.survey(STAGING, USERS, GRAVES, dedup, hashed=False)) == (
        'select coalesce(bool_or(w."a" is null or w."b" is null), false),'
        ' coalesce(bool_or(w."gone" is not null), false),'
        ' exists (select from only "airbyte_internal"."tombstones"),'
        ' exists (select from only "my schema"."us""ers" t'
        ' where t."a" >= (select "a" from only "airbyte_internal"."staging" order by 1 limit 1))'
        ' from only "airbyte_internal"."staging" w'
    )
    assert shown(mergesql.survey(STAGING, USERS, None, PARTS, hashed=True)) == (
        'select coalesce(bool_or(w."a" is null or w."b" is null), false), coalesce(bool_or(false), false), false, true'
        ' from only "airbyte_internal"."staging" w'
    )


def test_new_keys_go_in_without_a_lookup():
    assert shown(mergesql.fill(STAGING, USERS, ["id", "gone"], CDC)) == (
        'insert into "my schema"."us""ers" ("id", "gone") select "id", "gone" from'
        ' (select distinct on ("id") "id", "gone" from only "airbyte_internal"."staging"'
        ' order by "id", "lsn" desc nulls last, "_airbyte_extracted_at" desc, "_airbyte_raw_id" collate "C" desc) w'
        ' where w."gone" is null'
    )


def test_rows_under_a_tombstone_are_found_by_its_own_null_parts():
    dedup = Dedup(("a", "b"), None, "gone", (None, None))
    assert shown(mergesql.delete_buried(USERS, GRAVES, dedup, [False, True])) == (
        'delete from only "my schema"."us""ers" t using only "airbyte_internal"."tombstones" w'
        ' where w."a" is not null and w."b" is null and t."a" = w."a" and t."b" is null'
        ' and not (t."_airbyte_extracted_at" > w."_airbyte_extracted_at")'
    )


def test_rows_that_another_rule_left_are_ranked_all_at_once():
    assert shown(mergesql.delete_outranked(USERS, PLAIN)) == (
        'delete from only "my schema"."us""ers" t using (select ctid, row_number() over (partition by "id"'
        ' order by "id", "lsn" desc nulls last, "_airbyte_extracted_at" desc, "_airbyte_raw_id" collate "C" desc)'
        ' from only "my schema"."us""ers") w where t.ctid = w.ctid and w.row_number > 1'
    )
