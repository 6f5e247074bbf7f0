"""A small batch, brought into a deduplicated table by one statement.

A staging table costs the server forty rows of its catalogue each time that it is made and dropped: more than a small
batch itself, and with a flush a second for weeks dead rows by the million in tables that every session reads. Here the
rows go with the statement, as an array of texts for each column, which the types' own input functions read as they do
in COPY. What is not plain (a refused value, a broken rule, a NULL in the key) is left to the way through the staging
table, which finds out the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from destination_postgres import directsql, keyindex, mergesql, sqlgen
from destination_postgres.sqlgen import Dedup
from destination_postgres.streams import Target

# From here on COPY into a staging table is as quick.
LARGEST_BYTES = 256 << 10

_NULL = "\\N"
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r"}

# Values, constraints, limits of the program, whatever triggers raise, a publication without a replica identity: the
# next way tells them better. A conflict, a timeout or a lost connection is nothing to be tried again here.
_SAID_BETTER = ("22", "23", "42", "54", "55000", "P0", "XX")


def merge(cursor: Cursor, dedup: Dedup, target: Target, types: Mapping[str, str], chunks: Sequence[bytes]) -> bool:
    """Bring rows given as COPY text, of columns with these ``types``, into the tables of ``target``.

    False if nothing was done: they are not few, or not plain.
    """
    if sum(map(len, chunks)) > LARGEST_BYTES:
        return False
    try:
        cells = columns(b"".join(chunks).decode(), list(types))
    except UnicodeDecodeError:
        return False
    if any(_NULL in cells[part] for part in dedup.key):
        return False
    statement = directsql.merge(
        {column: array(texts) for column, texts in cells.items()},
        types,
        target.final,
        target.tombstones,
        dedup,
        hashed=keyindex.is_hashed(cursor, target.final, dedup),
        tombstones_hashed=target.tombstones is not None and keyindex.is_hashed(cursor, target.tombstones, dedup),
        has_deletions=dedup.deleted_at is not None and set(cells[dedup.deleted_at]) != {_NULL},
    )
    steps = [sqlgen.claim(target.final), sql.SQL(mergesql.SETTINGS), sql.SQL("savepoint direct"), statement]
    try:
        cursor.execute(sql.SQL("; ").join([*steps, sql.SQL("release savepoint direct")]))
    except psycopg2.Error as error:
        if not (error.pgcode or "").startswith(_SAID_BETTER):
            raise
        cursor.execute("rollback to savepoint direct; release savepoint direct")
        return False
    return True


def columns(text: str, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The cells of each column, as COPY has them, but with the quotes escaped as arrays want it."""
    rows = (row.split("\t") for row in text.replace('"', '\\"').split("\n")[:-1])
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def array(cells: Sequence[str]) -> str:
    """Such cells as an array's text."""
    # A backslash is doubled in both notations.
    elements = ("NULL" if cell == _NULL else f'"{_unescaped(cell)}"' for cell in cells)
    return f"{{{','.join(elements)}}}"


def _unescaped(cell: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[0]), cell) if "\\" in cell else cell
