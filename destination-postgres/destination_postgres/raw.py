"""Raw tables: every record as it came, with Airbyte 2.x's columns. No index: nothing here looks a row up."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import StreamName
from destination_postgres import sqlgen, swap
from destination_postgres.columns import RAW_TYPES
from destination_postgres.copyin import copy_in
from destination_postgres.naming import GENERATION_ID, META, RAW_ID
from destination_postgres.rawparts import RawRows
from destination_postgres.sqlgen import Table
from destination_postgres.tables import columns_of, delete_all, deleting, ensure_table

COLUMNS = tuple(RAW_TYPES)
# Since 2.0.5 and 2.3.0.
_LATER_COLUMNS = (META, GENERATION_ID)


def ensure(cursor: Cursor, table: Table, stream: StreamName) -> None:
    """Create the raw table if it is missing, and what 2.x had not yet in its own.

    Raises ConfigError for one with other columns.
    """
    found = columns_of(cursor, table)
    if RAW_ID in found:
        for column in _LATER_COLUMNS:
            if column not in found:
                cursor.execute(sqlgen.add_column(table, column, RAW_TYPES[column]))
    ensure_table(cursor, table, RAW_TYPES, stream=stream)


def has_untyped(cursor: Cursor, table: Table) -> bool:
    """Whether there is a ``table`` and it has a row that was never typed."""
    if "_airbyte_loaded_at" not in columns_of(cursor, table):
        return False
    cursor.execute(sqlgen.has_untyped(table))
    return bool((cursor.fetchone() or [False])[0])


def load(cursor: Cursor, table: Table, chunks: Sequence[bytes], stream: StreamName) -> None:
    """Add rows given in COPY's binary format, without its header and trailer."""
    copy_in(cursor, table, RawRows(), chunks, stream)


def replace(cursor: Cursor, origin: Table, target: Table, stream: StreamName, *, horizon: str) -> None:
    """Put the rows of ``origin`` in the place of those of ``target``; ``horizon``: see swap.py."""
    if swap.begin_rename(cursor, origin, target, horizon=horizon):
        swap.rename(cursor, origin, target)
        return
    with deleting(cursor, target, stream):
        delete_all(cursor, target, stream)
    move(cursor, origin, target)


def move(cursor: Cursor, origin: Table, target: Table) -> None:
    """Add the rows of ``origin`` to ``target``."""
    cursor.execute(sqlgen.append(target, origin, COLUMNS))
