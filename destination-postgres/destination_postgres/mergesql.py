"""SQL of deduplication as pure functions: staged rows into a table that keeps the newest row of each key.

Newest: by cursor (NULL is oldest), then by time of extraction, then by arrival. Key parts that are NULL are equal; each
statement is made for the keys with the same NULL parts, because no index serves IS NOT DISTINCT FROM.

Rows are told apart by their place (ctid), which is unique within one table: hence ONLY. Places go from part to part as
arrays, which are made once; a sub-select might be run for each row, at two hundred times the cost, when the planner
takes it for too large to be hashed.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import sql

from airbyte_pg.sql import literal, name, names
from destination_postgres.naming import EXTRACTED_AT, RAW_ID
from destination_postgres.sqlgen import Dedup, Table

# One lookup per key through the index, whatever the statistics say; and a batch is sorted in memory.
SETTINGS = """\
set local enable_seqscan = off;
set local enable_bitmapscan = off;
set local work_mem = '64MB'"""


def null_patterns(table: Table, key: Sequence[str]) -> sql.Composed:
    """Which combinations of NULL key parts occur: one boolean per key column, true where it is NULL."""
    return sql.SQL("select distinct {} from only {}").format(
        sql.SQL(", ").join(sql.SQL("{} is null").format(name(column)) for column in key), table.sql
    )


def survey(staging: Table, target: Table, tombstones: Table | None, dedup: Dedup, *, hashed: bool) -> sql.Composed:
    """What a merge has to reckon with, as booleans.

    NULL key parts and deletions among the staged rows; tombstones of earlier deletions; rows of ``target`` that may
    have a staged key. They have not if the first part of every staged key is greater than all that is there, which an
    index over hashes cannot say.
    """
    above = sql.SQL(
        "exists (select from only {target} t"
        " where t.{first} >= (select {first} from only {staging} order by 1 limit 1))"
    ).format(target=target.sql, first=name(dedup.key[0]), staging=staging.sql)
    return sql.SQL(
        "select coalesce(bool_or({null_part}), false), coalesce(bool_or({deleted}), false), {buried}, {rivals}"
        " from only {staging} w"
    ).format(
        null_part=sql.SQL(" or ").join(sql.SQL("w.{} is null").format(name(column)) for column in dedup.key),
        deleted=is_deletion(dedup),
        buried=sql.SQL("exists (select from only {})").format(tombstones.sql) if tombstones else sql.SQL("false"),
        rivals=sql.SQL("true") if hashed else above,
        staging=staging.sql,
    )


def merge(
    staging: Table, target: Table, columns: Sequence[str], dedup: Dedup, null_parts: Sequence[bool], *, hashed: bool
) -> sql.Composed:
    """Bring the staged rows whose NULL key parts are ``null_parts`` into ``target``: newest per key, no deletions.

    One statement, so that the keys are looked up once; each of its parts sees the tables as they were before it:

    1. ``winner``: the newest staged row of each key, in the order of the keys, which is that of the index.
    2. ``fight``: each winner with the rows of its key that the target has, and whether those are newer.
    3. ``outdated``: rows that are not newer are deleted, all of them before the next part begins, because it counts
       them: a unique index of the user's would refuse a row whose predecessor is still there.
    4. Winners that are no deletions go in, unless something newer was found.

    The lookup is LATERAL with OFFSET 0, which the planner does not turn into a join over the whole target: without
    statistics of the keys (a table that is just being filled) it would, at fifty times the cost for a small batch.
    """
    match = same_key(dedup, null_parts, hashed=hashed)
    return _merge(staging, target, columns, dedup, null_parts, match, _all(), _is_kept(dedup))


def bury(staging: Table, tombstones: Table, dedup: Dedup, null_parts: Sequence[bool], *, hashed: bool) -> sql.Composed:
    """Make a tombstone of the newest staged deletion of each key, in the place of older ones."""
    match = same_key(dedup, null_parts, hashed=hashed)
    deletion = is_deletion(dedup)
    return _merge(staging, tombstones, tombstone_columns(dedup), dedup, null_parts, match, deletion, _all())


def fill(staging: Table, target: Table, columns: Sequence[str], dedup: Dedup) -> sql.Composed:
    """``merge`` where no staged key is in ``target`` or has NULL parts: nothing is looked up."""
    return sql.SQL(
        "insert into {} ({columns}) select {columns} from"
        " (select distinct on ({}) {columns} from only {} order by {}) w where {}"
    ).format(
        target.sql,
        names(dedup.key),
        staging.sql,
        newest_first(dedup),
        _is_kept(dedup),
        columns=names(columns),
    )


def drop_beaten(
    staging: Table, tombstones: Table, dedup: Dedup, null_parts: Sequence[bool], *, hashed: bool
) -> sql.Composed:
    """Delete the staged rows that are older than a tombstone of their key."""
    return sql.SQL(
        "delete from only {} w where {} and exists (select from only {} t where {} and ({}) offset 0)"
    ).format(
        staging.sql,
        _has_null_parts(dedup.key, null_parts),
        tombstones.sql,
        same_key(dedup, null_parts, hashed=hashed),
        is_newer(dedup.cursor),
    )


def delete_older(target: Table, origin: Table, dedup: Dedup, null_parts: Sequence[bool]) -> sql.Composed:
    """Delete the rows of ``target`` that are not newer than the row, or tombstone, of their key in ``origin``."""
    return sql.SQL("delete from only {} t using only {} w where {} and {} and not ({})").format(
        target.sql,
        origin.sql,
        _has_null_parts(dedup.key, null_parts),
        same_key(dedup, null_parts, hashed=False),
        is_newer(dedup.cursor),
    )


def insert_missing(
    origin: Table, target: Table, columns: Sequence[str], dedup: Dedup, null_parts: Sequence[bool]
) -> sql.Composed:
    """Add the rows of ``origin``, each the only one of its key, whose key ``target`` does not have."""
    return sql.SQL(
        "insert into {target} ({columns}) select {columns} from only {} w"
        " where {} and not exists (select from only {target} t where {})"
    ).format(
        origin.sql,
        _has_null_parts(dedup.key, null_parts),
        same_key(dedup, null_parts, hashed=False),
        target=target.sql,
        columns=names(columns),
    )


def last_truncation(staging: Table, dedup: Dedup, raw_ids: Sequence[str]) -> sql.Composed:
    """The raw id of the newest of the staged rows ``raw_ids``, which stand for truncations of the source's table."""
    by_cursor = sql.SQL("{} desc nulls last, ").format(name(dedup.cursor)) if dedup.cursor else sql.SQL("")
    return sql.SQL('select {id} from only {} where {id} = any({}) order by {}{id} collate "C" desc limit 1').format(
        staging.sql, literal(list(raw_ids)), by_cursor, id=name(RAW_ID)
    )


