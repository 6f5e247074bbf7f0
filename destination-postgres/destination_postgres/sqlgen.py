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


def copy_in(table: Table, columns: Iterable[str]) -> sql.Composed:
    """COPY FROM STDIN in the text format."""
    return sql.SQL("copy {} ({}) from stdin").format(table.sql, names(columns))


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


def merge(
    staging: Table,
    target: Table,
    tombstones: Table | None,
    columns: Sequence[str],
    dedup: Dedup,
    null_parts: Sequence[bool],
) -> sql.Composed:
    """Bring the staged rows whose NULL key parts are ``null_parts`` into ``target``, newest per key.

    Newest: by cursor (NULL is oldest), then by time of extraction, then by arrival. One statement, so that the
    winners are found once; each of its parts sees the tables as they were before it:

    1. ``winner``: the newest staged row of each key.
    2. ``outdated``: rows of the target that a winner replaces or deletes. One that is newer than the winner stays.
    3. ``buried`` and ``lifted``: a winner that is a deletion is remembered, so that an older row which comes late
       loses against it.
    4. Winners that are no deletions go in, unless the target or a tombstone has something newer.
    """
    mark = dedup.deleted_at if tombstones is not None else None
    alive = sql.SQL("w.{} is null").format(name(mark)) if mark else sql.SQL("true")
    return sql.SQL(
        "with winner as (select distinct on ({key}) {columns} from {staging} where {pattern} order by {order})"
        ", outdated as (delete from {target} t using winner w where {match} and not ({newer}))"
        "{tombstones}"
        " insert into {target} ({columns}) select {columns} from winner w where {alive}"
        " and not exists (select from {target} t where {match} and ({newer})){not_buried}"
    ).format(
        key=names(dedup.key),
        columns=names(columns),
        staging=staging.sql,
        target=target.sql,
        pattern=sql.SQL(" and ").join(
            sql.SQL("{} is null" if is_null else "{} is not null").format(name(column))
            for column, is_null in zip(dedup.key, null_parts, strict=True)
        ),
        order=_newest_first(dedup),
        match=_match(dedup.key, null_parts),
        newer=_newer(dedup.cursor),
        alive=alive,
        tombstones=_bury(tombstones, dedup, null_parts) if tombstones and mark else sql.SQL(""),
        not_buried=sql.SQL(" and not exists (select from {} t where {} and ({}))").format(
            tombstones.sql, _match(dedup.key, null_parts), _newer(dedup.cursor)
        )
        if tombstones and mark
        else sql.SQL(""),
    )


def delete_buried(target: Table, tombstones: Table, dedup: Dedup, null_parts: Sequence[bool]) -> sql.Composed:
    """Delete the rows of ``target`` that are not newer than a tombstone of their key."""
    return sql.SQL("delete from {} t using {} w where {} and not ({})").format(
        target.sql, tombstones.sql, _match(dedup.key, null_parts), _newer(dedup.cursor)
    )


def tombstone_columns(dedup: Dedup) -> list[str]:
    """The columns of a tombstone: which key, deleted at which cursor."""
    return list(dict.fromkeys([*dedup.key, *([dedup.cursor] if dedup.cursor else []), EXTRACTED_AT]))


def _bury(tombstones: Table, dedup: Dedup, null_parts: Sequence[bool]) -> sql.Composed:
    return sql.SQL(
        ", lifted as (delete from {tombstones} t using winner w where {dead} and {match} and not ({newer}))"
        ", buried as (insert into {tombstones} ({columns}) select {columns} from winner w where {dead}"
        " and not exists (select from {tombstones} t where {match} and ({newer})))"
    ).format(
        tombstones=tombstones.sql,
        columns=names(tombstone_columns(dedup)),
        dead=sql.SQL("w.{} is not null").format(name(dedup.deleted_at or "")),
        match=_match(dedup.key, null_parts),
        newer=_newer(dedup.cursor),
    )


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


def _match(key: Sequence[str], null_parts: Sequence[bool]) -> sql.Composed:
    # IS NOT DISTINCT FROM would make two NULLs equal as well, but no index serves it.
    return sql.SQL(" and ").join(
        sql.SQL("t.{column} is null").format(column=name(column))
        if is_null
        else sql.SQL("t.{column} = w.{column}").format(column=name(column))
        for column, is_null in zip(key, null_parts, strict=True)
    )


def _newer(cursor: str | None) -> sql.Composed:
    """Whether the row ``t`` is newer than the winner ``w``; never NULL. Of equals the one that arrives later wins."""
    by_time = sql.SQL("t.{time} > w.{time}").format(time=name(EXTRACTED_AT))
    if cursor is None:
        return sql.Composed([by_time])
    return sql.SQL(
        "coalesce(t.{cursor} > w.{cursor}, t.{cursor} is not null and w.{cursor} is null)"
        " or (t.{cursor} is not distinct from w.{cursor} and {by_time})"
    ).format(cursor=name(cursor), by_time=by_time)
