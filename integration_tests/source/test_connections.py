"""Several connections: processes that read under one snapshot, and end with the sync, however that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from integration_tests.source.reading import catalog_of, config, failure, read
from integration_tests.source.test_parts import needs_parts
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE, Running
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

ROWS = 5000
GATE = 4711
pytestmark = pytest.mark.skipif(len(psutil.Process().cpu_affinity()) < 2, reason="one processor, one connection")


@pytest.fixture
def tables(source_db):
    for name in ("a", "b", "c"):
        source_db.execute(f"create table {name} (id int primary key, v text)")
        source_db.execute(f"insert into {name} select i, rpad(i::text, 70, '.') from generate_series(1, {ROWS}) i")
    return source_db


@pytest.fixture
def gated(source_db):
    """Two views whose rows come only when the gate is open."""
    for name in ("v", "w"):
        source_db.execute(
            f"create view {name} as select i id, coalesce(pg_advisory_xact_lock_shared({GATE})::text, '') gate"
            " from generate_series(1, 10) i"
        )
    return source_db


@contextmanager
def reading_at_the_gate(database: Database) -> Iterator[tuple[Running, Any]]:
    """A sync whose two workers wait at the gate, and the cursor that holds it."""
    catalog = catalog_of(database, "full_refresh")
    with database.connect() as session, session.cursor() as holder:
        holder.execute("begin; select pg_advisory_xact_lock(%s)", (GATE,))
        with connector.start(SOURCE, "read", config=config(database, max_db_connections=2), catalog=catalog) as sync:
            waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted and objid = %s"
            wait_until(lambda: database.value(waiting, GATE) == 2, 20, "two workers wait at the gate")
            yield sync, holder


def workers_of(sync: Running) -> list[psutil.Process]:
    return psutil.Process(sync.pid).children()


def test_two_connections_give_every_row_once(tables):
    catalog = catalog_of(tables)
    outcome = read(tables, catalog, max_db_connections=2, snapshot_part_pages=7)
    assert outcome.exit_code == 0, outcome
    for name in ("a", "b", "c"):
        assert sorted(row["id"] for row in outcome.records(name)) == list(range(1, ROWS + 1))
    assert sum(state["sourceStats"]["recordCount"] for state in outcome.states) == 3 * ROWS
    assert outcome.not_json == []
    assert outcome.stderr == ""
    # The same bytes as by one connection, but for when.
    alone = read(tables, catalog_of(tables, "full_refresh"), create_if_missing=False)
    options = {"max_db_connections": 2, "snapshot_part_pages": 7}
    together = read(tables, catalog_of(tables, "full_refresh"), create_if_missing=False, **options)
    assert sorted(map(data_of, alone.lines)) == sorted(map(data_of, together.lines))


def test_a_state_tells_only_of_pages_that_have_been_read(tables):
    needs_parts(tables)
    outcome = read(tables, catalog_of(tables, only=["a"]), max_db_connections=2, snapshot_part_pages=3)
    assert outcome.exit_code == 0, outcome
    page_of = dict(tables.rows("select id, split_part(trim('(' from ctid::text), ',', 1)::int from a"))
    left = [0] * (max(page_of.values()) + 1)
    for page in page_of.values():
        left[page] += 1
    pages = []
    for message in outcome.messages:
        if message["type"] == "RECORD":
            left[page_of[message["record"]["data"]["id"]]] -= 1
        elif message["type"] == "STATE":
            progress = message["state"]["global"]["stream_states"][0]["stream_state"]["cdc"]
            pages.append(len(left) if progress["complete"] else progress["page"])
            assert not any(left[: pages[-1]])
    assert pages == sorted(pages)
    assert len(set(pages)) > 5


def data_of(line: bytes) -> bytes:
    return line.partition(b'"data":')[2].partition(b',"_ab_cdc')[0]


def test_tables_are_read_at_the_same_time(gated):
    with reading_at_the_gate(gated) as (sync, holder):
        holder.execute("rollback")
        outcome = sync.finish()
    assert outcome.exit_code == 0, outcome
    assert len(outcome.records("v")) == len(outcome.records("w")) == 10


def test_workers_die_with_the_sync(gated):
    with reading_at_the_gate(gated) as (sync, _):
        workers = workers_of(sync)
        assert len(workers) == 2
        sync.kill()
        wait_until(lambda: not any(map(lives, workers)), 20, "the workers are gone")


def test_a_stopped_sync_ends_its_workers(gated):
    with reading_at_the_gate(gated) as (sync, _):
        workers = workers_of(sync)
        sync.terminate()
        outcome = sync.finish()
        assert outcome.exit_code == 128 + 15, outcome
        wait_until(lambda: not any(map(lives, workers)), 20, "the workers are gone")


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_that_dies_fails_the_sync(gated):
    with reading_at_the_gate(gated) as (sync, _):
        workers_of(sync)[0].kill()
        outcome = sync.finish()
    assert failure(outcome)["failure_type"] == "transient_error"
    assert outcome.statuses == {"v": ["STARTED", "INCOMPLETE"], "w": ["STARTED", "INCOMPLETE"]}


def test_a_worker_s_error_is_the_sync_s(tables):
    tables.execute("create view broken as select id, 1 / (id - 4000) x from a")
    catalog = catalog_of(tables, "full_refresh")
    errors = [failure(read(tables, catalog, max_db_connections=count)) for count in (1, 2)]
    for key in ("message", "failure_type"):
        assert errors[0][key] == errors[1][key]
    assert "22012" in errors[1]["internal_message"]
