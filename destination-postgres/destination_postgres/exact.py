"""One record, value by value: what each becomes in its column, what is refused, and data as jsonb takes it.

The slow way (rowcode.py generates the fast one); it decides, and what it says is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw

from airbyte_pg.errors import StreamName, SystemFault
from airbyte_pg.escapes import repair_escapes
from destination_postgres import changes, jsontext, values
from destination_postgres.columns import Column, Kind
from destination_postgres.inbox import Record

# COPY's text format (PostgreSQL documentation, COPY, File Formats).
NULL = "\\N"
# White space that JSON allows between tokens, and COPY takes for the end of a column or line. Strings have none.
JSON_SPACE = bytes.maketrans(b"\t\r", b"  ")

# A record's meta that says nothing, as sources write it.
EMPTY_METAS = tuple(map(Raw, (b"", b'{"changes":[]}', b"null", b"{}", b'{"changes":null}')))


class Judged(NamedTuple):
    """``data`` as jsonb takes it; the final row's user ``cells`` as COPY text; the changes that were made to them by
    us and by the source, as JSON objects."""

    data: bytes
    cells: list[str]
    changes: list[str]
    own_changes: list[str]


class _Meta(msgspec.Struct):
    changes: list[Raw] | None = None


_decode_meta = msgspec.json.Decoder(_Meta).decode


class Judge:
    """Judges the records of one stream."""

    def __init__(
        self, stream: StreamName, columns: Sequence[Column], *, numeric_infinity: bool, judged: bool = True
    ) -> None:
        """``numeric_infinity``: whether the server's numeric knows the infinities (14 and later).

        Without ``judged`` ranges and the calendar are left to the server, which comes to the same.
        """
        self._stream = stream
        # As they are in data without the NUL characters that are removed from it.
        self._fields = [(column.field.replace("\0", ""), column.kind) for column in columns]
        self._unfit = [changes.nulled(column.field, changes.TYPECAST).json().decode() for column in columns]
        self._rounded = [changes.rounded(column.field).json().decode() for column in columns]
        self._too_long = [changes.nulled(column.field, changes.FIELD_SIZE).json().decode() for column in columns]
        self._numeric_infinity = numeric_infinity or not judged
        self._judged = judged

    def judge(self, record: Record) -> Judged:
        """Every value of ``record``. Raises SystemFault if its data or meta is no JSON object in UTF-8."""
        data = bytes(record.data).translate(JSON_SPACE)
        if b"\\" in data:
            data = repair_escapes(data, drop_nul=True)
        try:
            fields = jsontext.members(data)
            own_changes = self._own_changes(record)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # From None: the decoder's text may quote the data.
            raise broken_record(self._stream) from None
        cells: list[str] = []
        our_changes: list[str] = []
        words = zip(self._fields, self._unfit, self._too_long, self._rounded, strict=True)
        for (field, kind), unfit, too_long, rounded in words:
            value = fields.get(field)
            text = "null" if value is None else str(value, "utf-8")
            if value is None or (text == "null" and kind is not Kind.UNKNOWN):
                cells.append(NULL)
                continue
            fitting = self._fitting(kind, text)
            if fitting is None:
                our_changes.append(too_long if kind is Kind.NUMBER and values.is_number(text) else unfit)
            elif kind is Kind.DECIMAL and values.is_rounded(fitting):
                our_changes.append(rounded)
            cells.append(NULL if fitting is None else copy_escaped(fitting))
        return Judged(data, cells, our_changes, own_changes)

    def _fitting(self, kind: Kind, text: str) -> str | None:
        fitting = values.from_json(kind, text, judged=self._judged)
        if kind is Kind.NUMBER and fitting is not None and not self._numeric_infinity and "inf" in fitting.lower():
            return None
        return fitting

    def _own_changes(self, record: Record) -> list[str]:
        if record.meta in EMPTY_METAS:
            return []
        meta = repair_escapes(bytes(record.meta).translate(JSON_SPACE), drop_nul=True)
        return [str(change, "utf-8") for change in _decode_meta(meta).changes or []]


def broken_record(stream: StreamName) -> SystemFault:
    """What ends the sync when a record cannot be read; it shows nothing of it."""
    return SystemFault("A record of the input has data or meta that is no JSON object in UTF-8.", stream=stream)


def copy_escaped(text: str) -> str:
    """``text`` as a value in COPY's text format. str.translate is five to twelve times as slow."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
