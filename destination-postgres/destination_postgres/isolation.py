"""Rows of which the server refuses some: find those, put what is refused in a weaker form, add all others as they are.

1. A COPY that is refused is cut in front of the row that the server tells of, or halved; one that passes is followed
   by one of twice as many rows. So rows are sent a few times at most, however many are refused.
2. A row that is refused by itself is taken apart (parts.py): the server is asked about one part at a time.

JSON numbers that jsonb cannot hold need no asking: all of them are replaced when the first was refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from destination_postgres import jsontext
from destination_postgres.parts import Parts, Row, Rows
from destination_postgres.refusals import HUGE_NUMBER, Refusal


class Copy(Protocol):
    """One COPY after the other into one table."""

    @property
    def rows(self) -> Rows:
        """What they are made of."""

    def refused(self, rows: Iterable[Row], *, only_ask: bool = False) -> Refusal | None:
        """Add rows; why none of them was added, or None. With ``only_ask`` they never are, and no rule counts."""

    def failure(self, refusal: Refusal) -> Exception:
        """What to raise for a row that is refused whatever is left out of it."""


class Isolation:
    """Adds rows of which some are refused."""

    def __init__(self, copy: Copy, chunks: Iterable[bytes]) -> None:
        self._copy = copy
        self._rows: list[Row] = [row for chunk in chunks for row in _split(copy.rows, chunk)]
        self._mended: dict[int, bytes] = {}

    def load(self, refusal: Refusal | None) -> Mapping[int, bytes]:
        """Add all rows; ``refusal`` is that of all of them at once. Returns those that were changed, by position."""
        position, count, behind_mended = 0, len(self._rows), 0
        # Whether the next COPY is of the rows in front of the one that the server told of.
        is_cut = has_no_huge_numbers = False
        while True:
            if refusal is None:
                position += count
                count, is_cut = (1 if is_cut else 2 * count), False
            elif count == 1:
                self._add_mended(position, refusal)
                position += 1
                count, behind_mended = max(2 * (position - 1 - behind_mended), 1), position
            elif refusal.is_number and not has_no_huge_numbers:
                self._replace_huge_numbers(position)
                has_no_huge_numbers = True
            elif not is_cut and 0 < refusal.line <= count:
                count, is_cut = max(refusal.line - 1, 1), refusal.line > 1
            else:
                # The server told nothing, or what it told was wrong.
                count, is_cut = count // 2, False
            if position >= len(self._rows):
                return self._mended
            count = min(count, len(self._rows) - position)
            refusal = self._copy.refused(self._rows[position : position + count])

    def _replace_huge_numbers(self, start: int) -> None:
        for position in range(start, len(self._rows)):
            if not jsontext.may_have_huge_number(self._rows[position]):
                continue
            parts = self._copy.rows.open(self._rows[position])
            huge = [part for part in parts.filled() if parts.is_huge(part)]
            for part in huge:
                parts.weaken(part, HUGE_NUMBER)
            if huge:
                self._rows[position] = self._mended[position] = parts.joined()

    def _add_mended(self, position: int, refusal: Refusal) -> None:
        parts = self._copy.rows.open(self._rows[position])
        left = self._add_weakened(parts, refusal)
        if left is not None and left.may_be_of_meta:
            # What came with the record, or a field's name.
            parts.spell_meta_plainly()
            left = self._copy.refused([parts.joined()])
        if left is not None and left.is_limit:
            left = self._add_without_largest(parts.joined(), left)
        if left is not None:
            raise self._copy.failure(left)
        self._mended[position] = parts.joined()

    def _add_weakened(self, parts: Parts, refusal: Refusal) -> Refusal | None:
        """Add the row without what the server refuses of it part by part; why it is refused still, or None."""
        asked: set[int] = set()
        left: Refusal | None = refusal
        while left is not None:
            part = next((part for part in parts.suspects(left) if part not in asked), None)
            if part is None:
                return left
            asked.add(part)
            found = self._copy.refused([parts.alone(part)], only_ask=True)
            if found is None:
                continue
            while found is not None and parts.weaken(part, found):
                found = self._copy.refused([parts.alone(part)], only_ask=True)
            left = self._copy.refused([parts.joined()])
        return None

    def _add_without_largest(self, row: bytes, refusal: Refusal) -> Refusal | None:
        """Add a row whose parts are too large together, with as few of the largest left out as the server allows."""

        def lightened(count: int) -> list[Row]:
            parts = self._copy.rows.open(row)
            for part in sorted(parts.filled(), key=lambda part: -parts.size(part))[:count]:
                parts.nullify(part, refusal)
            return [parts.joined()]

        fewest, most = 1, len(self._copy.rows.open(row).filled())
        while fewest < most:
            middle = (fewest + most) // 2
            if self._copy.refused(lightened(middle), only_ask=True) is None:
                most = middle
            else:
                fewest = middle + 1
        return self._copy.refused(lightened(fewest))


def _split(rows: Rows, chunk: bytes) -> Iterator[memoryview]:
    # A view: the chunk may be one row that is as large as memory allows.
    whole, start = memoryview(chunk), 0
    for end in rows.ends(chunk):
        yield whole[start:end]
        start = end
