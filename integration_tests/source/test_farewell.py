"""The server is shut down, or the sync told to stop, while the sync cannot listen: neither waits for the other."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import pytest

from integration_tests.source.reading import TRANSPORTS, catalog_of, config, last_state, read
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
