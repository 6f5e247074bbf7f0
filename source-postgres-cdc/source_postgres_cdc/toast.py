"""Values that a change did not touch and the server did not send: re-selected by key, in one query per batch.

A re-selected value may be newer than its change; that is safe, since the newer change follows. A row that is gone
leaves the column out, with a note in ``meta.changes`` (design section 3, "TOAST").
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from psycopg2.sql import SQL

from airbyte_pg import sql
from airbyte_pg.connect import Connection
from source_postgres_cdc.core import copytext
from source_postgres_cdc.tables import Table

Key = tuple[str, ...]


def reselect(
    session: Connection, table: Table, columns: Sequence[str], keys: Sequence[Key]
) -> dict[Key, dict[str, str | None]]:
    """``columns`` of the rows of ``table`` with ``keys``, as the server renders them (latin-1 text), by key."""
    wanted = list(dict.fromkeys(keys))
    query = SQL("copy (select {} from only {} where ({}) in ({})) to stdout").format(
        sql.names([*table.key, *columns]),
        sql.table(table.schema, table.name),
        sql.names(table.key),
        SQL(", ").join(SQL("({})").format(SQL(", ").join(sql.literal(_utf8(part)) for part in key)) for key in wanted),
    )
    out = io.BytesIO()
    with session.cursor() as cursor:
        cursor.copy_expert(query, out)
    found: dict[Key, dict[str, str | None]] = {}
    width = len(table.key)
    for line in out.getvalue().decode("latin-1").split("\n")[:-1]:
        values = copytext.split_line(line)
        found[tuple(part or "" for part in values[:width])] = dict(zip(columns, values[width:], strict=True))
    return found


def _utf8(text: str) -> str:
    # Row text travels as latin-1 for its bytes; the driver wants characters.
    return text.encode("latin-1").decode("utf-8")
