"""What a refresh is owed: the table as it is, deletes from before, and nothing that the snapshot shows already."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration_tests.pair.piping import differences, sync
from integration_tests.source.reading import TRANSPORTS, catalog_of, failure, last_state, read, slot_of
from integration_tests.source.test_seam import newest
from integration_tests.support.databases import Database


@pytest.fixture
def table(source_db: Database) -> Database:
    source_db.execute("create table t (id int primary key, v text)")
    source_db.execute("insert into t select i, 'old' from generate_series(1, 10) i")
    source_db.execute("create table other (id int primary key)")
    return source_db


def refreshed(state: dict[str, Any], *streams: str) -> dict[str, Any]:
    """What a platform makes of a state for a refresh: null for the stream."""
    changed: dict[str, Any] = json.loads(json.dumps(state))
    for entry in changed["global"]["stream_states"]:
        if entry["stream_descriptor"]["name"] in streams:
            entry["stream_state"] = None
    return changed


def recreate(database: Database) -> None:
    database.execute("insert into t values (50, 'of the old table')")
    database.execute("drop table t; create table t (id int primary key, v text)")
    database.execute("alter publication airbyte_publication add table only t")
    database.execute("insert into t values (1, 'new')")


def truncate(database: Database) -> None:
    database.execute("insert into t values (50, 'gone')")
    database.execute("truncate t")
    database.execute("insert into t values (1, 'new')")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("happens", [recreate, truncate])
def test_a_refresh_shows_the_table_as_it_is(table, happens, transport):
    catalog = catalog_of(table)
    first = read(table, catalog)
    happens(table)
    again = read(table, catalog, [refreshed(last_state(first), "t")], transport=transport)
    assert again.exit_code == 0, again
    assert newest(again.records("t")) == {1: "new"}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_merge_refresh_brings_the_deletes_in_between(table, destination_db, transport):
    catalog = catalog_of(table)
    first = sync(table, destination_db, catalog)
    table.execute("delete from t where id = 1; update t set id = 100 where id = 2; insert into t values (1, 'again')")
    table.execute("delete from t where id = 3")
    second = sync(table, destination_db, catalog, refreshed(first.states[-1], "t"), transport=transport)
    assert second.ok, second.printed[-5:]
    assert differences(table, destination_db, "t", "id::text, v") == []


def test_a_refresh_of_everything_kept_in_states_per_stream(table, destination_db):
    catalog = catalog_of(table, only=["t"])
    first = sync(table, destination_db, catalog, state_type="stream")
    table.execute("delete from t where id = 1")
    nothing = json.loads(json.dumps(first.states[-1]))
    nothing["stream"]["stream_state"] = None
    second = sync(table, destination_db, catalog, nothing, state_type="stream")
    assert second.ok, second.printed[-5:]
    assert differences(table, destination_db, "t", "id::text, v") == []


def test_a_refresh_gets_over_changes_under_another_identity(table):
    catalog = catalog_of(table)
    first = read(table, catalog)
    table.execute("alter table t replica identity full")
    table.execute("alter table t drop constraint t_pkey; delete from t where id = 5")
    table.execute("alter table t replica identity default; alter table t add primary key (id)")
    again = read(table, catalog, [refreshed(last_state(first), "t")])
    assert again.exit_code == 0, again
    assert newest(again.records("t")).keys() == {1, 2, 3, 4, 6, 7, 8, 9, 10}


def test_a_publication_made_anew_is_got_over_by_a_refresh_of_all(table):
    catalog = catalog_of(table)
    first = read(table, catalog)
    table.execute("drop publication airbyte_publication")
    table.execute("insert into t values (11, 'unseen')")
    second = read(table, catalog, first)
    if second.exit_code == 0:  # 18 skips what is published nowhere
        return
    assert "Refresh" in failure(second)["message"]
    third = read(table, catalog, [refreshed(last_state(first), "t", "other")])
    assert third.exit_code == 0, third
    assert len(newest(third.records("t"))) == 11


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_names_come_and_go_but_a_table_stays_the_same(table, transport):
    catalog = catalog_of(table)
    first = read(table, catalog)
    table.execute("alter table t rename to u; insert into u values (11, 'as u'); update u set v = 'as u' where id = 1")
    table.execute("alter table u rename to t; insert into t values (12, 'as t')")
    second = read(table, catalog, first, transport=transport)
    assert newest(second.records("t")) == {11: "as u", 1: "as u", 12: "as t"}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("how", ["moved", "dropped", "made anew"])
def test_an_anchor_that_somebody_touches_during_a_sync_is_told(table, transport, how):
    """Reading from it would skip what is behind it, without a word."""
    if how == "moved" and table.server.major < 11:
        return  # nothing there moves a slot but a consumer
    catalog = catalog_of(table)
    first = read(table, catalog)
    table.execute("insert into t values (11, 'skipped')")
    slot = slot_of(table)
    # What the sync runs just before it opens its reader.
    touch = {
        "moved": f"select pg_replication_slot_advance('{slot}', pg_current_wal_lsn())",
        "dropped": f"select pg_drop_replication_slot('{slot}')",
        "made anew": f"select pg_drop_replication_slot('{slot}'), "
        f"pg_create_logical_replication_slot('{slot}', 'pgoutput')",
    }
    error = failure(read(table, catalog, first, transport=transport, heartbeat_action_query=touch[how]))
    assert "by somebody else" in error["message"], error


def test_children_of_a_followed_table_are_not_published(table):
    table.execute("create table child () inherits (t)")
    table.execute("insert into child values (100, 'child')")
    outcome = read(table, catalog_of(table, only=["t"]))
    assert outcome.exit_code == 0, outcome
    table.execute("update child set v = 'still possible'; update t set v = 'and here' where id = 1")
