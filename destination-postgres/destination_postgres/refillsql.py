"""The SQL of a refill: what to read, what to convert, what to update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.sql import name
from destination_postgres.naming import META, RAW_ID
from destination_postgres.sqlgen import Table

# (type before, type now) -> an expression of the old value {} that loses nothing; trusted SQL.
_CONVERSIONS = {
    **{(kind, "character varying"): "{}::text" for kind in ("bigint", "numeric", "boolean", "date")},
    ("jsonb", "character varying"): "{} #>> '{{}}'",
    ("bigint", "numeric"): "{}::numeric",
    **{(kind, "jsonb"): "to_jsonb({})" for kind in ("bigint", "numeric", "boolean", "character varying")},
}

# 14 scans a range of places; before, places are looked up one by one (a page of 8 KiB has at most 291).
_RANGE_VERSION = 140_000
_RANGE = "ctid >= format('(%%s,0)', %s)::tid and ctid < format('(%%s,0)', %s)::tid"
_PLACES = (
    "ctid = any (array(select format('(%%s,%%s)', page, line)::tid"
    " from generate_series(%s, %s - 1) page, generate_series(1, 291) line))"
)

_RELATION = "from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = %s and c.relname = %s"
_RAW_ID_INDEX = """\
select exists (select from pg_index i join pg_class c on c.oid = i.indrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum = (i.indkey::int2[])[0]
  join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
  where n.nspname = %s and c.relname = %s and a.attname = '_airbyte_raw_id' and m.amname = 'btree'
    and i.indisvalid and i.indpred is null)"""


def conversion(before: str, now: str) -> str | None:
    """How values of one type become another's without loss; None if they do not."""
    return _CONVERSIONS.get((before.partition("(")[0], now))


def file_of(cursor: Cursor, table: Table) -> int | None:
    """The file that the table is in; None if there is no such table."""
    cursor.execute(f"select pg_relation_filenode(c.oid)::bigint {_RELATION}", (table.schema, table.name))
    row = cursor.fetchone()
    return None if row is None else row[0]


def pages_of(cursor: Cursor, table: Table) -> int:
    """How many pages the table has."""
    size = "pg_relation_size(c.oid) / current_setting('block_size')::bigint"
    cursor.execute(f"select {size} {_RELATION}", (table.schema, table.name))
    return int((cursor.fetchone() or [0])[0])


def has_raw_id_index(cursor: Cursor, table: Table) -> bool:
    """Whether rows can be found by their raw id."""
    cursor.execute(_RAW_ID_INDEX, (table.schema, table.name))
    return bool((cursor.fetchone() or [False])[0])


def has_orphans(cursor: Cursor, table: Table, raw: Table, columns: Iterable[str]) -> bool:
    """Whether a row with a value in one of the columns has no raw row."""
    query = sql.SQL(
        "select exists (select from {} f where ({}) and not exists"
        " (select from {} r where r._airbyte_raw_id = f._airbyte_raw_id))"
    )
    values = sql.SQL(" or ").join(sql.SQL("f.{} is not null").format(name(column)) for column in columns)
    cursor.execute(query.format(table.sql, values, raw.sql))
    return bool((cursor.fetchone() or [False])[0])


def declare(raw: Table, behind: str | None, fields: Iterable[str]) -> sql.Composed:
    """DECLARE of a cursor over the typed rows of the raw table that have one of ``fields``, behind a place."""
    place = sql.SQL(" and ctid > {}::tid").format(sql.Literal(behind)) if behind else sql.SQL("")
    return sql.SQL(
        "declare raw_rows no scroll cursor for select {} from {}"
        " where _airbyte_loaded_at is not null and _airbyte_data ?| {}{}"
    ).format(STORED, raw.sql, sql.Literal(list(fields)), place)


# What rowcode.StoredRecord is made of, with the row's place.
STORED = sql.SQL(
    "ctid::text, _airbyte_raw_id, _airbyte_extracted_at::text, _airbyte_generation_id, _airbyte_data::text,"
    " case when jsonb_typeof(_airbyte_meta -> 'changes') = 'array' and _airbyte_meta -> 'changes' <> '[]'"
    " then jsonb_build_object('changes', _airbyte_meta -> 'changes')::text end, (_airbyte_meta -> 'sync_id')::text"
)


def convert(table: Table, conversions: Mapping[str, tuple[str, str]], version: int) -> sql.Composed:
    """UPDATE of the rows on some pages (two parameters: the first, and the one behind the last)."""
    changes = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(name(filled), sql.SQL(expression).format(name(column)))
        for filled, (column, expression) in conversions.items()
    )
    pages = sql.SQL(_RANGE if version >= _RANGE_VERSION else _PLACES)
    return sql.SQL("update {} set {} where {}").format(table.sql, changes, pages)


def fill(table: Table, staged: Table, columns: Mapping[str, str]) -> sql.Composed:
    """UPDATE of the rows that were made of the staged rows' raw rows."""
    changes = sql.SQL(", ").join(
        sql.SQL("{} = s.{}").format(name(filled), name(column)) for column, filled in {**columns, META: META}.items()
    )
    return sql.SQL("update {} f set {} from {} s where f.{} = s.{}").format(
        table.sql, changes, staged.sql, name(RAW_ID), name(RAW_ID)
    )
