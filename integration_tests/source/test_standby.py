"""Reading from a hot standby (16+): slots, snapshot and changes there, publications on the primary, and promotion."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from integration_tests.source.reading import TRANSPORTS, catalog_of, confirmed, failure, position, read
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded, wait_until


@pytest.fixture(scope="module", params=[16, 18])
def pair(request) -> Iterator[tuple[Cluster, Cluster]]:
    with Cluster(embedded(request.param)) as primary, primary.standby() as standby:
        yield primary, standby


@pytest.fixture
def databases(pair) -> Iterator[tuple[Database, Database]]:
    """The same database on the primary and on the standby, where nobody waits for news of running transactions."""
    primary, standby = pair
    with Database(primary) as origin, contextlib.ExitStack() as stack:
        origin.execute("create table orders (id int primary key, note text)")
        origin.execute("insert into orders select i, 'first' from generate_series(1, 100) i")
        replayed(origin, standby)
        copy = Database(standby, name=origin.name, exists=True)
        stack.callback(copy.close)
        stack.enter_context(news_of_transactions(origin))
        yield origin, copy


@contextlib.contextmanager
def news_of_transactions(origin: Database) -> Iterator[None]:
    """An idle primary logs its running transactions seldom; a slot on the standby waits for that."""
    is_over = threading.Event()

    def tell() -> None:
        with contextlib.closing(origin.connect()) as session, session.cursor() as cursor:
            while not is_over.wait(0.1):
                cursor.execute("select pg_log_standby_snapshot()")

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def replayed(origin: Database, standby: Cluster) -> None:
    end = origin.value("select pg_current_wal_insert_lsn()::text")

    def is_replayed() -> bool:
        with contextlib.closing(standby.connect()) as session, session.cursor() as cursor:
            cursor.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", (end,))
            return bool((cursor.fetchone() or [False])[0])

    wait_until(is_replayed, 30, "the standby has replayed it")


def test_the_publication_is_made_on_the_primary(databases):
    _, standby = databases
    error = failure(read(standby, catalog_of(standby)))
    assert error["failure_type"] == "config_error"
    assert "Run on the primary: CREATE PUBLICATION" in error["message"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_standby_is_read_like_a_primary(databases, pair, transport):
    primary, standby = databases
    primary.execute("create publication airbyte_publication for table orders")
    replayed(primary, pair[1])
    catalog = catalog_of(standby, transport=transport)
    with contextlib.closing(primary.connect()) as session, session.cursor() as cursor:
        cursor.execute("begin; insert into orders values (101, 'open across the making of the slot')")
        committed = threading.Timer(1.0, cursor.execute, ["commit"])
        committed.start()
        first = read(standby, catalog, transport=transport)
        committed.join()
    assert first.exit_code == 0, first
    rows = [row["id"] for row in first.records()]
    primary.execute("update orders set note = 'second' where id <= 10")
    primary.execute("delete from orders where id = 11")
    primary.execute("create table late (id int primary key)")
    primary.execute("insert into late values (1)")
    primary.execute("alter publication airbyte_publication add table late")
    replayed(primary, pair[1])
    second = read(standby, catalog_of(standby), first, transport=transport)
    assert second.exit_code == 0, second
    changed = [row["id"] for row in second.records("orders")]
    # Whichever part has the one that was open, it comes once.
    assert sorted(rows + [i for i in changed if i > 11]) == list(range(1, 102))
    assert [i for i in changed if i <= 11] == list(range(1, 12))
    assert [row["id"] for row in second.records("late")] == [1]
    assert confirmed(standby) == position(first)
    primary.execute("insert into late values (2)")
    replayed(primary, pair[1])
    third = read(standby, catalog_of(standby), second, transport=transport)
    assert [row["id"] for row in third.records()] == [2]
    assert confirmed(standby) == position(second)
    standby.execute("select pg_drop_replication_slot(%s)", f"slot_{standby.name}")


def test_a_standby_that_was_promoted_is_gone_on_with():
    with Cluster(embedded(16)) as primary, primary.standby() as server, Database(primary) as origin:
        origin.execute("create table orders (id int primary key)")
        origin.execute("create publication airbyte_publication for table orders")
        replayed(origin, server)
        with news_of_transactions(origin):
            standby = Database(server, name=origin.name, exists=True)
            first = read(standby, catalog_of(standby))
        assert first.exit_code == 0, first
        origin.execute("insert into orders values (1)")
        replayed(origin, server)
        standby.execute("select pg_promote()")
        standby.execute("insert into orders values (2)")
        second = read(standby, catalog_of(standby), first)
        assert second.exit_code == 0, second
        assert [row["id"] for row in second.records()] == [1, 2]
        third = read(standby, catalog_of(standby), second)
        assert third.exit_code == 0, third
        assert third.records() == []
        standby.close()
