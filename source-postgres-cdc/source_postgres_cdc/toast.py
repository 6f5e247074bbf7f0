"""Values that a change did not touch and the server did not send: re-selected by key, a few rows per query.

A re-selected value may be newer than its change; that is safe, since the newer change follows. It must not be older: a
commit that waits for a synchronous standby is decoded before anybody else can see it, so the query waits for it. A row
that is gone leaves the column out, with a note in ``meta.changes`` (design section 3, "TOAST").
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import msgspec
import psycopg2
from psycopg2 import errors
from psycopg2.sql import SQL, Composable

from airbyte_pg import sql
from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConfigError
from source_postgres_cdc import barrier, snapshot
from source_postgres_cdc.core import copytext
from source_postgres_cdc.core.pgoutput import UNCHANGED, RawValue
from source_postgres_cdc.relations import Target
from source_postgres_cdc.streams import Stream
from source_postgres_cdc.tables import Table

Key = tuple[str, ...]

# The rows of one query are chosen so that their lines are about this large: it bounds the memory.
_QUERY_BYTES = 8 << 20
_FIRST_ROWS = 1
_MOST_ROWS = 1000


class Incomplete(msgspec.Struct):
    """A row that waits for values, of the transaction ``xid``."""

    target: Target
    row: list[RawValue]
    tail: str
    xid: int


class Reselection:
    """Completes batches of lines; ``session`` sees the tables as they are now."""

    def __init__(self, session: Connection) -> None:
        self._session = session
        self._rows = _FIRST_ROWS

    def completed(self, batch: Sequence[str | Incomplete]) -> Iterator[list[str]]:
        """The lines of ``batch`` in order, in parts."""
        start = count = 0
        for at, entry in enumerate(batch):
            count += isinstance(entry, Incomplete)
            if count >= self._rows:
                yield self._part(batch[start : at + 1], count)
                start, count = at + 1, 0
        if start < len(batch):
            yield self._part(batch[start:], count)

    def _part(self, part: Sequence[str | Incomplete], count: int) -> list[str]:
        waiting: dict[int, list[Incomplete]] = {}
        for entry in part:
            if isinstance(entry, Incomplete):
                waiting.setdefault(id(entry.target), []).append(entry)
        if waiting:
            xids = {entry.xid for entries in waiting.values() for entry in entries}
            barrier.wait_until_visible(self._session, xids)
        for entries in waiting.values():
            _fill(self._session, entries)
        lines = [entry if isinstance(entry, str) else _rendered(entry) for entry in part]
        if count:
            per_row = sum(map(len, lines)) // count + 1
            # Twice as many at most: the next ones may be larger by far.
            self._rows = min(max(_QUERY_BYTES // per_row, 1), 2 * self._rows, _MOST_ROWS)
        return lines


def _rendered(entry: Incomplete) -> str:
    return entry.target.plan.render_values(entry.row, entry.target.head, entry.tail)


def _fill(session: Connection, entries: Sequence[Incomplete]) -> None:
    """Put the values into rows of one target."""
    target = entries[0].target
    missing = sorted(
        {
            i
            for entry in entries
            for i, value in enumerate(entry.row)
            if value is UNCHANGED and target.plan.columns[i].field is not None
        }
    )
    if not missing:
        return
    keys = [tuple(str(entry.row[i]) for i in target.key) for entry in entries]
    found = reselect(session, target.stream, [target.names[i] for i in missing], keys)
    for entry, key in zip(entries, keys, strict=True):
        values = found.get(key)
        if values is not None:
            for i, value in zip(missing, values, strict=True):
                if entry.row[i] is UNCHANGED:
                    entry.row[i] = value


def reselect(
    session: Connection, stream: Stream, columns: Sequence[str], keys: Sequence[Key]
) -> dict[Key, list[str | None]]:
    """``columns`` of the rows of ``stream`` with ``keys``, as the server renders them (latin-1 text), by key."""
    table = stream.table
    query = SQL("copy (select {} from {}{} where {}) {}").format(
        sql.names([*table.key, *columns]),
        snapshot.only(table),
        sql.table(table.schema, table.name),
        _is_one_of(table, list(dict.fromkeys(keys))),
        snapshot.to_stdout(stream.rendering),
    )
    out = io.BytesIO()
    try:
        with session.cursor() as cursor:
            cursor.copy_expert(query, out)
    except (psycopg2.DataError, errors.UndefinedObject, errors.UndefinedTable) as error:
        # An enum's label was renamed, a regclass's table dropped, a type replaced.
        raise ConfigError(
            f"A changed row of {table.schema}.{table.name} cannot be looked up: its key is no value of its type now.",
            remedy="Refresh the stream: its rows must be read anew.",
            stream=stream.id,
        ) from error
    found: dict[Key, list[str | None]] = {}
    width = len(table.key)
    for line in out.getvalue().decode("latin-1").split("\n")[:-1]:
        values = copytext.split_line(line)
        found[tuple(part or "" for part in values[:width])] = values[width:]
    return found


def _is_one_of(table: Table, keys: Sequence[Key]) -> Composable:
    """SQL that is true for the rows with ``keys``: by the operators of the key's index, wherever its types are."""
    parts = list(zip(table.key, table.lookups, strict=True))
    equals = [
        SQL("{}{} operator({}.{}) ").format(
            sql.name(name),
            SQL(f"::{lookup.type}" if lookup.is_domain else ""),
            sql.name(lookup.operator_schema),
            SQL(lookup.operator),
        )
        for name, lookup in parts
    ]
    literals = [
        [
            SQL("{}::{}").format(sql.literal(_utf8(part)), SQL(lookup.type))
            for part, (_, lookup) in zip(key, parts, strict=True)
        ]
        for key in keys
    ]
    # One look into the index for all; but arrays of arrays are arrays of their elements.
    if len(parts) == 1 and not table.lookups[0].type.endswith("[]"):
        return equals[0] + SQL("any (array[{}])").format(SQL(", ").join(literal for (literal,) in literals))
    return SQL(" or ").join(
        SQL("({})").format(SQL(" and ").join(equal + literal for equal, literal in zip(equals, row, strict=True)))
        for row in literals
    )


def _utf8(text: str) -> str:
    # Row text travels as latin-1 for its bytes; the driver wants characters. A key that is no UTF-8 is refused anyway.
    return text.encode("latin-1").decode("utf-8", "replace")
