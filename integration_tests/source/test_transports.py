"""Every way to read the changes gives the same records, leaves the anchor alone, and ends at the fence."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, config, confirmed, failure, last_state, position, read, slot_of
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

# The fallback is what happens where no slot is free for a copy.
TRANSPORTS = ("stream", "bulk", "fallback")


@pytest.fixture
def orders(source_db: Database) -> Database:
    source_db.execute(
        "create table orders (id int primary key, name text, amount numeric, at timestamptz, tags text[])"
    )
    source_db.execute(
        "insert into orders select i, 'name ' || i, i / 7.0, '2024-02-29 12:00+00', '{a,\"b c\"}'"
        " from generate_series(1, 500) i"
    )
    return source_db


def take_every_slot(database: Database, stack: ExitStack) -> None:
    """Leave the server without a free slot until ``stack`` is closed."""
    # Those of an earlier session may be there for a moment.
    mine = "select count(*) from pg_replication_slots where slot_name like 'taken%%'"
    wait_until(lambda: database.value(mine) == 0, 30, "the slots of the session before are gone")
    free = database.value("select current_setting('max_replication_slots')::int - count(*) from pg_replication_slots")
    session = stack.enter_context(database.connect())
    with session.cursor() as cursor:
        for number in range(free):
            cursor.execute("select pg_create_physical_replication_slot(%s, false, true)", (f"taken_{number}",))


def read_by(transport: str, database: Database, catalog: dict[str, Any], state: Any) -> Any:
    if transport != "fallback":
        return read(database, catalog, state, transport=transport)
    with ExitStack() as stack:
        take_every_slot(database, stack)
        outcome = read(database, catalog, state)
        assert any("is read itself" in log["message"] for log in outcome.logs), outcome
        return outcome


def change(database: Database) -> None:
    """Everything that a change can be, in transactions large and small."""
    database.execute("insert into orders select i, null, 'NaN', null, null from generate_series(501, 510) i")
    database.execute("update orders set name = repeat('long ', 200) where id between 10 and 20")
    database.execute("update orders set id = id + 10000 where id between 30 and 35")
    database.execute("delete from orders where id between 40 and 45")
    database.execute("begin; insert into orders (id) values (9999); rollback")
    database.execute('update orders set amount = amount + 1, tags = tags || \'{"q\\""}\'')
    database.execute("insert into orders select i, 'more ' || i, i, now(), '{}' from generate_series(20000, 24000) i")
    database.execute("truncate orders")
    database.execute("insert into orders (id, name) values (1, e'tab\\t \"quote\" \\\\ é')")


def shown(outcome: Any) -> list[Any]:
    return [(row["stream"], row["data"], row.get("meta")) for row in outcome.record_payloads()]


def test_every_transport_gives_the_same(orders: Database) -> None:
    catalog = catalog_of(orders)
    first = read(orders, catalog)
    change(orders)
    outcomes = {transport: read_by(transport, orders, catalog, first) for transport in TRANSPORTS}
    assert all(outcome.exit_code == 0 for outcome in outcomes.values()), outcomes
    assert len(outcomes["stream"].records()) > 4500
    assert shown(outcomes["bulk"]) == shown(outcomes["stream"])
    assert shown(outcomes["fallback"]) == shown(outcomes["stream"])
    assert confirmed(orders) == position(first)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_position_is_reached_and_given_back(orders: Database, transport: str) -> None:
    """Nothing to read but what is not published: the position moves, and the next sync releases the WAL."""
    orders.execute("create table elsewhere (id int)")
    catalog = catalog_of(orders, only=["orders"])
    first = read(orders, catalog)
    orders.execute("insert into elsewhere select generate_series(1, 20000)")
    end = orders.value("select pg_current_wal_insert_lsn()::text")
    second = read_by(transport, orders, catalog, first)
    assert second.exit_code == 0, second
    assert second.records() == []
    assert orders.value("select %s::pg_lsn >= %s::pg_lsn", position(second), end)
    assert confirmed(orders) == position(first)
    third = read_by(transport, orders, catalog, second)
    assert third.exit_code == 0, third
    assert confirmed(orders) == position(second)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_first_sync(orders: Database, transport: str) -> None:
    catalog = catalog_of(orders)
    if transport == "fallback":
        # The anchor is there already: making it needs a slot too.
        orders.execute("create publication airbyte_publication for table orders")
        orders.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", slot_of(orders))
    first = read_by(transport, orders, catalog, None)
    assert first.exit_code == 0, first
    assert len(first.records()) == 500
    orders.execute("insert into orders (id) values (501)")
    second = read_by(transport, orders, catalog, first)
    assert [row["id"] for row in second.records()] == [501]


def test_a_position_in_the_one_total_order(orders: Database) -> None:
    """``emit_position``: (commit LSN, number), rising strictly in delivery, the same in every transport."""
    catalog = catalog_of(orders, emit_position=True)
    first = read(orders, catalog, emit_position=True)
    assert {row["_ab_cdc_ordinal"] for row in first.records()} == {0}
    assert all(r["_ab_cdc_commit_lsn"] == r["_ab_cdc_lsn"] for r in first.records())
    change(orders)
    outcomes = [
        read(orders, catalog, first, emit_position=True, transport=transport) for transport in ("stream", "bulk")
    ]
    places = [(row["_ab_cdc_commit_lsn"], row["_ab_cdc_ordinal"]) for row in outcomes[0].records()]
    assert len(set(places)) == len(places) > 4500
    assert places == sorted(places)
    assert places[0][0] > first.records()[-1]["_ab_cdc_commit_lsn"]
    assert shown(outcomes[1]) == shown(outcomes[0])


def test_what_is_already_counted_in_windows_is_not_sent_twice(orders: Database) -> None:
    """A backlog of many windows, a transaction open through all of it: the sync ends, its commit comes next time."""
    catalog = catalog_of(orders)
    first = read(orders, catalog)
    with orders.connect() as session, session.cursor() as cursor:
        cursor.execute("begin; insert into orders (id, name) values (7_000_000, 'late')".replace("_", ""))
        for number in range(30):
            orders.execute(
                "insert into orders select i, repeat('x', 500), i from generate_series(%s, %s) i",
                100_000 + number * 4000,
                100_000 + number * 4000 + 3999,
            )
        second = read(orders, catalog, first, transport="bulk")
        assert second.exit_code == 0, second
        cursor.execute("commit")
    ids = [row["id"] for row in second.records()]
    assert len(ids) == len(set(ids)) == 120_000
    third = read(orders, catalog, second, transport="bulk")
    assert [row["id"] for row in third.records()] == [7_000_000]


def test_a_member_of_a_replication_role_reads_through_bulk(orders: Database) -> None:
    """``CREATE ROLE r REPLICATION; GRANT r TO u``: no walsender for such a user, but slots, as that role."""
    role, user = f"replicators_{orders.name}", f"member_{orders.name}"
    orders.execute(f"create role {role} replication")
    orders.execute(f"create role {user} login password 'secret' in role {role}")
    orders.execute(f"grant select on all tables in schema public to {user}")
    orders.execute("create publication airbyte_publication for table orders")
    try:
        catalog = catalog_of(orders)
        settings = {**config(orders), "username": user, "password": "secret"}
        first = connector.run(SOURCE, "read", config=settings, catalog=catalog)
        if orders.server.major < 12:
            assert "only a member" in failure(first)["message"]
            return
        assert first.exit_code == 0, first
        assert len(first.records()) == 500
        change(orders)
        second = connector.run(SOURCE, "read", config=settings, catalog=catalog, state=[last_state(first)])
        assert second.exit_code == 0, second
        assert shown(second) == shown(read(orders, catalog, first))
        assert confirmed(orders) == position(first)
        checked = connector.run(SOURCE, "check", config=settings)
        assert checked.connection_status["status"] == "SUCCEEDED", checked
    finally:
        orders.execute(f"drop owned by {user}")
        orders.execute(f"drop role {user}")
        orders.execute(f"drop role {role}")
