"""SQL as pure functions: names and columns in, psycopg2.sql.Composed out. Nothing here talks to a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg2 import sql

from airbyte_pg.sql import name, names
from destination_postgres.naming import EXTRACTED_AT, RAW_ID


@dataclass(frozen=True)
class Table:
    """A table by schema and name."""

    schema: str
    name: str

    @property
    def sql(self) -> sql.Identifier:
        """The quoted, qualified name."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Dedup:
    """What makes a row the newest of its key: key columns, cursor (None: the time of extraction), deletion mark."""

    key: tuple[str, ...]
    cursor: str | None
    deleted_at: str | None


def create_table(
    table: Table, types: Mapping[str, str], *, required: Iterable[str] = (), unlogged: bool = False
) -> sql.Composed:
    """CREATE TABLE IF NOT EXISTS; ``types`` are trusted SQL, ``required`` columns are NOT NULL."""
    not_null = set(required)
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}{}").format(name(column), sql.SQL(sql_type), sql.SQL(" not null" if column in not_null else ""))
        for column, sql_type in types.items()
    )
    return sql.SQL("create {}table if not exists {} ({})").format(
        sql.SQL("unlogged " if unlogged else ""), table.sql, columns
    )


def add_column(table: Table, column: str, sql_type: str) -> sql.Composed:
    """ALTER TABLE ADD COLUMN; ``sql_type`` is trusted SQL."""
    return sql.SQL("alter table {} add column {} {}").format(table.sql, name(column), sql.SQL(sql_type))


def change_types(table: Table, types: Mapping[str, str]) -> sql.Composed:
    """ALTER TABLE … TYPE of some columns; ``types`` are trusted SQL."""
    changes = (
        sql.SQL("alter column {} type {}").format(name(column), sql.SQL(sql_type)) for column, sql_type in types.items()
    )
    return sql.SQL("alter table {} {}").format(table.sql, sql.SQL(", ").join(changes))


def create_schema(schema: str) -> sql.Composed:
    """CREATE SCHEMA."""
    return sql.SQL("create schema {}").format(name(schema))


def grant(rights: str, kind: str, on: sql.Identifier, to: sql.Identifier) -> sql.Composed:
    """GRANT, as a remedy to show; ``rights`` and ``kind`` are trusted SQL."""
    return sql.SQL("grant {} on {} {} to {}").format(sql.SQL(rights), sql.SQL(kind), on, to)


def create_index(index: str, table: Table, columns: Iterable[str]) -> sql.Composed:
    """CREATE INDEX IF NOT EXISTS, in the table's schema."""
    return sql.SQL("create index if not exists {} on {} ({})").format(name(index), table.sql, names(columns))


def create_unique_index(index: str, table: Table, columns: Iterable[str]) -> sql.Composed:
    """CREATE UNIQUE INDEX IF NOT EXISTS, in the table's schema."""
    return sql.SQL("create unique index if not exists {} on {} ({})").format(name(index), table.sql, names(columns))


def drop_tables(tables: Iterable[Table]) -> sql.Composed:
    """DROP TABLE IF EXISTS; never CASCADE: these are the connector's own."""
    return sql.SQL("drop table if exists {}").format(sql.SQL(", ").join(table.sql for table in tables))


def truncate(table: Table) -> sql.Composed:
    """TRUNCATE: only for staging tables, which nobody else reads."""
    return sql.SQL("truncate {}").format(table.sql)


def delete_all(table: Table) -> sql.Composed:
    """DELETE without a condition: unlike TRUNCATE it lets readers go on."""
    return sql.SQL("delete from {}").format(table.sql)


def copy_in(table: Table, columns: Iterable[str], *, binary: bool = False) -> sql.Composed:
    """COPY FROM STDIN in the text or the binary format."""
    options = sql.SQL(" with (format binary)" if binary else "")
    return sql.SQL("copy {} ({}) from stdin{}").format(table.sql, names(columns), options)


