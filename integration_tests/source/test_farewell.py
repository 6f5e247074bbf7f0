"""The server is shut down or killed, or the sync told to stop, at moments when the sync cannot listen."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from typing import Any

import psycopg2
import pytest

from integration_tests.source.reading import TRANSPORTS, catalog_of, config, last_state, read, slot_of
from integration_tests.source.standing import MAKING_SLOT, wait_for
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded


@pytest.fixture(scope="module")
def cluster():
    with Cluster(embedded(16)) as server:
        yield server


@pytest.fixture
def table(cluster):
    cluster.start()
    with Database(cluster) as database:
        database.execute("create table t (id int primary key, v text)")
        yield database
        cluster.start()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_shuts_down_while_nobody_reads_what_a_sync_prints(cluster, table, transport):
    catalog = catalog_of(table)
    first = read(table, catalog)
    table.execute("insert into t select i, repeat('x', 1000) from generate_series(1, 50000) i")
    given: dict[str, Any] = {
        "config": config(table, transport=transport),
        "catalog": catalog,
        "state": [last_state(first)],
    }
    following = {
        "stream": "select count(*) from pg_stat_activity where wait_event = 'WalSenderWriteData'",
        "bulk": "select count(*) from pg_stat_activity where query like 'copy%get_binary_changes%'",
    }
    with connector.start(SOURCE, "read", **given, held=True) as sync:
        wait_for(table, following[transport], "the sync follows, and the server cannot send more")
        # A fast shutdown, as a DBA's restart does it; one that takes too long is killed.
        cluster.restart()
        assert "was not properly shut down" not in cluster.log_tail()
        sync.release()
        outcome = sync.finish()
    assert outcome.exit_code == 1
    assert read(table, catalog, first).exit_code == 0


def test_a_sync_that_waits_for_others_ends_in_time_when_it_is_told_to(table):
    with contextlib.closing(table.connect()) as session, session.cursor() as older:
        older.execute("begin; insert into t values (1)")
        with connector.start(SOURCE, "read", config=config(table), catalog=catalog_of(table)) as sync:
            wait_for(table, MAKING_SLOT, "the slot is being made")
            sync.terminate()
            outcome = sync.finish(timeout=30)
    assert outcome.exit_code == 128 + signal.SIGTERM


def test_nothing_leaves_that_a_crash_of_the_server_undoes(cluster, table):
    """With synchronous_commit off a commit is visible before it is flushed, and a snapshot shows it."""
    table.execute("create table a (id int primary key)")  # read first
    table.execute("create publication airbyte_publication for table a, t")
    table.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", slot_of(table))
    table.execute("insert into t select -i, repeat('x', 1000) from generate_series(1, 60000) i")
    # The one that would flush for others, within milliseconds, stands still.
    os.kill(table.value("select pid from pg_stat_activity where backend_type = 'walwriter'"), signal.SIGSTOP)

    def write() -> None:
        with contextlib.suppress(psycopg2.Error), contextlib.closing(table.connect()) as session:
            cursor = session.cursor()
            cursor.execute("set synchronous_commit = off")
            for number in itertools.count(1):
                cursor.execute("insert into a values (%s)", (number,))

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(table, "select count(*) from a", "the writer writes")
    with connector.start(SOURCE, "read", config=config(table), catalog=catalog_of(table)) as sync:
        sync.wait_for(lambda message: message.get("record", {}).get("stream") == "t")
        cluster.kill()
        outcome = sync.finish()
    writer.join()
    cluster.start()
    assert outcome.exit_code == 1
    sent = {row["id"] for row in outcome.records("a")}
    assert sent
    assert sent <= {row[0] for row in table.rows("select id from a")}
