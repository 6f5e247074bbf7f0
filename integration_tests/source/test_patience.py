"""A consumer that stops reading for a long time: the server must not take the source for dead, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import threading

import pytest

from integration_tests.source.reading import TRANSPORTS, catalog_of, config, last_state, read, slot_of
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE
from integration_tests.support.pgserver import wait_until

# Several times the server's patience; the time itself is what is tested. More of it in long runs: make nightly.
PATIENCE_S = float(os.environ.get("PATIENCE_S", "8"))
SERVER_PATIENCE = "5s"
ROWS = 60_000


@pytest.mark.timeout(180 + 2 * PATIENCE_S)
def test_a_consumer_that_stops_for_long_loses_nothing(source_db):
    source_db.execute(f"alter database {source_db.name} set wal_sender_timeout = '{SERVER_PATIENCE}'")
    source_db.execute("create table t (id int primary key, v text)")
    catalog = catalog_of(source_db)
    # One sync for each way to read, each with a slot of its own, so that they can be left waiting together.
    ways = [
        {"transport": transport, "replication_slot": f"{slot_of(source_db)}_{transport}"} for transport in TRANSPORTS
    ]
    states = [[last_state(read(source_db, catalog, **way))] for way in ways]
    # Far more than all buffers between the server and us hold, in transactions small and large.
    for begin in range(0, ROWS // 2, 1000):
        source_db.execute(f"insert into t select {begin} + i, repeat('x', 1000) from generate_series(1, 1000) i")
    source_db.execute(f"insert into t select i, repeat('x', 1000) from generate_series({ROWS // 2 + 1}, {ROWS}) i")
    with contextlib.ExitStack() as held:
        syncs = [
            held.enter_context(
                connector.start(
                    SOURCE, "read", config=config(source_db, **way), catalog=catalog, state=state, held=True
                )
            )
            for way, state in zip(ways, states, strict=True)
        ]
        reading = "select count(*) from pg_replication_slots where database = %s and temporary and active"
        wait_until(lambda: source_db.value(reading, source_db.name) == len(ways), 20, "both read")
        threading.Event().wait(PATIENCE_S)
        for way, sync in zip(ways, syncs, strict=True):
            assert sync.exit_code is None, way
            outcome = sync.finish(timeout=120)
            assert outcome.exit_code == 0, outcome
            assert [row["id"] for row in outcome.records()] == list(range(1, ROWS + 1)), way
