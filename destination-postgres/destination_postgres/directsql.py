"""SQL of a merge without a staging table (direct.py), as pure functions; the rules are those of mergesql.py."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg2 import sql

from airbyte_pg.sql import literal, name, names
from destination_postgres.mergesql import is_deletion, is_newer, newest_first, same_key, tombstone_columns
from destination_postgres.naming import RAW_ID
from destination_postgres.sqlgen import Dedup, Table


def merge(
    arrays: Mapping[str, str],
    types: Mapping[str, str],
    target: Table,
    tombstones: Table | None,
    dedup: Dedup,
    *,
    hashed: bool,
    tombstones_hashed: bool,
    has_deletions: bool,
) -> sql.Composed:
    """Bring rows without NULLs in their keys into ``target``, and their deletions into ``tombstones``.

    ``arrays``: by column, the texts of the rows' values as an array's literal. Each part sees the tables as they were
    before the statement:

    1. ``given``: the rows; ``staged``: those that do not come too late for an earlier deletion.
    2. ``deletion``, ``forgotten``, ``buried``: the newest deletion of each key becomes its tombstone.
    3. ``winner``, ``fight``, ``outdated``, and what is inserted: see mergesql.merge.
    """
    parts = [_given(arrays, types), _staged(tombstones, dedup, hashed=tombstones_hashed)]
    if tombstones is not None and has_deletions:
        parts.append(_buried(tombstones, dedup, hashed=tombstones_hashed))
    parts.append(_fought(target, dedup, hashed=hashed))
    insert = sql.SQL(
        " insert into {} ({columns}) select {columns} from winner w"
        " where w.{id} = any (array(select winner from fight group by winner having not bool_or(is_beaten)))"
        " and not {} and (select count(*) >= 0 from outdated) order by {}"
    ).format(target.sql, is_deletion(dedup), names(dedup.key), columns=names(types), id=name(RAW_ID))
    return sql.SQL("with {}{}").format(sql.SQL(", ").join(parts), insert)


def _given(arrays: Mapping[str, str], types: Mapping[str, str]) -> sql.Composed:
    # Trusted SQL: the types.
    columns = (sql.SQL("{}::{}[]").format(literal(arrays[column]), sql.SQL(types[column])) for column in types)
    return sql.SQL("given ({}) as (select * from unnest({}))").format(names(types), sql.SQL(", ").join(columns))


def _staged(tombstones: Table | None, dedup: Dedup, *, hashed: bool) -> sql.Composed:
    if tombstones is None:
        return sql.Composed([sql.SQL("staged as (select * from given)")])
    return sql.SQL(
        "staged as (select * from given w where not exists (select from only {} t where {} and ({}) offset 0))"
    ).format(tombstones.sql, _same_key(dedup, hashed=hashed), is_newer(dedup.cursor))


def _buried(tombstones: Table, dedup: Dedup, *, hashed: bool) -> sql.Composed:
    # What is staged is older than none of them.
    return sql.SQL(
        "deletion as (select distinct on ({key}) {columns} from staged w where {deleted} order by {newest_first}),"
        " forgotten as (delete from only {tombstones} t where t.ctid = any (array(select t.place from deletion w"
        " cross join lateral (select t.ctid as place from only {tombstones} t where {match} offset 0) t)) returning 1),"
        " buried as (insert into {tombstones} ({columns}) select {columns} from deletion"
        " where (select count(*) >= 0 from forgotten))"
    ).format(
        key=names(dedup.key),
        columns=names(tombstone_columns(dedup)),
        deleted=is_deletion(dedup),
        newest_first=newest_first(dedup),
        tombstones=tombstones.sql,
        match=_same_key(dedup, hashed=hashed),
    )


def _fought(target: Table, dedup: Dedup, *, hashed: bool) -> sql.Composed:
    return sql.SQL(
        "winner as (select distinct on ({key}) * from staged w order by {newest_first}),"
        " fight as (select w.{id} as winner, t.place as rival, coalesce(t.is_newer, false) as is_beaten"
        " from winner w left join lateral"
        " (select t.ctid as place, {newer} as is_newer from only {target} t where {match} offset 0) t on true),"
        " outdated as (delete from only {target} t"
        " where t.ctid = any (array(select rival from fight where rival is not null and not is_beaten)) returning 1)"
    ).format(
        key=names(dedup.key),
        newest_first=newest_first(dedup),
        id=name(RAW_ID),
        newer=is_newer(dedup.cursor),
        target=target.sql,
        match=_same_key(dedup, hashed=hashed),
    )


def _same_key(dedup: Dedup, *, hashed: bool) -> sql.Composed:
    return same_key(dedup, [False] * len(dedup.key), hashed=hashed)
