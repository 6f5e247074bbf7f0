"""Read a part of a table inside a snapshot: COPY text in large chunks of whole lines, rendered by the table's plan."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import psycopg2
from psycopg2 import errors
from psycopg2.sql import SQL, Composable

from airbyte_pg import messages, sql
from airbyte_pg.classify import Phase, classify
from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConfigError, ConnectorError, StreamName, TransientError
from source_postgres_cdc import server, stamp
from source_postgres_cdc.core.plan import CopyPlan, PlanColumn
from source_postgres_cdc.pgtypes import Rendering
from source_postgres_cdc.tables import Leaf, Table

# psycopg2 calls `write` once per row; a C-level buffer in between makes that one Python call per chunk. What is made of
# a small chunk fits memory that Python keeps; for larger ones it is had from the system and given back again and again
# (measured: a page fault every five rows at 64 KiB, half the speed at 1 MiB).
CHUNK_BYTES = 1 << 14

TakeChunk = Callable[[bytes], None]
TakeLines = Callable[[bytes, int], None]


class Pages(msgspec.Struct, frozen=True):
    """A range of a heap's pages: from ``first`` on, before ``end`` (None: to the table's end, wherever that is)."""

    first: int = 0
    end: int | None = None


WHOLE = Pages()


class Part(msgspec.Struct, frozen=True):
    """What one COPY reads, and how its lines are rendered: all that a session behind the snapshot must know.

    ``has_functions``: it may run functions that are found by the user's own search_path.
    """

    stream: StreamName
    pages: Pages
    statement: str
    columns: tuple[PlanColumn, ...]
    tail: str
    has_functions: bool = False


class Rewritten(TransientError):
    """A table was written anew since the snapshot began, which cannot show its rows any more."""


class Storage(msgspec.Struct, frozen=True):
    """Where a table's rows are: its file (None: it has none), the file's size in pages, and whether it is a heap."""

    file: int | None
    pages: int
    is_heap: bool


def read(session: Connection, part: Part, take_lines: TakeLines) -> None:
    """Give the RECORD lines of ``part`` that ``session``'s snapshot shows to ``take_lines``, with their number."""
    plan = CopyPlan(part.columns)

    def take_chunk(chunk: bytes) -> None:
        take_lines(*plan.render(chunk, stamp.head(part.stream, messages.now_ms()), part.tail))

    chunks = _Chunks(take_chunk)
    buffer: io.BufferedWriter = io.BufferedWriter(chunks, CHUNK_BYTES)
    try:
        with session.cursor() as cursor:
            if part.has_functions:
                cursor.execute("set local search_path to default")
            cursor.copy_expert(part.statement, Sink(buffer))
            if part.has_functions:
                cursor.execute("set local search_path = 'pg_catalog'")
        buffer.flush()
    except psycopg2.Error as error:
        raise _named(error, part.stream) from error
    finally:
        # What is left of a read that failed must not come out when the buffer is thrown away.
        chunks.is_over = True


def _named(error: psycopg2.Error, stream: StreamName) -> ConnectorError:
    """The error of reading ``stream``, which says so."""
    if isinstance(error, errors.InsufficientPrivilege) and "row-level security" in (error.diag.message_primary or ""):
        return ConfigError(
            f"Row security policies may hide rows of {stream.namespace}.{stream.name}: it cannot be read.",
            remedy="Give the user BYPASSRLS, or read the stream as a user that sees every row.",
            stream=stream,
        )
    failure = classify(error, Phase.WORKING)
    failure.stream = stream
    if not isinstance(failure, TransientError):
        failure.message = f"{stream.namespace}.{stream.name} cannot be read. {failure.message}"
    return failure


_STORAGES = """
select c.oid::bigint, pg_relation_filenode(c.oid)::bigint,
       coalesce(pg_relation_size(c.oid) / current_setting('block_size')::int, 0), coalesce(a.amname = 'heap', false)
from pg_class c left join pg_am a on a.oid = c.relam where c.oid = any (%s::oid[])
"""


def storages(session: Connection, read_tables: Sequence[Table]) -> dict[int, Storage]:
    """Where each table's rows are now, by OID; to be taken before a snapshot, for ``lock``."""
    oids = [oid for table in read_tables for oid in (table.oid, *(leaf.oid for leaf in table.leaves))]
    found = server.rows(session, _STORAGES, (oids,))
    return {oid: Storage(*storage) for oid, *storage in found}


