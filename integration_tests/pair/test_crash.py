"""Killed in the middle, run again from the last state that came back: nothing lost, nothing stale, nothing over.

Kills at chosen places; the ones at random are in test_workload.
"""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.pair.piping import Passed, differences, sync
from integration_tests.source.reading import catalog_of

ACCOUNTS = "id::text, balance::text, coalesce(note, '-'), at::timestamptz::text"
SIDES = ["source", "destination"]
TRANSFERS = "account::text, nr::text, amount::text"


@pytest.fixture
def bank(source_db):
    source_db.execute(
        "create table accounts (id int primary key, balance numeric not null, note text, at timestamptz not null)"
    )
    source_db.execute(
        "create table transfers (account int, nr int, amount numeric not null, primary key (account, nr))"
    )
    source_db.execute("insert into accounts select i, 100, null, now() from generate_series(1, 3000) i")
    source_db.execute("insert into transfers select i, 0, 100 from generate_series(1, 3000) i")
    return source_db


@pytest.mark.parametrize("side", SIDES)
def test_a_kill_in_the_middle_of_the_first_snapshot(bank, destination_db, side):
    catalog = catalog_of(bank)
    first = sync(bank, destination_db, catalog, kill=(side, 2500))
    assert not first.ok
    assert first.lines >= 2500
    bank.execute("update accounts set note = 'after' where id % 7 = 0")
    bank.execute("delete from transfers where account % 5 = 0")
    second: Passed = sync(bank, destination_db, catalog, first.states[-1] if first.states else None)
    assert second.ok, second.printed[-5:]
    assert differences(bank, destination_db, "accounts", ACCOUNTS) == []
    assert differences(bank, destination_db, "transfers", TRANSFERS) == []


@pytest.mark.parametrize("side", SIDES)
def test_a_kill_between_two_flushes_of_the_changes(bank, destination_db, side):
    """The next sync goes on from a state in the middle: what is behind it comes again, what is before it does not."""
    catalog = catalog_of(bank)
    options: dict[str, Any] = {"sync_checkpoint_records": 200, "destination_options": {"flush_bytes": 20_000}}
    first = sync(bank, destination_db, catalog)
    for account in range(0, 3000, 20):
        bank.execute(f"update accounts set note = 'x' where id between {account} and {account + 19}")
        bank.execute(f"insert into transfers select i, 1, 2.50 from generate_series({account}, {account + 19}) i")
    if side == "source":
        second = sync(bank, destination_db, catalog, first.states[-1], kill=("source", 3000), **options)
    else:
        second = sync(bank, destination_db, catalog, first.states[-1], kill=("answering destination", 1), **options)
    assert not second.ok
    assert second.states
    third = sync(bank, destination_db, catalog, second.states[-1], **options)
    assert third.ok, third.printed[-5:]
    assert sum(state["destinationStats"]["recordCount"] for state in third.states) < 6000
    assert differences(bank, destination_db, "accounts", ACCOUNTS) == []
    assert differences(bank, destination_db, "transfers", TRANSFERS) == []
