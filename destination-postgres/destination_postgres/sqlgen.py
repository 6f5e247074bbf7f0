"""SQL as pure functions: names and columns in, psycopg2.sql.Composed out. Nothing here talks to a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg2 import sql

from airbyte_pg.sql import name, names


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
    """What makes a row the newest of its key: key columns, cursor (None: the time of extraction), deletion mark.

    ``deleted_at``: rows where it is set go away with the key's; None where marked rows stay like any other. ``hashes``:
    for each key column the function that shortens its values if they may be too wide for an index, or None.
    """

    key: tuple[str, ...]
    cursor: str | None
    deleted_at: str | None
    hashes: tuple[str | None, ...]


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


def add_column(table: Table, column: str, sql_type: str, *, required: bool = False) -> sql.Composed:
    """ALTER TABLE ADD COLUMN; ``sql_type`` is trusted SQL, ``required`` makes it NOT NULL."""
    return sql.SQL("alter table {} add column {} {}{}").format(
        table.sql, name(column), sql.SQL(sql_type), sql.SQL(" not null" if required else "")
    )


def drop_column(table: Table, column: str, *, cascade: bool) -> sql.Composed:
    """ALTER TABLE DROP COLUMN."""
    return sql.SQL("alter table {} drop column {}{}").format(
        table.sql, name(column), sql.SQL(" cascade" if cascade else "")
    )


def comment(table: Table, column: str, text: str) -> sql.Composed:
    """COMMENT ON COLUMN."""
    return sql.SQL("comment on column {} is {}").format(
        sql.Identifier(table.schema, table.name, column), sql.Literal(text)
    )


def rename_column(table: Table, column: str, to: str) -> sql.Composed:
    """ALTER TABLE RENAME COLUMN."""
    return sql.SQL("alter table {} rename column {} to {}").format(table.sql, name(column), name(to))


def change_schema(table: Table, schema: str) -> sql.Composed:
    """ALTER TABLE SET SCHEMA; indexes go with it."""
    return sql.SQL("alter table {} set schema {}").format(table.sql, name(schema))


def rename_table(table: Table, to: str) -> sql.Composed:
    """ALTER TABLE RENAME TO, in its schema."""
    return sql.SQL("alter table {} rename to {}").format(table.sql, name(to))


def rename_index(schema: str, index: str, to: str) -> sql.Composed:
    """ALTER INDEX IF EXISTS RENAME TO."""
    return sql.SQL("alter index if exists {} rename to {}").format(sql.Identifier(schema, index), name(to))


def lock_alone(table: Table) -> sql.Composed:
    """LOCK TABLE against everybody else, or fail at once."""
    return sql.SQL("lock table only {} in access exclusive mode nowait").format(table.sql)


def analyze(table: Table) -> sql.Composed:
    """ANALYZE."""
    return sql.SQL("analyze {}").format(table.sql)


def identify_by_default(table: Table) -> sql.Composed:
    """ALTER TABLE … REPLICA IDENTITY DEFAULT."""
    return sql.SQL("alter table {} replica identity default").format(table.sql)


def identify_by_all(table: Table) -> sql.Composed:
    """ALTER TABLE … REPLICA IDENTITY FULL."""
    return sql.SQL("alter table {} replica identity full").format(table.sql)


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


def create_hash_index(index: str, table: Table, columns: Iterable[str], hashes: Iterable[str | None]) -> sql.Composed:
    """CREATE INDEX over the hashes of those columns that have a function (trusted SQL) for it."""
    parts = [
        sql.SQL("{}({})").format(sql.SQL(function), name(column)) if function else name(column)
        for column, function in zip(columns, hashes, strict=True)
    ]
    return sql.SQL("create index if not exists {} on {} ({})").format(name(index), table.sql, sql.SQL(", ").join(parts))


def create_unique_index(index: str, table: Table, columns: Iterable[str]) -> sql.Composed:
    """CREATE UNIQUE INDEX IF NOT EXISTS, in the table's schema."""
    return sql.SQL("create unique index if not exists {} on {} ({})").format(name(index), table.sql, names(columns))


def drop_tables(tables: Iterable[Table]) -> sql.Composed:
    """DROP TABLE IF EXISTS; never CASCADE: these are the connector's own."""
    return sql.SQL("drop table if exists {}").format(sql.SQL(", ").join(table.sql for table in tables))


def drop_index(table: Table, index: str) -> sql.Composed:
    """DROP INDEX IF EXISTS of an index of ``table``."""
    return sql.SQL("drop index if exists {}").format(sql.Identifier(table.schema, index))


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


def has_untyped(raw: Table) -> sql.Composed:
    """Whether the raw table has a row that is in no final table."""
    return sql.SQL("select exists (select from {} where _airbyte_loaded_at is null)").format(raw.sql)


def declare_untyped(cursor_name: str, raw: Table, columns: sql.Composable, *, with_deletions: bool) -> sql.Composed:
    """DECLARE of a cursor over ``columns`` of the rows of the raw table that are in no final table, as they lie there.

    ``with_deletions``: also over the deletions of a CDC source that have been typed.
    """
    deletions = sql.SQL(" or _airbyte_data ->> '_ab_cdc_deleted_at' is not null" if with_deletions else "")
    return sql.SQL("declare {} no scroll cursor for select {} from {} where _airbyte_loaded_at is null{}").format(
        name(cursor_name), columns, raw.sql, deletions
    )


def fetch(cursor_name: str, count: int) -> sql.Composed:
    """FETCH of the next ``count`` rows."""
    return sql.SQL("fetch {} from {}").format(sql.Literal(count), name(cursor_name))


def mark_typed(raw: Table) -> sql.Composed:
    """UPDATE of rows of the raw table, of which the places are given, as typed now."""
    return sql.SQL(
        "update {} set _airbyte_loaded_at = now() where ctid = any(%s::tid[]) and _airbyte_loaded_at is null"
    ).format(raw.sql)


def from_version_1(raw: Table, origin: Table) -> sql.Composed:
    """INSERT of the rows of a raw table of version 1, as rows that are in no final table."""
    return sql.SQL(
        "insert into {} (_airbyte_raw_id, _airbyte_data, _airbyte_extracted_at, _airbyte_generation_id)"
        " select _airbyte_ab_id, _airbyte_data, _airbyte_emitted_at, 0 from {}"
    ).format(raw.sql, origin.sql)


def is_filled(table: Table) -> sql.Composed:
    """Whether the table has a row."""
    return sql.SQL("select exists (select from {})").format(table.sql)
