"""Rows of a final table in COPY's text format, and one of them taken apart: each cell of the user's is a part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from destination_postgres import changes, jsontext
from destination_postgres.columns import Column, Kind
from destination_postgres.exact import NULL
from destination_postgres.naming import META_COLUMNS
from destination_postgres.parts import Parts, Row
from destination_postgres.refusals import Refusal

_NULL = NULL.encode()
_LINE_FEED = re.compile(rb"\n")
# What the client's own judge (exact.py) gives as reasons.
_JUDGES_REASONS = frozenset({changes.TYPECAST, changes.FIELD_SIZE})
_JSONB = frozenset({Kind.OBJECT, Kind.ARRAY, Kind.UNKNOWN})


class FinalRows:
    """The rows of one stream (parts.Rows)."""

    binary = False

    def __init__(self, columns: Sequence[Column]) -> None:
        """``columns``: the user's."""
        self._columns = columns
        self.columns = (*(column.name for column in columns), *META_COLUMNS)

    def file(self, rows: Iterable[Row]) -> Iterable[Row]:
        """What COPY reads for these rows, one or many in a piece."""
        return rows

    def ends(self, chunk: bytes) -> Iterator[int]:
        """Where each row ends: a line feed within a value is escaped."""
        return (found.end() for found in _LINE_FEED.finditer(chunk))

    def raw_id(self, row: bytes) -> str:
        """The raw id of a row."""
        return row.split(b"\t")[len(self._columns)].decode()

    def open(self, row: Row) -> FinalParts:
        """One row, taken apart."""
        return FinalParts(self._columns, row)


class FinalParts(Parts):
    """One row."""

    def __init__(self, columns: Sequence[Column], line: Row) -> None:
        *self._cells, raw_id, extracted_at, generation, meta = bytes(line).split(b"\t")
        self._columns = columns
        self._stamps = (raw_id, extracted_at, generation)
        super().__init__(_json_text(meta.removesuffix(b"\n")))

    def filled(self) -> list[int]:
        return [part for part, cell in enumerate(self._cells) if cell != _NULL]

    def size(self, part: int) -> int:
        return len(self._cells[part])

    def is_ascii(self, part: int) -> bool:
        return self._cells[part].isascii() and b"\\u" not in self._cells[part]

    def column(self, part: int) -> str | None:
        return self._columns[part].name

    def is_huge(self, part: int) -> bool:
        return self._columns[part].kind in _JSONB and jsontext.has_huge_number(_json_text(self._cells[part]))

    def weaken(self, part: int, refusal: Refusal) -> bool:
        self.nullify(part, refusal)
        return False

    def nullify(self, part: int, refusal: Refusal) -> None:
        column = self._columns[part]
        of_size = refusal.is_limit or (refusal.is_number and (column.kind in _JSONB or column.kind is Kind.NUMBER))
        self._cells[part] = _NULL
        self._noted[part] = changes.nulled(column.field, changes.FIELD_SIZE if of_size else changes.TYPECAST)

    def joined(self) -> bytes:
        return self._line(self._cells, self._meta_text().replace(b"\\", b"\\\\"))

    def alone(self, part: int) -> bytes:
        cells = [_NULL] * len(self._cells)
        cells[part] = self._cells[part]
        return self._line(cells, b"{}")

    def _line(self, cells: Sequence[bytes], meta: bytes) -> bytes:
        return b"\t".join((*cells, *self._stamps, meta)) + b"\n"

    def _in_order(self, ours: Sequence[tuple[int, bytes]], earlier: Sequence[bytes]) -> list[bytes]:
        # Earlier changes of the client's own judge come first, in the order of their columns, then the record's.
        parts = {column.field.replace("\0", ""): part for part, column in enumerate(self._columns)}
        ordered: list[tuple[int, bytes]] = list(ours)
        last = -1
        for text in earlier:
            change = changes.read(text)
            part = parts.get(change.field, -1) if change.reason in _JUDGES_REASONS else -1
            last = part if part > last else len(parts)
            ordered.append((last, text))
        # Stable: the record's own keep their order.
        return [text for _, text in sorted(ordered, key=lambda item: item[0])]


def _json_text(cell: bytes) -> bytes:
    # JSON has no control characters, so COPY's text format only doubled the backslashes.
    return cell.replace(b"\\\\", b"\\")
