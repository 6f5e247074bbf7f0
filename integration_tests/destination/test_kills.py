"""Killed at a named point, the process or its backend: nothing acknowledged is lost, nothing is seen by halves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from integration_tests.destination.writing import (
    is_state,
    one,
    own_tables,
    raw_count,
    records,
    state,
    status,
    sync,
    users,
    write,
)
from integration_tests.support import connector
from integration_tests.support.connector import DESTINATION, Outcome, Running
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until
from integration_tests.support.proxy import Point, Proxy

PART = 50
LOAD_POINTS = {
    "before COPY": Point("query", "; copy "),
    "inside COPY": Point("copy data"),
    "after COPY": Point("done", "^COPY"),
    "after COPY of the raw rows": Point("query", "^commit"),
    "before COMMIT": Point("query", "^commit"),
    "on the way to COMMIT": Point("query", "^commit", delivered=True),
    "after COMMIT": Point("done", "^COMMIT"),
    "before the acknowledgement": Point("done", "^COMMIT", delivered=True),
}
# The swap's own transaction.
BEGUN = [Point("query", "txid_current_snapshot")]
SWAP_POINTS = {
    "it has begun": Point("done", "^SELECT"),
    "the rows are deleted": Point("done", "^DELETE"),
    "the rows are inserted": Point("done", "^INSERT"),
    "before COMMIT": Point("query", "^commit"),
    "after COMMIT": Point("done", "^COMMIT"),
}
RENAME_POINTS = {
    "it has begun": Point("done", "^SELECT"),
    "the table is locked": Point("done", "^LOCK"),
    "the old one is dropped": Point("done", "^DROP"),
    "the new one is in the schema": Point("query", "rename to"),
    "the new one has its name": Point("query", "replica identity default"),
    "the ledger is to be written": Point("query", "^insert into .*ledger"),
    "before COMMIT": Point("query", "^commit"),
    "after COMMIT": Point("done", "^COMMIT"),
}
VICTIMS = ["process", "backend"]


def part(number: int) -> list[dict[str, Any]]:
    return [{"id": number * PART + row, "name": f"part {number}"} for row in range(PART)]


def start(db: Database, proxy: Proxy, catalog: Any) -> Running:
    config = db.config(schema="public", flush_rows=1, host=proxy.host, port=proxy.port)
    return connector.start(DESTINATION, "write", config=config, catalog=catalog)


def killer(db: Database, victim: str, running: Running) -> Callable[[int], object]:
    if victim == "process":
        return lambda _: os.kill(running.pid, signal.SIGKILL)
    return lambda pid: db.execute("select pg_terminate_backend(%s)", pid)


def ended(db: Database, running: Running, victim: str) -> Outcome:
    """How it ended, when the server has noticed, too."""
    outcome = running.finish()
    if victim == "process":
        assert outcome.exit_code == -signal.SIGKILL
    else:
        assert outcome.exit_code == 1
        assert outcome.error is not None
        assert outcome.error["failure_type"] == "transient_error"
    count = "select count(*) from pg_stat_activity where application_name = 'destination-postgres'"
    wait_until(lambda: db.value(count) == 0, 30, "the server has noticed")
    return outcome


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("destination", ["append", "append_dedup"])
@pytest.mark.parametrize("point", LOAD_POINTS.values(), ids=LOAD_POINTS.keys())
def test_killed_while_it_loads(destination_db, point, destination, victim):
    catalog = one(destination=destination)
    server = destination_db.server
    with Proxy(server.host, server.port) as proxy, start(destination_db, proxy, catalog) as running:
        running.write(records(part(0)) + state(0))
        running.wait_for(is_state)
        proxy.arm(point, action=killer(destination_db, victim, running))
        running.write(records(part(1)) + state(1))
        assert proxy.reached.wait(30)
        outcome = ended(destination_db, running, victim)
    acknowledged = len(outcome.states)
    seen = destination_db.value("select count(*) from public.users")
    # Whole flushes, in both tables; all that was acknowledged, and at most what had been committed.
    assert seen in {PART * acknowledged, PART * 2}
    assert raw_count(destination_db) == seen
    is_committed = point.what == "done" and point.pattern == "^COMMIT"
    assert not is_committed or seen == PART * 2
    rest = b"".join(records(part(number)) + state(number) for number in range(acknowledged, 3))
    sync(destination_db, catalog, rest)
    wanted = [(row["id"], row["name"]) for number in range(3) for row in part(number)]
    assert sorted(set(users(destination_db))) == wanted
    if destination == "append_dedup" or seen == PART * acknowledged:
        assert users(destination_db) == wanted
    assert own_tables(destination_db) == set()


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("destination", ["append", "append_dedup"])
@pytest.mark.parametrize(
    ("way", "point"),
    [
        *(pytest.param("exchanged", point, id=f"exchanged: {name}") for name, point in SWAP_POINTS.items()),
        *(pytest.param("renamed in", point, id=f"renamed in: {name}") for name, point in RENAME_POINTS.items()),
    ],
)
def test_killed_in_the_swap(destination_db, way, point, destination, victim):
    sync(destination_db, one(destination=destination, generation=1), records(part(0)))
    if way == "exchanged":
        for table in ("public.users", "airbyte_internal.public_raw__stream_users"):
            destination_db.execute(f"comment on table {table} is 'mine'")
    refresh = one(destination=destination, generation=2, minimum=2)
    server = destination_db.server
    with Proxy(server.host, server.port) as proxy, start(destination_db, proxy, refresh) as running:
        running.write(records(part(1)) + state(1))
        running.wait_for(is_state)
        proxy.arm(*BEGUN, point, action=killer(destination_db, victim, running))
        running.write(status())
        running.close_stdin()
        assert proxy.reached.wait(30)
        ended(destination_db, running, victim)
    old, new = ([(row["id"], row["name"]) for row in part(number)] for number in (0, 1))
    assert users(destination_db) == (new if point.pattern == "^COMMIT" else old)
    assert raw_count(destination_db) == PART
    outcome = write(destination_db, refresh, status())
    assert outcome.exit_code == 0, outcome
    assert users(destination_db) == new
    assert raw_count(destination_db) == PART
    assert own_tables(destination_db) == set()
