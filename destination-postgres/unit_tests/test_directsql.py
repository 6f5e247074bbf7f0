"""The statement that merges a small batch."""

from __future__ import annotations

import re

from psycopg2 import sql

from destination_postgres import directsql
from destination_postgres.sqlgen import Dedup, Table

USERS, GRAVES = Table("public", "users"), Table("airbyte_internal", "tombstones")
TYPES = {"id": "bigint", "lsn": "numeric(38,9)", "gone": "jsonb"}
ARRAYS = {"id": '{"1"}', "lsn": '{"2"}', "gone": "{NULL}"}
CDC = Dedup(("id",), "lsn", "gone", (None,))
NEWER = (
    'coalesce(t."lsn" > w."lsn", t."lsn" is not null and w."lsn" is null)'
    ' or (t."lsn" is not distinct from w."lsn" and t."_airbyte_extracted_at" > w."_airbyte_extracted_at")'
)
NEWEST_FIRST = 'order by "id", "lsn" desc nulls last, "_airbyte_extracted_at" desc, "_airbyte_raw_id" collate "C" desc'


def shown(composable: sql.Composable) -> str:
    if isinstance(composable, sql.Composed):
        return "".join(map(shown, composable.seq))
    if isinstance(composable, sql.Identifier):
        return ".".join(f'"{part}"' for part in composable.strings)
    if isinstance(composable, sql.Literal):
        return f"'{composable.wrapped}'"
    assert isinstance(composable, sql.SQL)
    return re.sub(r"\s+", " ", composable.string)


def merge(tombstones: Table | None = GRAVES, dedup: Dedup = CDC, *, has_deletions: bool = False) -> str:
    return shown(
        directsql.merge(
            ARRAYS,
            TYPES,
            USERS,
            tombstones,
            dedup,
            hashed=False,
            tombstones_hashed=False,
            has_deletions=has_deletions,
        )
    )


def test_rows_come_as_arrays_and_the_newest_of_each_key_goes_in():
    assert merge(None, Dedup(("id",), "lsn", None, (None,))) == (
        'with given ("id", "lsn", "gone") as (select * from unnest('
        "'{\"1\"}'::bigint[], '{\"2\"}'::numeric(38,9)[], '{NULL}'::jsonb[])),"
        " staged as (select * from given),"
        f' winner as (select distinct on ("id") * from staged w {NEWEST_FIRST}),'
        " fight as (select w.*, t.* from winner w cross join lateral"
        f" (select array_agg(t.ctid) filter (where not ({NEWER})) as _airbyte_pg_rivals,"
        f" coalesce(bool_or({NEWER}), false) as _airbyte_pg_is_beaten"
        ' from only "public"."users" t where t."id" = w."id") t),'
        ' outdated as (delete from only "public"."users" t'
        " where t.ctid = any (array(select unnest(_airbyte_pg_rivals) from fight)) returning 1)"
        ' insert into "public"."users" ("id", "lsn", "gone") select "id", "lsn", "gone" from fight w'
        " where not _airbyte_pg_is_beaten and not (false) and (select count(*) >= 0 from outdated)"
        ' order by "id"'
    )


def test_what_comes_behind_a_deletion_is_left_out_and_deletions_are_buried():
    without = merge()
    assert ' from given w where not exists (select from only "airbyte_internal"."tombstones" t' in without
    assert "buried" not in without
    assert ' and not (w."gone" is not null) and ' in without
    buried = merge(has_deletions=True)
    assert f' from staged w where w."gone" is not null {NEWEST_FIRST}),' in buried
    assert ' buried as (insert into "airbyte_internal"."tombstones" ("id", "lsn", "_airbyte_extracted_at") ' in buried