def delete_truncated(table: Table, staging: Table, dedup: Dedup, truncation: str) -> sql.Composed:
    """Delete the rows of ``table`` (which may be ``staging`` itself) that are older than a staged truncation."""
    return sql.SQL("delete from only {} t using only {} w where w.{} = {} and {}").format(
        table.sql, staging.sql, name(RAW_ID), literal(truncation), _is_truncated(dedup, is_staging=table == staging)
    )


def mark_truncated(table: Table, staging: Table, dedup: Dedup, truncation: str, deleted_at: str) -> sql.Composed:
    """Mark those rows as deleted when the truncation was, and as old as it is."""
    columns = [deleted_at, *([dedup.cursor] if dedup.cursor else [])]
    return sql.SQL("update only {} t set {} from only {} w where w.{} = {} and t.{} is null and {}").format(
        table.sql,
        sql.SQL(", ").join(sql.SQL("{0} = w.{0}").format(name(column)) for column in columns),
        staging.sql,
        name(RAW_ID),
        literal(truncation),
        name(deleted_at),
        _is_truncated(dedup, is_staging=table == staging),
    )


def delete_rows(table: Table, raw_ids: Sequence[str]) -> sql.Composed:
    """Delete rows by their raw ids."""
    return sql.SQL("delete from only {} where {} = any({})").format(table.sql, name(RAW_ID), literal(list(raw_ids)))


def delete_deletions(target: Table, dedup: Dedup) -> sql.Composed:
    """Delete the rows that are marks of deletions."""
    return sql.SQL("delete from only {} w where {}").format(target.sql, is_deletion(dedup))


def delete_outranked(target: Table, dedup: Dedup) -> sql.Composed:
    """Delete every row that is not the newest of its key: the whole table is read and sorted."""
    return sql.SQL(
        "delete from only {target} t using"
        " (select ctid, row_number() over (partition by {key} order by {newest_first}) from only {target}) w"
        " where t.ctid = w.ctid and w.row_number > 1"
    ).format(target=target.sql, key=names(dedup.key), newest_first=newest_first(dedup))


def tombstone_columns(dedup: Dedup) -> list[str]:
    """The columns of a tombstone: which key, deleted at which cursor."""
    return list(dict.fromkeys([*dedup.key, *([dedup.cursor] if dedup.cursor else []), EXTRACTED_AT]))


