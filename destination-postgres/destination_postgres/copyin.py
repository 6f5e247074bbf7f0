"""COPY … FROM STDIN of rows that are already made, and what to say when the server refuses some of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import psycopg2
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import ConfigError, StreamName, SystemFault
from destination_postgres import sqlgen
from destination_postgres.sqlgen import Table

# libpq copies each piece into its own buffer, which it then keeps.
PIECE_BYTES = 1 << 20

# COPY users, line 7, column id: "…"
_PLACE = re.compile(r"COPY .*?, line \d+(?:, column (.*))?", re.DOTALL)


class _Pieces:
    """The file that the driver reads from. It may return more than it is asked for (psycopg2 sends what it gets)."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._pieces = _cut(chunks)

    def read(self, size: int = -1) -> bytes:
        """The next piece; empty at the end."""
        return next(self._pieces, b"")

    # The driver only reads, but its type stubs ask for both.
    readline = read


def copy_in(
    cursor: Cursor,
    table: Table,
    columns: Sequence[str],
    chunks: Iterable[bytes],
    stream: StreamName,
    *,
    binary: bool = False,
) -> None:
    """COPY ``chunks`` (text or binary format, cut anywhere) into ``table``.

    Raises ConnectorError naming stream and column, never the value, when the server refuses one.
    """
    try:
        cursor.copy_expert(sqlgen.copy_in(table, columns, binary=binary), _Pieces(chunks), PIECE_BYTES)
    except psycopg2.Error as error:
        refused = _refusal(error, table, columns, stream)
        if refused is None:
            raise
        raise refused from error


def _refusal(
    error: psycopg2.Error, table: Table, columns: Sequence[str], stream: StreamName
) -> ConfigError | SystemFault | None:
    code = error.pgcode or ""
    detail = f"SQLSTATE {code}, table {table}"
    if code.startswith("22"):
        column = _column(error, columns)
        place = f" of column {column}" if column else ""
        return SystemFault(
            f"The server refused a value{place}.",
            remedy="Deselect the column for now, and report this.",
            detail=detail,
            stream=stream,
        )
    if code.startswith("54"):
        return ConfigError(
            "A row is larger than the server can store or index.",
            remedy="Deselect the large column, or choose a shorter primary key.",
            detail=detail,
            stream=stream,
        )
    return None


def _column(error: psycopg2.Error, columns: Sequence[str]) -> str | None:
    # The context quotes the value behind the column's name: only a name that is known to be one is taken.
    matched = _PLACE.match(error.diag.context or "")
    tail = matched.group(1) if matched else None
    if not tail:
        return None
    return max((column for column in columns if tail.startswith(column)), key=len, default=None)


def _cut(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if len(chunk) <= PIECE_BYTES:
            yield chunk
            continue
        for start in range(0, len(chunk), PIECE_BYTES):
            yield chunk[start : start + PIECE_BYTES]
