"""A continuous run outlives its connections: nothing is lost, and nothing comes twice within the run."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from integration_tests.source.reading import catalog_of, confirmed, position, read
from integration_tests.source.staying import has_value, logs, repeated, sends, stay, stopped
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded, wait_until
from integration_tests.support.proxy import Point, Proxy

_OURS = "datname = current_database() and application_name = 'source-postgres-cdc'"
SESSIONS = {"the walsender": "backend_type = 'walsender'", "the other one": "backend_type = 'client backend'"}


# Much lies behind the last state when a connection breaks.
SELDOM: dict[str, Any] = {"sync_checkpoint_seconds": 5}


@pytest.fixture(scope="module")
def cluster():
    with Cluster(embedded(int(os.environ.get("PG_TEST_SOURCE_MAJOR", "16")))) as server:
        yield server


@pytest.fixture
def table(cluster):
    yield from _table(cluster)


@pytest.fixture
def restorable():
    """A server of the test's own, that can be saved once."""
    with Cluster(embedded(int(os.environ.get("PG_TEST_SOURCE_MAJOR", "16")))) as server:
        yield server


@pytest.fixture
def its_table(restorable):
    yield from _table(restorable)


def _table(cluster: Cluster) -> Iterator[Database]:
    cluster.start()
    with Database(cluster) as database:
        database.execute("create table t (id int primary key, v text)")
        yield database
        cluster.start()


@contextlib.contextmanager
def writing(database: Database) -> Iterator[None]:
    """Transactions small and large, whatever becomes of the connection, once changes are streamed."""
    wait_until(lambda: _walsenders(database), 30, "it streams")
    is_over = threading.Event()

    def write() -> None:
        keys = itertools.count(1)
        while not is_over.is_set():
            with contextlib.suppress(psycopg2.Error), contextlib.closing(database.connect()) as session:
                cursor = session.cursor()
                while not is_over.is_set():
                    for size in (1, 3, 500):
                        first = next(keys) * 1000
                        cursor.execute(
                            "insert into t select i, repeat('x', 100) from generate_series(%s, %s) i",
                            (first, first + size - 1),
                        )
                        is_over.wait(0.002)
            is_over.wait(0.05)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_restart_of_the_server(cluster, table, signum):
    with stay(table, catalog_of(table), **SELDOM) as run:
        with writing(table):
            run.wait_for(lambda message: message["type"] == "RECORD", count=1500)
            os.kill(cluster.pid, signum)
            wait_until(lambda: not cluster.running, 30, "the server is down")
            cluster.start()
            wait_until(
                lambda: table.value(f"select count(*) from pg_stat_activity where {_OURS}") > 0, 30, "it is back"
            )
            seen = sum(message["type"] == "RECORD" for message in run.messages)
            run.wait_for(lambda message: message["type"] == "RECORD", count=seen + 1500)
        table.execute("insert into t values (1, 'last')")
        sends(run, 1)
        outcome = stopped(run)
    assert repeated(outcome) == {}
    assert {row["id"] for row in outcome.records()} == {row[0] for row in table.rows("select id from t")}


def test_it_can_be_stopped_while_the_server_is_down(cluster, table):
    with stay(table, catalog_of(table)) as run:
        wait_until(lambda: _walsenders(table), 30, "it streams")
        cluster.kill()
        run.wait_for(logs("Going on from"))
        outcome = stopped(run)
    assert outcome.records() == []


def test_it_can_be_stopped_in_a_transaction_that_does_not_end(table):
    """It would be killed: better a state from before, and rows that come again."""
    catalog = catalog_of(table)
    with stay(table, catalog, held=True) as run:
        wait_until(lambda: _walsenders(table), 30, "it streams")
        table.execute("insert into t select i, repeat('x', 1000) from generate_series(1, 20000) i")
        stands = "select pid from pg_stat_activity where wait_event = 'WalSenderWriteData'"
        wait_until(lambda: table.rows(stands), 30, "the server cannot send more")
        walsender = table.value(stands)
        os.kill(walsender, signal.SIGSTOP)
        try:
            run.release()
            sends(run, 1)
            outcome = stopped(run)
        finally:
            os.kill(walsender, signal.SIGCONT)
    assert 0 < len(outcome.records()) < 20000
    assert [row["id"] for row in read(table, catalog, outcome).records()] == list(range(1, 20001))


