"""Killed in the middle, run again from the last state that came back: nothing lost, nothing stale, nothing over."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from integration_tests.pair.piping import Passed, differences, sync
from integration_tests.source.reading import catalog_of, confirmed
from integration_tests.support.databases import Database

ACCOUNTS = "id::text, balance::text, coalesce(note, '-'), at::timestamptz::text"
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
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self._database.connect() as session, session.cursor() as cursor:
                while not self._stop_asked.is_set():
                    self._transaction(cursor)
        except BaseException as error:  # noqa: BLE001 - shown by stop()
            self.failure = error

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


@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_at_random_lines_it_ends_equal(bank, destination_db, seed):
    print(f"seed {seed}")
    draw = random.Random(seed)
    catalog = catalog_of(bank)
    state: dict[str, Any] | None = None
    options: dict[str, Any] = {"sync_checkpoint_records": 300}
    writer = Writer(bank, seed)
    writer.start()
    try:
        for _ in range(5):
            side = draw.choice(["source", "destination"])
            before = confirmed(bank) if state else None
            passed = sync(bank, destination_db, catalog, state, kill=(side, draw.randint(1, 9000)), **options)
            if state is not None:
                # Only ever to the state that the sync was given.
                given = state["global"]["shared_state"]["cdc"]["lsn"]
                assert confirmed(bank) in (before, given)
            state = passed.states[-1] if passed.states else state
    finally:
        writer.stop()
    last = sync(bank, destination_db, catalog, state, **options)
    assert last.ok, last.printed[-5:]
    assert differences(bank, destination_db, "accounts", ACCOUNTS) == []
    assert differences(bank, destination_db, "transfers", TRANSFERS) == []


@pytest.mark.parametrize("side", ["source", "destination"])
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
