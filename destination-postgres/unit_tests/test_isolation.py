"""Every row arrives once and in its place, whatever the server tells of those that it refuses; and what that costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from destination_postgres.columns import Column, Kind
from destination_postgres.finalparts import FinalRows
from destination_postgres.isolation import Isolation
from destination_postgres.parts import Row
from destination_postgres.refusals import Refusal

ROWS = FinalRows([Column("v", "v", Kind.STRING), Column("w", "w", Kind.STRING)])
META = '{"changes":[],"sync_id":1}'
# From the number of the refused row, counted from 1, and how many rows there are: what the server tells.
Telling = Callable[[int, int], int]


class Server:
    """Refuses rows with the word bad, and keeps the others."""

    rows = ROWS

    def __init__(self, telling: Telling) -> None:
        self._telling = telling
        self.taken: list[str] = []
        self.sent_count = 0

    def refused(self, rows: Iterable[Row], *, only_ask: bool = False) -> Refusal | None:
        given = b"".join(rows).decode().splitlines()
        self.sent_count += len(given)
        bad = next((number for number, row in enumerate(given, 1) if "bad" in row), None)
        if bad is not None:
            return Refusal("22000", self._telling(bad, len(given)), "v" if bad == 1 else "w")
        if not only_ask:
            self.taken += given
        return None

    def failure(self, refusal: Refusal) -> Exception:
        return AssertionError(refusal)


TELLINGS: dict[str, Telling] = {
    "right": lambda bad, count: bad,
    "nothing": lambda bad, count: 0,
    "one too few": lambda bad, count: bad - 1,
    "always the first": lambda bad, count: 1,
    "always the last": lambda bad, count: count,
    "beyond": lambda bad, count: count + 1,
}


def line(number: int, *cells: str) -> str:
    return "\t".join((*cells, f"id{number}", "2023-01-01", "1", META))


def wanted(row: str) -> str:
    nulled = [name for name, cell in zip("vw", row.split("\t"), strict=False) if "bad" in cell]
    changes = ",".join(
        f'{{"field":"{name}","change":"NULLED","reason":"DESTINATION_TYPECAST_ERROR"}}' for name in nulled
    )
    return re.sub("bad", r"\\N", row).replace('"changes":[]', f'"changes":[{changes}]')


def load(rows: list[str], telling: Telling, chunk_size: int = 7) -> Server:
    server = Server(telling)
    chunks = [
        "".join(f"{row}\n" for row in rows[start : start + chunk_size]) for start in range(0, len(rows), chunk_size)
    ]
    given = [chunk.encode() for chunk in chunks]
    refusal = server.refused(given)
    if refusal is not None:
        mended = Isolation(server, given).load(refusal)
        assert set(mended) == {position for position, row in enumerate(rows) if "bad" in row}
    return server


@given(st.lists(st.sampled_from(["good", "bad", "both"])), st.sampled_from(sorted(TELLINGS)), st.integers(1, 9))
def test_every_row_arrives_once_and_in_its_place(kinds: list[str], telling: str, chunk_size: int):
    cells = {"good": ("a", "b"), "bad": ("a", "bad"), "both": ("bad", "bad")}
    rows = [line(number, *cells[kind]) for number, kind in enumerate(kinds)]
    assert load(rows, TELLINGS[telling], chunk_size).taken == [wanted(row) for row in rows]


@pytest.mark.parametrize("telling", ["right", "one too few", "nothing", "always the first"])
@pytest.mark.parametrize("distance", [1, 2, 10, 1_000, 9_999])
def test_the_cost_is_linear(telling: str, distance: int):
    count = 10_000
    rows = [line(number, "a", "b" if number % distance else "bad") for number in range(count)]
    server = load(rows, TELLINGS[telling])
    assert len(server.taken) == count
    # Rows sent: some times all of them, and a few for each that is refused.
    assert server.sent_count <= (5 if telling == "right" else 9) * count