def lock(session: Connection, table: Table, known: Mapping[int, Storage]) -> Storage:
    """Keep ``table`` from being rewritten while it is read. Raises Rewritten when it has been, since ``storages``.

    A rewrite (ALTER TABLE, TRUNCATE, VACUUM FULL) leaves nothing for an older snapshot to see: PostgreSQL documentation
    13.6, "Caveats".
    """
    if table.kind in "rp":
        # As LOCK TABLE does, which asks for more than a right to read some of its columns.
        hold = SQL("select {} from {}{} limit 0").format(
            sql.names(column.name for column in table.columns[:1]), only(table), sql.table(table.schema, table.name)
        )
        with session.cursor() as cursor:
            cursor.execute(hold)
    now = storages(session, [table])
    for oid in (table.oid, *(leaf.oid for leaf in table.leaves)):
        if oid in now and oid in known and now[oid].file == known[oid].file:
            continue
        raise Rewritten(
            f"The table {table.schema}.{table.name} was rewritten after the snapshot began.",
            remedy="The next sync reads it again.",
            stream=table.id,
        )
    return now[table.oid]


def can_be_split(table: Table, storage: Storage, version: int) -> bool:
    """Whether ranges of ctid are read without reading the rest: an ordinary heap, on a server since 14.

    Who may read columns only may not read ctid.
    """
    return table.kind == "r" and table.is_open and storage.is_heap and version >= 140000


def split(first: int, pages: int, part_pages: int) -> list[Pages]:
    """The pages from ``first`` on, of ``pages`` in all, in ranges of ``part_pages``; at least one range."""
    end = max(pages, first + 1)
    starts = list(range(first, end, part_pages))
    return [Pages(start, end) for start, end in zip(starts, [*starts[1:], end], strict=True)]


def copy_statement(
    table: Table, columns: Sequence[str], row_filter: str | None, stdout: SQL, pages: Pages = WHOLE
) -> Composable:
    """The COPY of ``columns`` of ``table`` to text. ``row_filter`` is SQL as the server deparsed it."""
    relation = sql.table(table.schema, table.name)
    # COPY of a table takes no generated columns.
    is_plain = table.kind == "r" and not any(column.is_generated and column.name in columns for column in table.columns)
    if is_plain and columns and row_filter is None and pages == WHOLE:
        return SQL("copy {} ({}) {}").format(relation, sql.names(columns), stdout)
    query = SQL("select {} from {}{}").format(sql.names(columns) if columns else SQL(""), only(table), relation)
    conditions = [
        SQL("ctid {} {}::tid").format(SQL(operator), sql.literal(f"({page},0)"))
        for operator, page in ((">=", pages.first), ("<", pages.end))
        if page
    ]
    if row_filter is not None:
        conditions.append(SQL("({})").format(SQL(row_filter)))
    if conditions:
        query += SQL(" where ") + SQL(" and ").join(conditions)
    return SQL("copy ({}) {}").format(query, stdout)


def leaf_statement(leaf: Leaf, columns: Sequence[str], row_filter: str | None, stdout: SQL) -> Composable:
    """The COPY of ``columns`` of a partition to text."""
    query = SQL("select {} from only {}").format(sql.names(columns), sql.table(leaf.schema, leaf.name))
    if row_filter is not None:
        query += SQL(" where ({})").format(SQL(row_filter))
    return SQL("copy ({}) {}").format(query, stdout)


def to_stdout(rendering: Rendering) -> SQL:
    """How COPY gives text: in UTF-8, but as it is stored where the database knows no encoding."""
    return SQL("to stdout" if rendering.has_encoding else "to stdout (encoding 'SQL_ASCII')")


def only(table: Table) -> SQL:
    """What stands before a table's name: rows of inheritance children belong to their own streams, as for COPY."""
    return SQL("only ") if table.kind == "r" else SQL("")


class Sink:
    """What psycopg2 wants of a file; the method is the buffer's own, without a Python call in between."""

    __slots__ = ("write",)

    def __init__(self, buffer: io.BufferedWriter) -> None:
        self.write = buffer.write


class _Chunks(io.RawIOBase):
    """Cuts what the buffer hands over at line ends."""

    def __init__(self, take_chunk: TakeChunk) -> None:
        self._take_chunk = take_chunk
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
            self._take_chunk(chunk[:end])
        return len(data)
