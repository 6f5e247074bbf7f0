"""What else is on the server: a second sync of the same slot, writers to tables and databases that nobody selected."""

from __future__ import annotations

import contextlib
import os

import pytest

from integration_tests.source.reading import (
    TRANSPORTS,
    catalog_of,
    config,
    confirmed,
    failure,
    last_state,
    position,
    read,
    slot_of,
)
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

# More than the pipe and the buffers hold: a sync whose output nobody reads stands still in the middle.
ROWS = 20_000
WAITING = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
HOLDING = "select count(*) from pg_locks where locktype = 'advisory' and granted"


@pytest.fixture
def behind(source_db):
    """A table with changes that no sync has read yet, the catalog and the state to read them from."""
    source_db.execute("create table t (id int primary key, v text)")
    catalog = catalog_of(source_db)
    first = read(source_db, catalog)
    source_db.execute(f"insert into t select i, repeat('x', 1000) from generate_series(1, {ROWS}) i")
    return source_db, catalog, first


def wait_for(database: Database, query: str, what: str) -> None:
    wait_until(lambda: database.value(query) == 1, 20, what)


@pytest.mark.parametrize("is_killed", [False, True], ids=["the first ends", "the first is killed"])
def test_the_second_of_two_syncs_waits_and_both_are_right(behind, is_killed):
    database, catalog, first = behind
    given = {"config": config(database), "catalog": catalog, "state": [last_state(first)]}
    with contextlib.ExitStack() as running:
        one = running.enter_context(connector.start(SOURCE, "read", **given, held=True))
        wait_for(database, HOLDING, "the first sync holds the slot")
        two = running.enter_context(connector.start(SOURCE, "read", **given))
        wait_for(database, WAITING, "the second waits for it")
        assert two.exit_code is None
        if is_killed:
            one.kill()
        outcomes = [one.finish(), two.finish()]
    assert outcomes[1].exit_code == 0, outcomes[1]
    for outcome in outcomes[is_killed:]:
        assert [row["id"] for row in outcome.records()] == list(range(1, ROWS + 1)), outcome
    assert confirmed(database) == position(first)
    # Whichever state was kept, the next sync goes on from it.
    database.execute("insert into t values (-1, 'next')")
    for outcome in outcomes[is_killed:]:
        assert [row["id"] for row in read(database, catalog, outcome).records()] == [-1]


@pytest.mark.skipif("PATIENCE_S" not in os.environ, reason="it takes the 90 s that a sync waits for another: nightly")
def test_the_second_of_two_syncs_names_the_first_when_that_takes_too_long(behind):
    database, catalog, first = behind
    given = {"config": config(database), "catalog": catalog, "state": [last_state(first)]}
    with connector.start(SOURCE, "read", **given, held=True) as one:
        wait_for(database, HOLDING, "the first sync holds the slot")
        holder = database.value("select pid from pg_locks where locktype = 'advisory' and granted")
        error = failure(connector.run(SOURCE, "read", **given, timeout=120))
        assert error["failure_type"] == "transient_error"
        assert f"pid {holder}" in error["message"]
        assert one.finish().exit_code == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_wal_of_others_is_released_without_a_heartbeat(source_db, transport):
    """Written to an unpublished table and to another database; the published one is idle."""
    source_db.execute("create table t (id int primary key)")
    catalog = catalog_of(source_db)
    outcome = read(source_db, catalog, transport=transport)
    with Database(source_db.server) as other:
        for database in (source_db, other):
            database.execute("create table busy as select repeat('x', 2000) from generate_series(1, 20000)")
    # Each writes down what is running, as the server does every 15 s by itself; decoding may begin at the last but one.
    for _ in range(2):
        source_db.execute("checkpoint")
    assert held_back(source_db) > 80_000_000
    # The first knows the position, the second gives it to the anchor; before 15 what it keeps follows at the next one.
    for _ in range(2 if source_db.server.major > 14 else 3):
        outcome = read(source_db, catalog, outcome, transport=transport)
        assert outcome.exit_code == 0, outcome
        assert outcome.records() == []
    assert held_back(source_db) < 1_000_000


def held_back(database: Database) -> int:
    """Bytes of WAL that the anchor keeps from being removed."""
    found: int = database.value(
        "select (pg_current_wal_flush_lsn() - restart_lsn)::bigint from pg_replication_slots where slot_name = %s",
        slot_of(database),
    )
    return found
