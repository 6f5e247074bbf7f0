"""A row taken apart: what the server refuses of it is put in a weaker form, and the row's ``_airbyte_meta`` says so.

A row's parts are what may be refused by itself: the user's cells of a final row (finalparts.py), the fields of a raw
row's data (rawparts.py).
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeAlias

import msgspec
from msgspec import Raw

from destination_postgres import changes, jsontext
from destination_postgres.changes import Change
from destination_postgres.naming import META
from destination_postgres.refusals import Refusal

# A row, or several, as COPY takes them. A view where it is part of a chunk that may be as large as memory allows.
Row: TypeAlias = "bytes | memoryview"


class _Meta(msgspec.Struct):
    changes: list[Raw]
    sync_id: Raw


_decode_meta = msgspec.json.Decoder(_Meta).decode


class Parts(abc.ABC):
    """One row, its parts counted from 0."""

    def __init__(self, meta: bytes) -> None:
        """``meta``: the row's, as JSON."""
        self._meta = _decode_meta(meta)
        self._noted: dict[int, Change] = {}

    @abc.abstractmethod
    def filled(self) -> list[int]:
        """The parts that the server may refuse."""

    @abc.abstractmethod
    def size(self, part: int) -> int:
        """The length of a part, in bytes."""

    @abc.abstractmethod
    def is_ascii(self, part: int) -> bool:
        r"""Whether a part has neither a character beyond ASCII nor a ``\u`` escape of one."""

    @abc.abstractmethod
    def is_huge(self, part: int) -> bool:
        """Whether a part has a number in its JSON that jsonb is known to refuse."""

    @abc.abstractmethod
    def weaken(self, part: int, refusal: Refusal) -> bool:
        """Put the next weaker form in the place of a part, and note the change; False when that is NULL, the last."""

    @abc.abstractmethod
    def nullify(self, part: int, refusal: Refusal) -> None:
        """Put NULL in the place of a part, and note the change."""

    @abc.abstractmethod
    def joined(self) -> bytes:
        """The row as it is now."""

    @abc.abstractmethod
    def alone(self, part: int) -> bytes:
        """The row with that part and nothing else that might be refused."""

    def column(self, part: int) -> str | None:
        """The column that a part is all of."""
        return None

    def suspects(self, refusal: Refusal) -> list[int]:
        """The parts that may be what was refused, the likeliest first."""
        parts = [] if refusal.is_of_row or refusal.column == META else self.filled()
        if refusal.is_encoding:
            parts = [part for part in parts if not self.is_ascii(part)]
        return sorted(parts, key=lambda part: (self.column(part) != refusal.column, -self.size(part)))

    def spell_meta_plainly(self) -> None:
        """Reduce the changes to the protocol's members, in ASCII: what came with the record may be refused, too."""
        plain = [Raw(_in_ascii(changes.read(change)).json()) for change in self._meta.changes]
        self._meta = _Meta(plain, self._meta.sync_id)
        self._noted = {part: _in_ascii(change) for part, change in self._noted.items()}

    def _meta_text(self) -> bytes:
        ours = [(part, change.json()) for part, change in sorted(self._noted.items())]
        ordered = self._in_order(ours, [bytes(change) for change in self._meta.changes])
        return b'{"changes":[' + b",".join(ordered) + b'],"sync_id":' + bytes(self._meta.sync_id) + b"}"

    def _in_order(self, ours: Sequence[tuple[int, bytes]], earlier: Sequence[bytes]) -> list[bytes]:
        return [*(change for _, change in ours), *earlier]


class Rows(Protocol):
    """What kind of rows a COPY is made of."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns, as COPY lists them."""

    @property
    def binary(self) -> bool:
        """Whether it is COPY's binary format."""

    def file(self, rows: Iterable[Row]) -> Iterable[Row]:
        """What COPY reads for these rows, one or many in a piece."""

    def ends(self, chunk: bytes) -> Iterator[int]:
        """Where each row of ``chunk`` ends."""

    def open(self, row: Row) -> Parts:
        """One row, taken apart. It may be a fifth of the memory that there is: no copy is made but of parts."""


def _in_ascii(change: Change) -> Change:
    return Change(*(jsontext.in_ascii(text) for text in (change.field, change.change, change.reason)))
