"""Raw tables: every record as it came, with Airbyte 2.x's columns. No index: nothing here looks a row up."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import StreamName
from destination_postgres import rawrow, sqlgen
from destination_postgres.columns import RAW_TYPES
from destination_postgres.copyin import copy_in
from destination_postgres.sqlgen import Table
from destination_postgres.tables import ensure_table

COLUMNS = tuple(RAW_TYPES)


def ensure(cursor: Cursor, table: Table, stream: StreamName) -> None:
    """Create the raw table if it is missing. Raises ConfigError for one with other columns."""
    ensure_table(cursor, table, RAW_TYPES, stream=stream)


def load(cursor: Cursor, table: Table, chunks: Iterable[bytes], stream: StreamName) -> None:
    """Add rows given in COPY's binary format, without its header and trailer."""
    copy_in(cursor, table, COLUMNS, itertools.chain([rawrow.HEADER], chunks, [rawrow.TRAILER]), stream, binary=True)


def move(cursor: Cursor, origin: Table, target: Table) -> None:
    """Add the rows of ``origin`` to ``target``."""
    cursor.execute(sqlgen.append(target, origin, COLUMNS))
