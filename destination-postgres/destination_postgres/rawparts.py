"""Rows of a raw table in COPY's binary format, and one of them taken apart: each field of its data is a part."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec
from msgspec import Raw

from destination_postgres import changes, jsontext, rawrow
from destination_postgres.changes import Change
from destination_postgres.columns import RAW_TYPES
from destination_postgres.parts import Parts, Row
from destination_postgres.refusals import Refusal

# A string of jsonb is no longer, nor are all elements of a container together.
_JSONB_LIMIT = 0x0FFFFFFF

_encoded = msgspec.json.encode


class _Form(enum.Enum):
    """How a field is written: as it came; its JSON text in a string; where the database's encoding lacks characters."""

    JSON = enum.auto()
    TEXT = enum.auto()
    TEXT_IN_ASCII = enum.auto()
    NAMED_IN_ASCII = enum.auto()
    ALL_IN_ASCII = enum.auto()


class RawRows:
    """The rows of one stream (parts.Rows)."""

    binary = True
    columns = tuple(RAW_TYPES)

    def file(self, rows: Iterable[Row]) -> Iterable[Row]:
        """What COPY reads for these rows, one or many in a piece."""
        return chain([rawrow.HEADER], rows, [rawrow.TRAILER])

    def ends(self, chunk: bytes) -> Iterator[int]:
        """Where each row ends."""
        return rawrow.ends(chunk)

    def open(self, row: Row) -> RawParts:
        """One row, taken apart."""
        return RawParts(row)


class RawParts(Parts):
    """One row. A field that is refused becomes a string with its JSON text, or null where that is refused as well."""

    def __init__(self, row: Row) -> None:
        self._row = rawrow.split(memoryview(row))
        members = jsontext.members(self._row.data)
        self._names = list(members)
        self._values: list[bytes | Raw] = list(members.values())
        self._forms: dict[int, _Form] = {}
        self._originals: dict[int, tuple[str, bytes | Raw]] = {}
        super().__init__(bytes(self._row.meta))

    def filled(self) -> list[int]:
        return list(range(len(self._names)))

    def size(self, part: int) -> int:
        return len(self._values[part])

    def is_ascii(self, part: int) -> bool:
        value = bytes(self._values[part])
        return self._names[part].isascii() and value.isascii() and b"\\u" not in value

    def is_huge(self, part: int) -> bool:
        return jsontext.has_huge_number(bytes(self._values[part]))

    def weaken(self, part: int, refusal: Refusal) -> bool:
        name, raw = self._originals.setdefault(part, (self._names[part], self._values[part]))
        tried = self._forms.get(part, _Form.JSON)
        form = _weaker(tried, refusal, name)
        if form is None or (form is _Form.TEXT and len(raw) > _JSONB_LIMIT):
            # The name may be refused as well.
            self._names[part] = name if tried in (_Form.JSON, _Form.TEXT) else jsontext.in_ascii(name)
            self.nullify(part, refusal)
            return False
        value = bytes(raw)
        if form in (_Form.TEXT_IN_ASCII, _Form.ALL_IN_ASCII):
            value = jsontext.in_ascii(value.decode()).encode()
        if form is not _Form.NAMED_IN_ASCII:
            value = jsontext.quoted(value)
        if form in (_Form.NAMED_IN_ASCII, _Form.ALL_IN_ASCII):
            name = jsontext.in_ascii(name)
        self._forms[part] = form
        self._put(part, name, value, refusal)
        return True

    def nullify(self, part: int, refusal: Refusal) -> None:
        self._put(part, self._names[part], b"null", refusal)

    def joined(self) -> bytes:
        return self._with(range(len(self._names)), self._meta_text())

    def alone(self, part: int) -> bytes:
        return self._with([part], b"{}")

    def _with(self, parts: Iterable[int], meta: bytes) -> bytes:
        data: list[bytes | Raw] = []
        for part in parts:
            data += (b",", _encoded(self._names[part]), b":", self._values[part])
        return rawrow.joined(self._row, [b"{", *data[1:], b"}"], meta)

    def _put(self, part: int, name: str, value: bytes, refusal: Refusal) -> None:
        self._names[part], self._values[part] = name, value
        done = changes.NULLED if value == b"null" else changes.TRUNCATED
        self._noted[part] = Change(name, done, changes.RECORD_SIZE if refusal.is_limit else changes.SERIALIZATION)


def _weaker(form: _Form, refusal: Refusal, name: str) -> _Form | None:
    """The form to try behind ``form``, which was refused; None if there is none."""
    if form is _Form.NAMED_IN_ASCII:
        return _Form.ALL_IN_ASCII
    if form is _Form.JSON and not refusal.is_encoding:
        return _Form.TEXT
    if form in (_Form.JSON, _Form.TEXT) and refusal.is_encoding:
        return _Form.TEXT_IN_ASCII
    # It was the name.
    return _Form.NAMED_IN_ASCII if form is _Form.TEXT_IN_ASCII and refusal.is_encoding and not name.isascii() else None
