"""COPY … FROM STDIN of rows that are already made; a value that the server refuses does not keep its row out.

The savepoint that a refusal is undone to is set and released in the COPY's own message: no round trip more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import StreamName, SystemFault
from destination_postgres import sqlgen
from destination_postgres.isolation import Isolation
from destination_postgres.parts import Row, Rows
from destination_postgres.refusals import Refusal, broken_rule, refusal_of
from destination_postgres.sqlgen import Table

# libpq copies each piece into its own buffer, which it then keeps.
PIECE_BYTES = 1 << 20

_UNDO = "rollback to savepoint rows; release savepoint rows"

_log = logging.getLogger(__name__)


def copy_in(
    cursor: Cursor, table: Table, rows: Rows, chunks: Sequence[bytes], stream: StreamName
) -> Mapping[int, bytes]:
    """COPY ``chunks``, each some whole rows, into ``table``; what the server refuses of a row is put in a weaker form.

    Returns the rows that were changed, as they went in, by position (from 0).

    Raises ConfigError, naming no value, if a constraint, an index or a trigger of the table refuses a row.
    """
    copy = _Copy(cursor, table, rows, stream)
    refusal = copy.refused(chunks)
    if refusal is None:
        return {}
    mended = Isolation(copy, chunks).load(refusal)
    _log.info(
        "values that the server refuses were replaced: table=%s sqlstate=%s rows=%d", table, refusal.code, len(mended)
    )
    return mended


class _Copy:
    """One COPY after the other into one table; each is undone if the server refuses some of it."""

    def __init__(self, cursor: Cursor, table: Table, rows: Rows, stream: StreamName) -> None:
        self._cursor = cursor
        self._table = table
        self._stream = stream
        self.rows = rows
        copy = sqlgen.copy_in(table, rows.columns, binary=rows.binary)
        self._add = sql.SQL("savepoint rows; {}; release savepoint rows").format(copy)
        self._ask = sql.SQL("savepoint rows; {}; {}").format(copy, sql.SQL(_UNDO))

    def refused(self, rows: Iterable[Row], *, only_ask: bool = False) -> Refusal | None:
        """Add rows; why none of them was added, or None. With ``only_ask`` they never are, and no rule counts.

        Raises psycopg2.Error and ConfigError for what is no refusal of a value.
        """
        try:
            statement = self._ask if only_ask else self._add
            self._cursor.copy_expert(statement, _Pieces(self.rows.file(rows)), PIECE_BYTES)
        except psycopg2.Error as error:
            refusal = refusal_of(error, self._table, self.rows.columns)
            rule = None if refusal else broken_rule(error, self._table, self._stream)
            if refusal is None and rule is None:
                raise
            self._cursor.execute(_UNDO)
            if rule is not None and not only_ask:
                raise rule from error
            return refusal
        return None

    def failure(self, refusal: Refusal) -> SystemFault:
        """The error for a row that is refused whatever is left out of it."""
        return SystemFault(
            "The server refuses a row, but no value of it.",
            remedy="Look into the server's log, and report this.",
            detail=f"SQLSTATE {refusal.code}, table {self._table}",
            stream=self._stream,
        )


class _Pieces:
    """The file that the driver reads from. It may return more than it is asked for (psycopg2 sends what it gets)."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._pieces = _cut(rows)

    def read(self, size: int = -1) -> bytes:
        """The next piece; empty at the end."""
        return next(self._pieces, b"")

    # The driver only reads, but its type stubs ask for both.
    readline = read


def _cut(rows: Iterable[Row]) -> Iterator[bytes]:
    for row in rows:
        for start in range(0, len(row), PIECE_BYTES):
            yield bytes(row[start : start + PIECE_BYTES])