def _merge(
    staging: Table,
    target: Table,
    columns: Sequence[str],
    dedup: Dedup,
    null_parts: Sequence[bool],
    match: sql.Composable,
    considered: sql.Composable,
    kept: sql.Composable,
) -> sql.Composed:
    return sql.SQL(
        "with winner as (select distinct on ({key}) ctid, {looked_at} from only {staging} w"
        " where {null_parts} and {considered} order by {newest_first}),"
        " fight as (select w.ctid as winner, t.place as rival, coalesce(t.is_newer, false) as is_beaten"
        " from winner w left join lateral"
        " (select t.ctid as place, {newer} as is_newer from only {target} t where {match} offset 0) t on true),"
        " outdated as (delete from only {target} t"
        " where t.ctid = any (array(select rival from fight where rival is not null and not is_beaten)) returning 1)"
        " insert into {target} ({columns}) select {columns} from only {staging} w"
        " where w.ctid = any (array(select winner from fight group by winner having not bool_or(is_beaten))) and {kept}"
        " and (select count(*) >= 0 from outdated)"
        " order by {key}"
    ).format(
        key=names(dedup.key),
        looked_at=names(tombstone_columns(dedup)),
        staging=staging.sql,
        null_parts=_has_null_parts(dedup.key, null_parts),
        considered=considered,
        newest_first=newest_first(dedup),
        newer=is_newer(dedup.cursor),
        target=target.sql,
        match=match,
        columns=names(columns),
        kept=kept,
    )


def _is_truncated(dedup: Dedup, *, is_staging: bool) -> sql.Composable:
    """Whether the row ``t`` is older than the truncation ``w``; never NULL. What is not staged has come before."""
    if dedup.cursor is not None:
        return sql.SQL("coalesce(t.{0} < w.{0}, true)").format(name(dedup.cursor))
    return sql.SQL('t.{0} collate "C" < w.{0}').format(name(RAW_ID)) if is_staging else _all()


def _all() -> sql.SQL:
    return sql.SQL("true")


def is_deletion(dedup: Dedup) -> sql.Composable:
    """Whether the row ``w`` is the mark of a deletion and not to be seen."""
    return sql.SQL("w.{} is not null").format(name(dedup.deleted_at)) if dedup.deleted_at else sql.SQL("false")


def _is_kept(dedup: Dedup) -> sql.Composable:
    return sql.SQL("w.{} is null").format(name(dedup.deleted_at)) if dedup.deleted_at else _all()


def newest_first(dedup: Dedup) -> sql.Composed:
    """ORDER BY of rows by key, the newest of each first."""
    # Raw ids rise in the order of arrival; as text only under "C".
    by_cursor = [sql.SQL("{} desc nulls last").format(name(dedup.cursor))] if dedup.cursor else []
    return sql.SQL(", ").join(
        [
            names(dedup.key),
            *by_cursor,
            sql.SQL("{} desc").format(name(EXTRACTED_AT)),
            sql.SQL('{} collate "C" desc').format(name(RAW_ID)),
        ]
    )


def _has_null_parts(key: Sequence[str], null_parts: Sequence[bool]) -> sql.Composed:
    return sql.SQL(" and ").join(
        sql.SQL("w.{} {}").format(name(column), sql.SQL("is null" if is_null else "is not null"))
        for column, is_null in zip(key, null_parts, strict=True)
    )


def same_key(dedup: Dedup, null_parts: Sequence[bool], *, hashed: bool) -> sql.Composed:
    """Whether ``t`` and ``w`` have the same key; ``hashed``: in a way that an index over hashes serves."""
    # A function of the catalog's, by its name: trusted SQL.
    functions = [sql.SQL(function) if function and hashed else None for function in dedup.hashes]
    conditions: list[sql.Composable] = []
    for column, function, is_null in zip(map(name, dedup.key), functions, null_parts, strict=True):
        if is_null:
            if function is not None:
                conditions.append(sql.SQL("{}(t.{}) is null").format(function, column))
            conditions.append(sql.SQL("t.{} is null").format(column))
        else:
            if function is not None:
                conditions.append(sql.SQL("{0}(t.{1}) = {0}(w.{1})").format(function, column))
            conditions.append(sql.SQL("t.{0} = w.{0}").format(column))
    return sql.SQL(" and ").join(conditions)


def is_newer(cursor: str | None) -> sql.Composed:
    """Whether the row ``t`` is newer than ``w``; never NULL. Of equals the one that arrives later wins."""
    by_time = sql.SQL("t.{time} > w.{time}").format(time=name(EXTRACTED_AT))
    if cursor is None:
        return sql.Composed([by_time])
    return sql.SQL(
        "coalesce(t.{cursor} > w.{cursor}, t.{cursor} is not null and w.{cursor} is null)"
        " or (t.{cursor} is not distinct from w.{cursor} and {by_time})"
    ).format(cursor=name(cursor), by_time=by_time)