def append(target: Table, origin: Table, columns: Sequence[str]) -> sql.Composed:
    """INSERT … SELECT of all rows."""
    return sql.SQL("insert into {} ({}) select {} from {}").format(
        target.sql, names(columns), names(columns), origin.sql
    )


def is_filled(table: Table) -> sql.Composed:
    """Whether the table has a row."""
    return sql.SQL("select exists (select from {})").format(table.sql)


def null_patterns(staging: Table, key: Sequence[str]) -> sql.Composed:
    """Which combinations of NULL key parts occur: one boolean per key column, true where it is NULL."""
    return sql.SQL("select distinct {} from {}").format(
        sql.SQL(", ").join(sql.SQL("{} is null").format(name(column)) for column in key), staging.sql
    )


def survey(staging: Table, target_tombstones: Table | None, dedup: Dedup) -> sql.Composed:
    """What a merge has to reckon with: NULL key parts among the staged rows, deletions, tombstones of earlier ones."""
    mark = dedup.deleted_at if target_tombstones is not None else None
    return sql.SQL(
        "select coalesce(bool_or({null_part}), false), coalesce(bool_or({deleted}), false), {buried} from {staging}"
    ).format(
        null_part=sql.SQL(" or ").join(sql.SQL("{} is null").format(name(column)) for column in dedup.key),
        deleted=sql.SQL("{} is not null").format(name(mark)) if mark else sql.SQL("false"),
        buried=sql.SQL("exists (select from only {})").format(target_tombstones.sql)
        if target_tombstones
        else sql.SQL("false"),
        staging=staging.sql,
    )


def merge(
    staging: Table,
    target: Table,
    tombstones: Table | None,
    columns: Sequence[str],
    dedup: Dedup,
    null_parts: Sequence[bool],
) -> sql.Composed:
    """Bring the staged rows whose NULL key parts are ``null_parts`` into ``target``, newest per key.

    Newest: by cursor (NULL is oldest), then by time of extraction, then by arrival. ``tombstones`` may be None where
    there are none and no staged row is a deletion. One statement, so that the winners are found once; each of its
    parts sees the tables as they were before it:

    1. ``winner``: the newest staged row of each key.
    2. ``rival``: the rows of its key that the target has, found through the index, and whether they are newer.
    3. ``outdated``: rivals that are not newer are deleted.
    4. ``grave``, ``lifted``, ``buried``: the same for the tombstones. A winner that is a deletion becomes one, so that
       an older row that comes late loses against it.
    5. Winners that are no deletions go in, unless something newer was found.

    The lookups are LATERAL with OFFSET 0, which the planner does not turn into a join over the whole target: without
    statistics of the keys (a table that is just being filled) it would, at fifty times the cost for a small batch.
    """
    parts = [_winner(staging, columns, dedup, null_parts), *_lookup("rival", "outdated", target, dedup, null_parts)]
    conditions = [_unbeaten("rival")]
    if tombstones is not None and dedup.deleted_at is not None:
        parts += _lookup("grave", "lifted", tombstones, dedup, null_parts, only_deletions=True)
        parts.append(_bury(tombstones, dedup))
        conditions += [sql.SQL("w.{} is null").format(name(dedup.deleted_at)), _unbeaten("grave")]
    return sql.SQL("with {} insert into {} ({}) select {} from winner w where {}").format(
        sql.SQL(", ").join(parts),
        target.sql,
        names(columns),
        names(columns),
        sql.SQL(" and ").join(conditions),
    )


def delete_buried(target: Table, tombstones: Table, dedup: Dedup, null_parts: Sequence[bool]) -> sql.Composed:
    """Delete the rows of ``target`` that are not newer than a tombstone of their key with these NULL parts."""
    return sql.SQL("delete from only {} t using {} w where {} and {} and not ({})").format(
        target.sql,
        tombstones.sql,
        _has_null_parts(sql.SQL("w."), dedup.key, null_parts),
        _match(dedup.key, null_parts),
        _newer(dedup.cursor),
    )