@pytest.mark.parametrize("session", SESSIONS)
def test_a_session_is_ended_in_the_middle_of_a_large_transaction(table, session):
    catalog = catalog_of(table)
    with stay(table, catalog, held=True) as run:
        wait_until(lambda: _walsenders(table), 30, "it streams")
        # More than all buffers hold: the run stands in the middle of it.
        table.execute("insert into t select i, repeat('x', 1000) from generate_series(1, 30000) i")
        waits = "select count(*) from pg_stat_activity where wait_event = 'WalSenderWriteData'"
        wait_until(lambda: table.value(waits), 30, "the server cannot send more")
        table.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {_OURS} and {SESSIONS[session]}")
        run.release()
        sends(run, 30000)
        table.execute("insert into t values (0, 'last')")
        sends(run, 0)
        outcome = stopped(run)
    assert [row["id"] for row in outcome.records()] == [*range(1, 30001), 0]
    assert read(table, catalog, outcome).records() == []


def test_values_that_were_to_be_looked_up_when_the_connection_broke(table):
    table.execute("alter table t add column n int default 0")
    table.execute("alter table t alter column v set storage external")
    table.execute("insert into t select i, repeat('v', 3000) from generate_series(1, 40) i")
    with (
        Proxy(table.server.host, table.server.port) as proxy,
        stay(table, catalog_of(table), host=proxy.host, port=proxy.port, **SELDOM) as run,
    ):
        sends(run, 40)
        wait_until(lambda: _walsenders(table), 30, "it streams")
        for number in range(1, 6):
            # All or some of the rows are taken, and wait for their values.
            proxy.arm(*[Point("query", r"copy \(select")] * (1 + number % 2), action=lambda _: proxy.cut())
            table.execute("update t set n = %s", number)
            wait_until(proxy.reached.is_set, 20, "the connections were cut")
            proxy.reached.clear()
            run.wait_for(has_value("n", number), 60)
        table.execute("insert into t values (0, 'last')")
        sends(run, 0)
        outcome = stopped(run)
    rows = [(row["id"], row["n"]) for row in outcome.records() if row["id"]]
    assert sorted(rows) == [(key, number) for key in range(1, 41) for number in range(6)]
    assert {row["v"] for row in outcome.records() if row["id"]} == {"v" * 3000}


def test_a_network_that_is_cut_again_and_again(table):
    with (
        Proxy(table.server.host, table.server.port) as proxy,
        stay(table, catalog_of(table), host=proxy.host, port=proxy.port, **SELDOM) as run,
    ):
        with writing(table):
            for cut in range(1, 5):
                run.wait_for(lambda message: message["type"] == "RECORD", count=1500 * cut)
                proxy.cut()
        table.execute("insert into t values (1, 'last')")
        sends(run, 1)
        outcome = stopped(run)
    assert repeated(outcome) == {}
    assert {row["id"] for row in outcome.records()} == {row[0] for row in table.rows("select id from t")}


def test_a_failover_that_lost_nothing_is_gone_on_from(restorable, its_table):
    with stay(its_table, catalog_of(its_table)) as run:
        wait_until(lambda: _walsenders(its_table), 30, "it streams")
        restorable.save()
        its_table.execute("insert into t values (1, 'on the first timeline')")
        sends(run, 1)
        restorable.restore(its_table.value("select pg_current_wal_flush_lsn()::text"))
        its_table.execute("insert into t values (2, 'on the second')")
        sends(run, 2)
        outcome = stopped(run)
    assert repeated(outcome) == {}
    assert outcome.states[-1]["global"]["shared_state"]["cdc"]["timeline"] == 2


def test_a_failover_that_lost_what_was_sent_ends_the_run(restorable, its_table):
    with stay(its_table, catalog_of(its_table)) as run:
        wait_until(lambda: _walsenders(its_table), 30, "it streams")
        restorable.save()
        before = its_table.value("select pg_current_wal_flush_lsn()::text")
        its_table.execute("insert into t values (1, 'lost')")
        sends(run, 1)
        restorable.restore(before)
        outcome = run.finish()
    assert outcome.exit_code == 1
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "never happened" in outcome.error["message"]


def test_a_broken_connection_does_not_move_the_slot(table, tmp_path):
    """Only what came back does, whatever was sent."""
    file = tmp_path / "state.json"
    with stay(table, catalog_of(table), state_file=file, acknowledge_from_state_file=True) as run:
        table.execute("insert into t values (1, 'sent')")
        sends(run, 1)
        before = confirmed(table)
        table.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {_OURS}")
        table.execute("insert into t values (2, 'sent after')")
        sends(run, 2)
        assert confirmed(table) == before
        outcome = stopped(run)
    assert confirmed(table) == before != position(outcome)


def _walsenders(database: Database) -> int:
    found: int = database.value(f"select count(*) from pg_stat_activity where {_OURS} and {SESSIONS['the walsender']}")
    return found
