"""Read a table inside the snapshot: COPY text in large chunks of whole lines, rendered by the table's plan."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from psycopg2.sql import SQL, Composable

from airbyte_pg import sql
from airbyte_pg.connect import Connection
from airbyte_pg.errors import TransientError
from source_postgres_cdc import server
from source_postgres_cdc.tables import Table

# psycopg2 calls `write` once per row; a C-level buffer in between makes that one Python call per chunk.
CHUNK_BYTES = 1 << 20

TakeLines = Callable[[bytes], None]


def read(
    session: Connection, table: Table, columns: Sequence[str], row_filter: str | None, take_lines: TakeLines
) -> None:
    """Give every row of ``table`` that ``session``'s snapshot shows to ``take_lines``, in chunks of whole lines."""
    chunks = _Chunks(take_lines)
    buffer: io.BufferedWriter = io.BufferedWriter(chunks, CHUNK_BYTES)
    try:
        with session.cursor() as cursor:
            cursor.copy_expert(copy_statement(table, columns, row_filter), Sink(buffer))
        buffer.flush()
    finally:
        # What is left of a read that failed must not come out when the buffer is thrown away.
        chunks.is_over = True


def files(session: Connection, read_tables: Sequence[Table]) -> dict[int, int | None]:
    """The file that each table's rows are in now, by OID; to be taken before a snapshot, for ``lock``."""
    query = "select c.oid::bigint, pg_relation_filenode(c.oid)::bigint from pg_class c where c.oid = any (%s::oid[])"
    return dict(server.rows(session, query, ([table.oid for table in read_tables],)))


def lock(session: Connection, table: Table, known_files: Mapping[int, int | None]) -> None:
    """Keep ``table`` from being rewritten while it is read. Raises TransientError when it has been, since ``files``.

    A rewrite (ALTER TABLE, TRUNCATE, VACUUM FULL) leaves nothing for an older snapshot to see: PostgreSQL documentation
    13.6, "Caveats".
    """
    if table.kind in "rp":
        with session.cursor() as cursor:
            cursor.execute(SQL("lock table {} in access share mode").format(sql.table(table.schema, table.name)))
    if files(session, [table]).get(table.oid) != known_files.get(table.oid):
        raise TransientError(
            f"The table {table.schema}.{table.name} was rewritten after the snapshot began.",
            remedy="The next sync reads it again.",
            stream=table.id,
        )


def copy_statement(table: Table, columns: Sequence[str], row_filter: str | None) -> Composable:
    """The COPY of ``columns`` of ``table`` to text. ``row_filter`` is SQL as the server deparsed it."""
    relation = sql.table(table.schema, table.name)
    if table.kind == "r" and columns and row_filter is None:
        return SQL("copy {} ({}) to stdout").format(relation, sql.names(columns))
    query = SQL("select {} from {}{}").format(sql.names(columns) if columns else SQL(""), _only(table), relation)
    if row_filter is not None:
        query += SQL(" where ") + SQL(row_filter.replace("{", "{{").replace("}", "}}")).format()
    return SQL("copy ({}) to stdout").format(query)


def _only(table: Table) -> SQL:
    # As COPY of a table does: rows of inheritance children belong to their own streams.
    return SQL("only ") if table.kind == "r" else SQL("")


class Sink:
    """What psycopg2 wants of a file; the method is the buffer's own, without a Python call in between."""

    __slots__ = ("write",)

    def __init__(self, buffer: io.BufferedWriter) -> None:
        self.write = buffer.write


class _Chunks(io.RawIOBase):
    """Cuts what the buffer hands over at line ends."""

    def __init__(self, take_lines: TakeLines) -> None:
        self._take_lines = take_lines
        self._rest = b""
        self.is_over = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.is_over:
            return len(data)
        chunk = self._rest + data
        end = chunk.rfind(b"\n") + 1
        self._rest = chunk[end:]
        if end:
            self._take_lines(chunk[:end])
        return len(data)
