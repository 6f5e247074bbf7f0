"""Killed in the middle, run again from the last state that came back: nothing lost, nothing stale, nothing over."""

from __future__ import annotations

import os
import random
import threading
from typing import Any

import pytest

from integration_tests.pair.piping import Passed, differences, sync
from integration_tests.source.reading import catalog_of, confirmed
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

ACCOUNTS = "id::text, balance::text, coalesce(note, '-'), at::timestamptz::text"
# More of them in long runs: make test CRASH_SEEDS=200 ARGS="-k random_lines"
SEEDS = int(os.environ.get("CRASH_SEEDS", "5"))
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


class Writer(threading.Thread):
    """Commits transactions over both tables until told to stop: transfers, new accounts, closed ones, roll-backs."""

    def __init__(self, database: Database, seed: int) -> None:
        super().__init__()
        self._database = database
        self._random = random.Random(seed)
        self._stop_asked = threading.Event()
        self._over = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self._database.connect() as session, session.cursor() as cursor:
                while not self._stop_asked.is_set():
                    self._transaction(cursor)
                    self._over += 1
        except BaseException as error:  # noqa: BLE001 - shown by stop()
            self.failure = error

    def wait_for_transactions(self, count: int) -> None:
        """Until ``count`` more transactions are over: something for the next sync to read."""
        goal = self._over + count
        wait_until(lambda: self._over >= goal or not self.is_alive(), 60, "the writer goes on")

    def stop(self) -> None:
        """Wait until the last transaction is over."""
        self._stop_asked.set()
        self.join(60)
        assert self.failure is None, self.failure

    def _transaction(self, cursor: Any) -> None:
        draw = self._random
        cursor.execute("begin")
        for _ in range(draw.randint(1, 20)):
            account, amount = draw.randint(1, 4000), draw.randint(-9999, 9999) / 100
            kind = draw.random()
            if kind < 0.6:
                cursor.execute(
                    "update accounts set balance = balance + %s, note = %s where id = %s",
                    (amount, draw.choice([None, "x", 'a "quoted" \\ note\n']), account),
                )
                cursor.execute(
                    "insert into transfers select %s, coalesce(max(nr), 0) + 1, %s from transfers where account = %s",
                    (account, amount, account),
                )
            elif kind < 0.8:
                cursor.execute(
                    "insert into accounts values (%s, %s, 'new', now()) on conflict (id) do nothing", (account, amount)
                )
            elif kind < 0.9:
                cursor.execute("delete from transfers where account = %s", (account,))
                cursor.execute("delete from accounts where id = %s", (account,))
            else:
                cursor.execute(
                    "update accounts a set id = id + 10000 where id = %s"
                    " and not exists (select from accounts b where b.id = a.id + 10000)",
                    (account,),
                )
        cursor.execute("rollback" if draw.random() < 0.1 else "commit")


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_killed_at_random_lines_it_ends_equal(bank, destination_db, seed):
    print(f"seed {seed}")
    draw = random.Random(seed)
    catalog = catalog_of(bank)
    # Many small checkpoints and flushes, so that states come back all the time and a kill falls between any two steps.
    options: dict[str, Any] = {"sync_checkpoint_records": 200, "destination_options": {"flush_bytes": 20_000}}
    state: dict[str, Any] | None = None
    writer = Writer(bank, seed)
    writer.start()
    try:
        # Twice in the first snapshot, once not at all, then in the changes.
        kills: list[tuple[str, int] | None] = [(draw.choice(SIDES), draw.randint(1, last)) for last in (3000, 6000)]
        kills.append(None)
        kills += [(draw.choice(SIDES), draw.randint(1, 3000)), ("source", draw.randint(500, 1500))]
        kills += [("answering destination", draw.randint(1, 6)) for _ in range(2)]
        came_back = 0
        for kill in kills:
            writer.wait_for_transactions(200)
            before = confirmed(bank) if state else None
            passed = sync(bank, destination_db, catalog, state, kill=kill, **options)
            assert kill or passed.ok, passed.printed[-5:]
            if state is not None:
                # Only ever to the state that the sync was given.
                given = state["global"]["shared_state"]["cdc"]["lsn"]
                assert confirmed(bank) in (before, given)
            came_back += bool(passed.states) and state is not None and not passed.ok
            state = passed.states[-1] if passed.states else state
    finally:
        writer.stop()
    last = sync(bank, destination_db, catalog, state, **options)
    assert last.ok, last.printed[-5:]
    print(f"states came back {came_back} times from syncs that were killed in the changes")
    assert differences(bank, destination_db, "accounts", ACCOUNTS) == []
    assert differences(bank, destination_db, "transfers", TRANSFERS) == []


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
