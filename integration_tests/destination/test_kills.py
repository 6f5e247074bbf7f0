"""Process, backend or server killed at a named point: nothing acknowledged is lost, nothing is seen by halves."""

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
    record,
    records,
    state,
    status,
    sync,
    users,
    write,
)
from integration_tests.support import connector
from integration_tests.support.catalogs import stream
from integration_tests.support.connector import DESTINATION, Outcome, Running
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, wait_until
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
# A small batch is merged by one statement.
MERGE_POINTS = {
    "before the merge": Point("query", "savepoint direct"),
    "on the way to the merge": Point("query", "savepoint direct", delivered=True),
    "the rows are merged": Point("done", "^INSERT"),
    "after the merge": Point("done", "^RELEASE"),
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
# Columns are added, filled from the raw rows, and take the places of old ones.
FILLED = Point("copy data")
REFILL_POINTS = {
    "a column is added": [Point("done", "^ALTER")],
    "before that is committed": [Point("done", "^ALTER"), Point("query", "^commit")],
    "after that is committed": [Point("done", "^ALTER"), Point("done", "^COMMIT")],
    "the index is made": [Point("done", "^CREATE INDEX")],
    "inside COPY": [FILLED],
    "rows are filled": [FILLED, Point("done", "^UPDATE")],
    "before COMMIT of the rows": [FILLED, Point("query", "^commit")],
    "after COMMIT of the rows": [FILLED, Point("done", "^COMMIT")],
    "the old column is dropped": [FILLED, Point("done", "^ALTER")],
    "the new one has its name": [FILLED, Point("query", " rename "), Point("done", "^ALTER")],
    "before the last COMMIT": [FILLED, Point("query", " rename "), Point("query", "^commit")],
    "after the last COMMIT": [FILLED, Point("query", " rename "), Point("done", "^COMMIT")],
}
MODES = ["append", "append_dedup"]
VICTIMS = ["process", "backend"]
# A server takes its time to come back: in one mode only.
KILLS = [*((victim, mode) for victim in VICTIMS for mode in MODES), ("server", "append_dedup")]
REFILL_KILLS = [("process", "append"), ("backend", "append_dedup"), ("server", "append_dedup")]


def part(number: int) -> list[dict[str, Any]]:
    return [{"id": number * PART + row, "name": f"part {number}"} for row in range(PART)]


def start(db: Database, proxy: Proxy, catalog: Any) -> Running:
    config = db.config(schema="public", flush_rows=1, host=proxy.host, port=proxy.port)
    return connector.start(DESTINATION, "write", config=config, catalog=catalog)


def killer(db: Database, victim: str, running: Running) -> Callable[[int], object]:
    if victim == "process":
        return lambda _: os.kill(running.pid, signal.SIGKILL)
    if victim == "server":
        server = db.server
        if not isinstance(server, Cluster):
            pytest.skip("a server that cannot be killed")
        return lambda _: server.kill()
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
    if isinstance(db.server, Cluster):
        db.server.start()
    count = "select count(*) from pg_stat_activity where application_name = 'destination-postgres'"
    wait_until(lambda: db.value(count) == 0, 30, "the server has noticed")
    return outcome


@pytest.mark.parametrize("victim", [*VICTIMS, "server"])
@pytest.mark.parametrize("point", MERGE_POINTS.values(), ids=MERGE_POINTS.keys())
def test_killed_while_it_merges(destination_db, point, victim):
    _kill_while_it_loads(destination_db, point, "append_dedup", victim)


@pytest.mark.parametrize(("victim", "destination"), KILLS)
@pytest.mark.parametrize("point", LOAD_POINTS.values(), ids=LOAD_POINTS.keys())
def test_killed_while_it_loads(destination_db, point, destination, victim):
    _kill_while_it_loads(destination_db, point, destination, victim)


def _kill_while_it_loads(destination_db: Database, point: Point, destination: str, victim: str) -> None:
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


@pytest.mark.parametrize(("victim", "destination"), KILLS)
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


@pytest.mark.parametrize(("victim", "destination"), REFILL_KILLS)
@pytest.mark.parametrize("points", REFILL_POINTS.values(), ids=REFILL_POINTS.keys())
def test_killed_while_columns_are_filled(destination_db, points, destination, victim):
    before, now = (
        one(stream("users", {"id": "integer", **columns}, key=["id"]), destination)
        for columns in ({"name": "string"}, {"name": "integer", "more": "integer"})
    )
    rows = [{"id": number, "name": str(number), "more": number} for number in range(PART)]
    sync(destination_db, before, records(rows))
    server = destination_db.server
    with Proxy(server.host, server.port) as proxy:
        proxy.arm(*points, action=lambda pid: killer(destination_db, victim, running)(pid))
        with start(destination_db, proxy, now) as running:
            assert proxy.reached.wait(30)
            ended(destination_db, running, victim)
    # The old column or the new one, whole.
    seen = destination_db.rows("select id, name::text from public.users order by 1")
    assert seen == [(number, str(number)) for number in range(PART)]
    sync(destination_db, now, record({"id": PART, "name": PART, "more": PART}) + state(1))
    assert users(destination_db, "id, name, more") == [(number,) * 3 for number in range(PART + 1)]
    assert raw_count(destination_db) == PART + 1
    left = (
        "select attname from pg_attribute where attrelid = 'public.users'::regclass and attname ~ '_airbyte_pg_'"
        " union all select indexname from pg_indexes where indexname ~ 'refill'"
    )
    assert destination_db.rows(left) == []
    assert own_tables(destination_db) == set()
