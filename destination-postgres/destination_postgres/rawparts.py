"""Rows of a raw table in COPY's binary format, and one of them taken apart: each field of its data is a part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec
from msgspec import Raw

from destination_postgres import changes, jsontext, rawrow
from destination_postgres.changes import Change
from destination_postgres.columns import RAW_TYPES
from destination_postgres.parts import Parts
from destination_postgres.refusals import Refusal

# A string of jsonb is no longer, nor are all elements of a container together.
_JSONB_LIMIT = 0x0FFFFFFF

_encoded = msgspec.json.encode


class RawRows:
    """The rows of one stream (parts.Rows)."""

    binary = True
    columns = tuple(RAW_TYPES)

    def file(self, chunks: Iterable[bytes]) -> Iterable[bytes]:
        """What COPY reads for these rows."""
        return chain([rawrow.HEADER], chunks, [rawrow.TRAILER])

    def ends(self, chunk: bytes) -> Iterator[int]:
        """Where each row ends."""
        return rawrow.ends(chunk)

    def open(self, row: bytes) -> RawParts:
        """One row, taken apart."""
        return RawParts(row)


class RawParts(Parts):
    """One row. A field that is refused becomes a string with its JSON text, or null where that is refused as well."""

    def __init__(self, row: bytes) -> None:
        self._row = rawrow.split(row)
        members = jsontext.members(self._row.data)
        self._names = list(members)
        self._values: list[bytes | Raw] = list(members.values())
        self._forms: dict[int, Iterator[tuple[str, bytes]]] = {}
        super().__init__(self._row.meta)

    def filled(self) -> list[int]:
        return list(range(len(self._names)))

    def text(self, part: int) -> bytes:
        return _encoded(self._names[part]) + bytes(self._values[part])

    def is_huge(self, part: int) -> bool:
        return jsontext.has_huge_number(bytes(self._values[part]))

    def weaken(self, part: int, refusal: Refusal) -> bool:
        forms = self._forms.setdefault(part, _weaker(self._names[part], bytes(self._values[part])))
        form = next(forms, None)
        if form is None:
            self._names[part] = jsontext.in_ascii(self._names[part])
            self.nullify(part, refusal)
            return False
        self._put(part, *form, refusal)
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


def _weaker(name: str, value: bytes) -> Iterator[tuple[str, bytes]]:
    """What to try in the place of a field that was refused: name and value; before its value is given up, its name."""
    plain_name, plain_value = jsontext.in_ascii(name), value
    if not value.isascii():
        plain_value = jsontext.in_ascii(value.decode()).encode()
    texts = [jsontext.quoted(text) for text in dict.fromkeys((value, plain_value)) if len(text) <= _JSONB_LIMIT]
    yield from ((name, text) for text in texts)
    if plain_name != name:
        yield name, b"null"
        yield from ((plain_name, form) for form in (value, *texts))
