"""Schemas, tables and indexes on the server: look first, create what is missing, refuse what is not ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from psycopg2 import errors
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import ConfigError, StreamName
from airbyte_pg.sql import text
from destination_postgres import sqlgen
from destination_postgres.columns import FINAL_META_TYPES, RAW_TYPES, Kind
from destination_postgres.naming import META_COLUMNS
from destination_postgres.sqlgen import Table

_SCHEMA_EXISTS = "select exists (select from pg_namespace where nspname = %s)"

_RELATION = """\
select c.oid, c.relkind, exists (select from pg_inherits where inhparent = c.oid)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s"""

_COLUMNS = """\
select attname, format_type(atttypid, null), format_type(atttypid, atttypmod)
from pg_attribute where attrelid = %s and attnum > 0 and not attisdropped order by attnum"""

# Rows are found by their place in one table (mergesql.py), so a partitioned one would not do; a view even less.
_ORDINARY_TABLE = "r"

_OWN_COLUMNS = frozenset({*RAW_TYPES, *FINAL_META_TYPES})


def ensure_schema(cursor: Cursor, schema: str) -> None:
    """Create ``schema`` if it is missing. IF NOT EXISTS would ask for the right to create even where it is there."""
    cursor.execute(_SCHEMA_EXISTS, (schema,))
    if not _fetched(cursor)[0]:
        cursor.execute(sqlgen.create_schema(schema))


def ensure_table(
    cursor: Cursor,
    table: Table,
    types: Mapping[str, str],
    *,
    required: Iterable[str] = (),
    stream: StreamName,
    is_inner: bool = False,
) -> None:
    """Create ``table`` with these columns, or see that it has them, in any order.

    ``is_inner``: it is one of the connector's own, and rows of it are deleted; see ``create_inner``.

    Raises ConfigError for a table that the connector did not make or that has other columns.
    """
    oid = _table_oid(cursor, table, stream)
    if oid is None:
        if is_inner:
            create_inner(cursor, table, types, required=required)
        else:
            cursor.execute(sqlgen.create_table(table, types, required=required))
        return
    cursor.execute(_COLUMNS, (oid,))
    found = {column: (base, exact) for column, base, exact in cursor.fetchall()}
    found |= _widened(cursor, table, found, types, stream)
    if not any(column in found for column in META_COLUMNS) and any(column in types for column in META_COLUMNS):
        raise ConfigError(
            f"The table {table} was not made by this connector: it has no _airbyte columns.",
            remedy="Rename it, or write to another schema.",
            stream=stream,
        )
    problems = _differences(found, types)
    if problems:
        raise ConfigError(
            f"The table {table} does not have the stream's columns: {'; '.join(problems)}.",
            remedy="Changed schemas are not supported yet: rename or drop the table and refresh the stream.",
            stream=stream,
        )


def create_inner(cursor: Cursor, table: Table, types: Mapping[str, str], *, required: Iterable[str]) -> None:
    """Create a table of the connector's own, of which rows may be changed and deleted also where a publication is FOR
    ALL TABLES: nobody but us could give it the replica identity that this takes."""
    cursor.execute(sqlgen.create_table(table, types, required=required))
    cursor.execute(sqlgen.identify_by_all(table))


@contextlib.contextmanager
def deleting(cursor: Cursor, table: Table, stream: StreamName) -> Iterator[None]:
    """Rows of ``table`` are deleted in the body. Raises ConfigError if a publication does not let them go."""
    try:
        yield
    except errors.ObjectNotInPrerequisiteState as error:
        raise ConfigError(
            f"A publication sends the deletions of {table}, which has no replica identity.",
            remedy=f"{text(sqlgen.identify_by_all(table), cursor.connection)};",
            stream=stream,
        ) from error


def columns_of(cursor: Cursor, table: Table) -> set[str]:
    """The names of a table's columns; empty if there is none of that name."""
    cursor.execute(_RELATION, (table.schema, table.name))
    row = cursor.fetchone()
    if row is None:
        return set()
    cursor.execute(_COLUMNS, (row[0],))
    return {column for column, _, _ in cursor.fetchall()}


def is_filled(cursor: Cursor, table: Table) -> bool:
    """Whether ``table`` has a row."""
    cursor.execute(sqlgen.is_filled(table))
    return bool(_fetched(cursor)[0])


def _table_oid(cursor: Cursor, table: Table, stream: StreamName) -> int | None:
    cursor.execute(_RELATION, (table.schema, table.name))
    row = cursor.fetchone()
    if row is None:
        return None
    oid, kind, has_children = row
    if kind != _ORDINARY_TABLE:
        raise ConfigError(f"{table} exists and is no ordinary table.", remedy="Rename it.", stream=stream)
    if has_children:
        raise ConfigError(f"The table {table} has child tables.", remedy="Rename it.", stream=stream)
    return int(oid)


def _differences(found: Mapping[str, tuple[str, str]], wanted: Mapping[str, str]) -> list[str]:
    missing = [column for column in wanted if column not in found]
    other = [
        f"{column} ({found[column][1]} instead of {sql_type})"
        for column, sql_type in wanted.items()
        if column in found and not _serves(column, found[column], sql_type)
    ]
    surplus = [column for column in found if column not in wanted]
    shown = (("missing", missing), ("of another type", other), ("not in the stream", surplus))
    return [f"{what}: {', '.join(columns)}" for what, columns in shown if columns]


def _widened(
    cursor: Cursor,
    table: Table,
    found: Mapping[str, tuple[str, str]],
    wanted: Mapping[str, str],
    stream: StreamName,
) -> dict[str, tuple[str, str]]:
    """Take the limits off the numeric columns that are to have none: the server changes no row for that."""
    limited = [
        column
        for column, (base, exact) in found.items()
        if base == wanted.get(column) == Kind.NUMBER.sql_type and exact != base
    ]
    if limited:
        try:
            cursor.execute(sqlgen.change_types(table, dict.fromkeys(limited, Kind.NUMBER.sql_type)))
        except errors.FeatureNotSupported as error:
            raise ConfigError(
                f"Numbers of {table} would be cut off, and a view or rule on it keeps the columns from being widened: "
                f"{', '.join(limited)}.",
                remedy="Drop the view for the time of one sync, or set unconstrained_number to false.",
                stream=stream,
            ) from error
    return dict.fromkeys(limited, (Kind.NUMBER.sql_type, Kind.NUMBER.sql_type))


def _serves(column: str, found: tuple[str, str], wanted: str) -> bool:
    # Our own columns may have another length (3.x: none); the user's must be able to hold every value.
    base, exact = found
    return base == wanted.partition("(")[0] if column in _OWN_COLUMNS else exact == wanted


def _fetched(cursor: Cursor) -> tuple[object, ...]:
    row = cursor.fetchone()
    if row is None:
        raise LookupError("a query that always has a row has none")
    return row
