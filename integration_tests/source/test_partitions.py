"""Partitioned tables: a root is one stream, under whatever name its partitions' changes come; a leaf is one, too."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.pair.piping import differences, sync
from integration_tests.source.reading import TRANSPORTS, catalog_of, config, discovered, last_state, read
from integration_tests.source.test_seam import newest
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE, Outcome
from integration_tests.support.databases import Database

SHOWN = "id::text, v, md5(coalesce(body, '-'))"
VIA_ROOT = [False, True]


@pytest.fixture
def sales(source_db: Database) -> Database:
    if source_db.server.major < 13:
        pytest.skip("partitioned tables can be published since 13")
    # Columns in another order in one partition; another partition is partitioned itself.
    source_db.execute(
        "create table sales (id int, v text, body text, primary key (id)) partition by range (id);"
        "create table low partition of sales for values from (0) to (100);"
        "create table middle (body text, v text, id int not null primary key);"
        "alter table sales attach partition middle for values from (100) to (200);"
        "create table high partition of sales for values from (200) to (1000) partition by range (id);"
        "create table high_a partition of high for values from (200) to (300);"
        'create table "high b" partition of high for values from (300) to (1000);'
        "alter table low alter body set storage external; alter table middle alter body set storage external"
    )
    source_db.execute("insert into sales select i, 'old', repeat(md5(i::text), 200) from generate_series(0, 399, 50) i")
    return source_db


def publish(database: Database, *, via_root: bool) -> None:
    database.execute(
        f"create publication airbyte_publication for table sales with (publish_via_partition_root = {via_root})"
    )


def expect_equal(source: Database, destination: Database, *tables: str) -> None:
    for table in tables:
        assert differences(source, destination, table, SHOWN) == []


def states_of(outcome: Outcome, stream: str = "sales") -> dict[str, Any]:
    streams = last_state(outcome)["global"]["stream_states"]
    (entry,) = [each for each in streams if each["stream_descriptor"]["name"] == stream]
    found: dict[str, Any] = entry["stream_state"]["cdc"]
    return found


@pytest.mark.parametrize("via_root", VIA_ROOT)
def test_what_can_be_followed(sales, via_root):
    publish(sales, via_root=via_root)
    found = discovered(sales)
    modes = {name: "incremental" in stream["supported_sync_modes"] for name, stream in found.items()}
    # Where everything comes in the root's name, nothing comes in its partitions'.
    assert modes == {
        name: name == "sales" or not via_root for name in ("sales", "low", "middle", "high", "high_a", "high b")
    }
    assert found["sales"]["source_defined_primary_key"] == [["id"]]
    sales.execute("alter table low replica identity nothing")
    assert "incremental" not in discovered(sales)["sales"]["supported_sync_modes"]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("via_root", VIA_ROOT)
def test_changes_of_partitions_are_the_roots(sales, destination_db, via_root, transport):
    publish(sales, via_root=via_root)
    catalog = catalog_of(sales, only=["sales"])
    first = sync(sales, destination_db, catalog)
    assert first.ok, first.printed[-5:]
    expect_equal(sales, destination_db, "sales")
    # Unchanged bodies out of line, a key that changes, moves from one partition to another, deletes.
    sales.execute("update sales set v = 'new' where id in (0, 100, 300); delete from sales where id in (50, 350)")
    sales.execute("update sales set id = 60 where id = 150; update sales set id = 260 where id = 60")
    sales.execute(
        "update sales set id = 151 where id = 100; insert into sales values (1, 'new', 'b'), (999, 'new', null)"
    )
    sales.execute(
        "begin; insert into sales values (2, 'x'); savepoint s; update sales set id = 202 where id = 2;"
        "rollback to s; commit"
    )
    second = sync(sales, destination_db, catalog, first.states[-1], transport=transport)
    assert second.ok, second.printed[-5:]
    expect_equal(sales, destination_db, "sales")


def test_roots_and_leaves_are_streams_of_their_own(sales, destination_db):
    catalog = catalog_of(sales)
    assert len(catalog["streams"]) == 6
    passed = sync(sales, destination_db, catalog)
    assert passed.ok, passed.printed[-5:]
    sales.execute(
        "update sales set id = 210 where id = 0; insert into sales values (1, 'new'); delete from sales where id = 350"
    )
    passed = sync(sales, destination_db, catalog, passed.states[-1], emit_position=True)
    assert passed.ok, passed.printed[-5:]
    expect_equal(sales, destination_db, "sales", "low", "middle", "high", "high_a")
    assert destination_db.rows("select id from public.high_b order by 1") == sales.rows(
        'select id from "high b" order by 1'
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("via_root", VIA_ROOT)
def test_partitions_that_come_between_syncs(sales, destination_db, via_root, transport):
    publish(sales, via_root=via_root)
    catalog = catalog_of(sales, only=["sales"])
    passed = sync(sales, destination_db, catalog)
    sales.execute("create table made partition of sales for values from (1000) to (1100)")
    sales.execute("insert into sales values (1000, 'made'), (1001, 'made'); update sales set v = 'new' where id = 1000")
    sales.execute("create table brought (id int not null primary key, v text, body text)")
    sales.execute("insert into brought select i, 'brought' from generate_series(1100, 1105) i")
    sales.execute("update brought set v = 'before' where id = 1101; delete from brought where id = 1102")
    sales.execute("alter table sales attach partition brought for values from (1100) to (1200)")
    sales.execute(
        "update sales set v = 'after' where id = 1103; delete from sales where id = 1104;"
        "insert into sales values (1110, 'x')"
    )
    passed = sync(sales, destination_db, catalog, passed.states[-1], transport=transport)
    assert passed.ok, passed.printed[-5:]
    expect_equal(sales, destination_db, "sales")
    sales.execute("update sales set v = 'later' where id > 1000")
    passed = sync(sales, destination_db, catalog, passed.states[-1], transport=transport)
    expect_equal(sales, destination_db, "sales")


def test_what_the_snapshot_of_a_new_partition_shows_comes_once(sales):
    """Also where rows are only appended."""
    catalog = catalog_of(sales, only=["sales"], destination="append")
    first = read(sales, catalog)
    assert len(first.records()) == 8
    sales.execute("create table made partition of sales for values from (1000) to (1100)")
    sales.execute("insert into sales values (1000, 'made'), (1001, 'made'); insert into sales values (3, 'other')")
    second = read(sales, catalog, first)
    assert sorted(record["id"] for record in second.records()) == [3, 1000, 1001]
    assert len(states_of(second)["leaves"]) == 5
    third = read(sales, catalog, second)
    assert third.records() == []


def test_partitions_that_go_are_told(sales):
    catalog = catalog_of(sales, only=["sales"])
    first = read(sales, catalog)
    sales.execute("insert into sales values (5, 'before')")
    sales.execute("alter table sales detach partition low; insert into low values (6, 'after'); drop table middle")
    sales.execute("insert into sales values (222, 'new')")
    second = read(sales, catalog, first)
    assert newest(second.records()) == {222: "new"}
    assert any("2 partitions were detached or dropped" in log["message"] for log in second.logs)
    third = read(sales, catalog, second)
    assert not any("detached" in log["message"] for log in third.logs)


@pytest.mark.parametrize("handling", ["warn", "fail", "propagate"])
@pytest.mark.parametrize("via_root", VIA_ROOT)
def test_truncates(sales, destination_db, via_root, handling):
    publish(sales, via_root=via_root)
    catalog = catalog_of(sales, only=["sales"])
    first = sync(sales, destination_db, catalog)
    sales.execute("truncate sales; insert into sales values (1, 'new')")
    second = sync(sales, destination_db, catalog, first.states[-1], truncate_handling=handling)
    assert second.ok == (handling != "fail")
    if handling == "propagate":
        expect_equal(sales, destination_db, "sales")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_partitions_that_are_emptied_detached_or_dropped(sales, destination_db, transport):
    """Nobody can name their rows: the whole is read anew, and what is older goes."""
    options: dict[str, Any] = {"transport": transport, "truncate_handling": "propagate", "emit_position": True}
    catalog = catalog_of(sales, only=["sales"], emit_position=True)
    passed = sync(sales, destination_db, catalog, **options)
    for script in (
        "update sales set v = 'before' where id = 0; truncate low; insert into sales values (7, 'after')",
        "truncate high; insert into sales values (300, 'after')",
        "alter table sales detach partition low",
        "insert into sales values (130, 'x'); drop table middle; insert into sales values (230, 'x')",
        "insert into low values (8, 'alone'); alter table sales attach partition low for values from (0) to (100)",
    ):
        sales.execute(script)
        passed = sync(sales, destination_db, catalog, passed.states[-1], **options)
        assert passed.ok, passed.printed[-5:]
        expect_equal(sales, destination_db, "sales")
    again = sync(sales, destination_db, catalog, passed.states[-1], **options)
    assert again.lines < 12


def test_nothing_is_promised_that_is_not_done(sales):
    """Under schema_change warn nothing is read anew, so nothing is swept; nor when that is set in between."""
    catalog = catalog_of(sales, only=["sales"])
    first = read(sales, catalog)
    sales.execute("truncate low")
    second = read(sales, catalog, first, truncate_handling="propagate", schema_change="warn")
    said = [log["message"] for log in second.logs]
    assert any("A partition of public.sales was truncated: its rows stay" in text for text in said)
    assert second.records() == []
    state = last_state(first)
    state["global"]["stream_states"][0]["stream_state"]["cdc"]["sweep"] = "0/1"
    third = read(sales, catalog, [state])
    assert third.exit_code == 0, third
    assert third.records() == []
    assert "sweep" not in states_of(third)


def test_a_partition_that_comes_where_nothing_is_loaded(sales):
    catalog = catalog_of(sales, only=["sales"])
    first = read(sales, catalog, initial_load=False)
    sales.execute("create table made partition of sales for values from (1000) to (1100)")
    sales.execute("insert into sales values (1000, 'made')")
    second = read(sales, catalog, first, initial_load=False)
    assert [record["id"] for record in second.records()] == [1000]
    assert read(sales, catalog, second, initial_load=False).records() == []


@pytest.mark.parametrize("handling", ["warn", "fail"])
def test_a_partition_that_is_truncated_by_itself(sales, handling):
    catalog = catalog_of(sales, only=["sales"])
    first = read(sales, catalog)
    sales.execute("truncate low")
    second = read(sales, catalog, first, truncate_handling=handling)
    assert second.exit_code == (handling == "fail")
    said = [log["message"] for log in second.logs] + [(second.error or {}).get("message", "")]
    assert any("A partition of public.sales was truncated" in text for text in said)


def test_a_load_that_died_goes_on_at_its_partition(sales):
    catalog = catalog_of(sales, only=["sales"])
    first = read(sales, catalog)
    state = last_state(first)
    own = state["global"]["stream_states"][0]["stream_state"]["cdc"]
    leaves = own["leaves"]
    own |= {"complete": False, "page": leaves[2], "pages": 0, "file": own["table"]}
    sales.execute("update sales set v = 'new' where id = 0")
    second = read(sales, catalog, [state])
    assert second.exit_code == 0, second
    # Of the first two partitions only what has changed; the others whole.
    assert sorted(record["id"] for record in second.records()) == [0, 200, 250, 300, 350]
    assert states_of(second)["complete"] is True
    assert states_of(second)["leaves"] == leaves


def test_who_may_read_the_whole_only(sales):
    role = f"reader_{sales.name}"
    publish(sales, via_root=False)
    sales.execute(f"create role {role} login replication password 'reader-secret'; grant select on sales to {role}")
    try:
        login = {"username": role, "password": "reader-secret"}
        catalog = catalog_of(sales, only=["sales"])
        outcome = connector.run(SOURCE, "read", config={**config(sales), **login}, catalog=catalog)
        assert outcome.exit_code == 0, outcome
        assert len(outcome.records()) == 8
    finally:
        sales.execute(f"drop owned by {role}; drop role {role}")


def test_partitions_that_come_and_go_during_a_sync(sales, destination_db):
    """Made, filled and dropped between two syncs, and rows that move into partitions of an hour ago."""
    catalog = catalog_of(sales, only=["sales"])
    passed = sync(sales, destination_db, catalog)
    sales.execute(
        "create table short partition of sales for values from (2000) to (2100); insert into sales values (2000, 'x')"
    )
    sales.execute("drop table short; create table short partition of sales for values from (2000) to (2100)")
    sales.execute("insert into sales values (2001, 'y'); update sales set id = 2002 where id = 0")
    passed = sync(sales, destination_db, catalog, passed.states[-1])
    assert passed.ok, passed.printed[-5:]
    expect_equal(sales, destination_db, "sales")
