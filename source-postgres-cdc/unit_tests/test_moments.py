"""When a position was all there was: the latest moment that is surely not too late."""

from __future__ import annotations

from typing import Any

import pytest

from source_postgres_cdc import moments, server
from source_postgres_cdc.moments import Moments


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Look at a server whose WAL ends at a position, at a moment."""
    seen = Moments()

    def look(moment: str, end: int) -> Moments:
        monkeypatch.setattr(server, "rows", lambda *_: [(moment, f"0/{end:X}")])
        seen.look(None)  # type: ignore[arg-type]
        return seen

    return look


def test_latest_moment_before_which_nothing_lies_behind_the_position(looked):
    for moment, end in (("a", 100), ("b", 200), ("c", 200)):
        looked(moment, end)
    seen = looked("d", 300)
    assert [seen.of(position) for position in (99, 100, 199, 200, 299)] == [None, "a", "a", "c", "c"]
    assert seen.of(10_000) == "d"


def test_idle_server_is_not_late(looked):
    assert looked("a", 100).of(100) == "a"
    assert looked("b", 100).of(100) == "b"


def test_far_behind_it_forgets_every_second_moment_and_never_says_a_later_one(looked, monkeypatch):
    monkeypatch.setattr(moments, "_MOST", 100)
    for number in range(150):
        looked(str(number), 1000 + number)
    seen = looked("150", 1150)
    assert len(seen._seen) <= 100
    assert [seen.of(1000 + number) for number in (0, 11, 121)] == ["0", "8", "120"]
