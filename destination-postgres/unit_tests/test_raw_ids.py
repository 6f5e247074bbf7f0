"""Raw ids: UUIDs, unique, in the order of their making even when the clock is set back."""

from __future__ import annotations

import time
import uuid

import pytest

from destination_postgres.raw_ids import RawIds


def test_ids_are_uuids_of_version_7_in_rising_order():
    ids = RawIds()
    taken = [one for count in (1, 70_000, 0, 65_535, 2, 3) for one in ids.take(count)]
    assert len(taken) == 135_541
    assert taken == sorted(taken)
    assert len(set(taken)) == len(taken)
    for one in (taken[0], taken[1], taken[-1]):
        parsed = uuid.UUID(one)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, one)


def test_order_outlives_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch):
    ids = RawIds()
    before = ids.take(2)
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    assert before + (after := ids.take(2)) == sorted(before + after)


def test_a_used_up_counter_begins_anew_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("destination_postgres.raw_ids._COUNTER_LIMIT", 10)
    ids = RawIds()
    taken = [one for _ in range(3) for one in ids.take(6)]
    assert taken == sorted(set(taken))


def test_two_processes_do_not_share_ids():
    assert not set(RawIds().take(1000)) & set(RawIds().take(1000))