def tombstone_columns(dedup: Dedup) -> list[str]:
    """The columns of a tombstone: which key, deleted at which cursor."""
    return list(dict.fromkeys([*dedup.key, *([dedup.cursor] if dedup.cursor else []), EXTRACTED_AT]))


def _winner(staging: Table, columns: Sequence[str], dedup: Dedup, null_parts: Sequence[bool]) -> sql.Composed:
    return sql.SQL("winner as (select distinct on ({}) {} from {} where {} order by {})").format(
        names(dedup.key),
        names(columns),
        staging.sql,
        _has_null_parts(sql.SQL(""), dedup.key, null_parts),
        _newest_first(dedup),
    )


def _lookup(
    found: str, gone: str, table: Table, dedup: Dedup, null_parts: Sequence[bool], *, only_deletions: bool = False
) -> list[sql.Composed]:
    """CTE ``found``: what ``table`` has of the winners' keys; CTE ``gone``: what is not newer is deleted.

    By place (ctid), which is unique within one table: hence ONLY.
    """
    lookup = sql.SQL(
        "{found} as (select w.{raw_id} as winner_id, t.place, t.is_newer, {deletes} as deletes"
        " from winner w cross join lateral"
        " (select t.ctid as place, {newer} as is_newer from only {table} t where {match} offset 0) t)"
    ).format(
        found=name(found),
        raw_id=name(RAW_ID),
        deletes=sql.SQL("w.{} is not null").format(name(dedup.deleted_at or "")) if only_deletions else sql.SQL("true"),
        newer=_newer(dedup.cursor),
        table=table.sql,
        match=_match(dedup.key, null_parts),
    )
    deletion = sql.SQL(
        "{gone} as (delete from only {table} t"
        " where t.ctid = any (array(select place from {found} where deletes and not is_newer)))"
    ).format(gone=name(gone), table=table.sql, found=name(found))
    return [lookup, deletion]


def _bury(tombstones: Table, dedup: Dedup) -> sql.Composed:
    columns = names(tombstone_columns(dedup))
    return sql.SQL("buried as (insert into {} ({}) select {} from winner w where w.{} is not null and {})").format(
        tombstones.sql, columns, columns, name(dedup.deleted_at or ""), _unbeaten("grave")
    )


def _unbeaten(found: str) -> sql.Composed:
    # NOT IN, not an anti-join: the few that are beaten are hashed, not the many wide winners. Raw ids are never NULL.
    return sql.SQL("w.{} not in (select winner_id from {} where is_newer)").format(name(RAW_ID), name(found))


def _newest_first(dedup: Dedup) -> sql.Composed:
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


def _has_null_parts(alias: sql.SQL, key: Sequence[str], null_parts: Sequence[bool]) -> sql.Composed:
    return sql.SQL(" and ").join(
        sql.SQL("{}{} {}").format(alias, name(column), sql.SQL("is null" if is_null else "is not null"))
        for column, is_null in zip(key, null_parts, strict=True)
    )


def _match(key: Sequence[str], null_parts: Sequence[bool]) -> sql.Composed:
    # IS NOT DISTINCT FROM would make two NULLs equal as well, but no index serves it.
    return sql.SQL(" and ").join(
        sql.SQL("t.{column} is null").format(column=name(column))
        if is_null
        else sql.SQL("t.{column} = w.{column}").format(column=name(column))
        for column, is_null in zip(key, null_parts, strict=True)
    )


def _newer(cursor: str | None) -> sql.Composed:
    """Whether the row ``t`` is newer than ``w``; never NULL. Of equals the one that arrives later wins."""
    by_time = sql.SQL("t.{time} > w.{time}").format(time=name(EXTRACTED_AT))
    if cursor is None:
        return sql.Composed([by_time])
    return sql.SQL(
        "coalesce(t.{cursor} > w.{cursor}, t.{cursor} is not null and w.{cursor} is null)"
        " or (t.{cursor} is not distinct from w.{cursor} and {by_time})"
    ).format(cursor=name(cursor), by_time=by_time)
