"""A sync from first to last: snapshot, changes, states, statuses; every change once, in order."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, confirmed, discovered, failure, last_state, position, read
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE


@pytest.fixture
def shop(source_db):
    source_db.execute("create table customers (id int primary key, name text, note text)")
    source_db.execute("create table log (line text)")
    source_db.execute("insert into customers select i, 'name ' || i from generate_series(1, 1000) i")
    source_db.execute("insert into log values ('a'), ('b')")
    return source_db


def test_first_sync_reads_everything_once_and_ends_complete(shop):
    outcome = read(shop, catalog_of(shop, only=["customers"]))
    assert outcome.exit_code == 0, outcome
    assert sorted(row["id"] for row in outcome.records("customers")) == list(range(1, 1001))
    assert outcome.statuses == {"customers": ["STARTED", "RUNNING", "COMPLETE"]}
    kinds = [message["type"] for message in outcome.messages]
    last_state = max(i for i, kind in enumerate(kinds) if kind == "STATE")
    assert "RECORD" not in kinds[last_state:]
    complete = next(i for i, line in enumerate(outcome.lines) if b'"COMPLETE"' in line)
    assert complete > last_state
    assert sum(state["sourceStats"]["recordCount"] for state in outcome.states) == 1000
    assert outcome.stderr == ""


def test_changes_arrive_once_in_order_with_their_lsn(shop):
    catalog = catalog_of(shop, only=["customers"])
    first = read(shop, catalog)
    shop.execute("insert into customers values (2001, 'new', null)")
    shop.execute("update customers set note = 'x' where id = 2001")
    shop.execute("update customers set id = 3001 where id = 2001")
    shop.execute("delete from customers where id = 5")
    second = read(shop, catalog, first)
    rows = second.records("customers")
    seen = [(row["id"], row.get("note"), row["_ab_cdc_deleted_at"] is not None) for row in rows]
    assert seen == [(2001, None, False), (2001, "x", False), (2001, None, True), (3001, "x", False), (5, None, True)]
    lsns = [row["_ab_cdc_lsn"] for row in rows]
    assert lsns == sorted(lsns)
    assert min(lsns) > max(row["_ab_cdc_lsn"] for row in first.records("customers"))
    assert rows[-1]["_ab_cdc_deleted_at"] == rows[-1]["_ab_cdc_updated_at"]
    third = read(shop, catalog, second)
    assert third.exit_code == 0
    assert third.records() == []
    assert len(third.states) == 1
    # A stream is known to the state before its first row leaves.
    kinds = [message["type"] for message in first.messages if message["type"] in ("RECORD", "STATE")]
    assert kinds[0] == "STATE"


def test_the_anchor_moves_only_at_the_start_and_only_to_the_given_state(shop):
    catalog = catalog_of(shop, only=["customers"])
    first = read(shop, catalog)
    after_first = confirmed(shop)
    shop.execute("update customers set note = 'x'")
    second = read(shop, catalog, first)
    assert position(second) != position(first)
    assert confirmed(shop) == position(first)
    assert after_first != position(first)
    read(shop, catalog, second)
    assert confirmed(shop) == position(second)


def test_rolled_back_work_and_savepoints_are_not_sent(shop):
    catalog = catalog_of(shop, only=["customers"])
    first = read(shop, catalog)
    with shop.connect() as session, session.cursor() as cursor:
        cursor.execute("begin; insert into customers values (9001); rollback")
        cursor.execute("begin; insert into customers values (9002); savepoint s; insert into customers values (9003)")
        cursor.execute("rollback to s; insert into customers values (9004); commit")
    assert [row["id"] for row in read(shop, catalog, first).records()] == [9002, 9004]


def test_a_table_without_key_is_offered_as_full_refresh_only_and_read_whole_each_time(shop):
    streams = discovered(shop)
    assert streams["log"]["supported_sync_modes"] == ["full_refresh"]
    assert streams["customers"]["supported_sync_modes"] == ["full_refresh", "incremental"]
    assert streams["customers"]["source_defined_primary_key"] == [["id"]]
    catalog = catalog_of(shop, "full_refresh", ["log"])
    for _ in range(2):
        outcome = read(shop, catalog)
        assert outcome.exit_code == 0, outcome
        assert [row["line"] for row in outcome.records()] == ["a", "b"]
    # Nothing was made on the server for it.
    assert shop.value("select count(*) from pg_publication") == 0


def test_a_keyless_table_configured_as_incremental_is_refused(shop):
    catalog = catalog_of(shop, "full_refresh", ["log"])
    catalog["streams"][0]["sync_mode"] = "incremental"
    outcome = read(shop, catalog)
    assert failure(outcome)["failure_type"] == "config_error"
    assert "public.log" in failure(outcome)["message"]
    assert shop.value("select count(*) from pg_publication") == 0


def test_a_stream_added_later_is_read_whole_while_others_go_on(shop):
    shop.execute("create table late (id int primary key)")
    first = read(shop, catalog_of(shop, only=["customers"]))
    shop.execute("insert into late values (1), (2)")
    shop.execute("insert into customers values (2001)")
    both = catalog_of(shop, only=["customers", "late"])
    second = read(shop, both, first)
    assert [row["id"] for row in second.records("customers")] == [2001]
    assert sorted(row["id"] for row in second.records("late")) == [1, 2]
    shop.execute("insert into late values (3)")
    assert [row["id"] for row in read(shop, both, second).records()] == [3]


def test_an_unchanged_large_value_is_sent_whole(shop):
    shop.execute("create table docs (id int primary key, n int, body text, more text)")
    shop.execute("alter table docs alter body set storage external, alter more set storage external")
    shop.execute(
        "insert into docs select i, 0, repeat('é' || i, 20000), repeat('y', 9000) from generate_series(1, 3) i"
    )
    catalog = catalog_of(shop, only=["docs"])
    first = read(shop, catalog)
    shop.execute("update docs set n = 1")
    shop.execute("update docs set id = 11 where id = 1")
    shop.execute("update docs set n = 2 where id = 2")
    shop.execute("delete from docs where id = 2")
    second = read(shop, catalog, first)
    live = [row for row in second.record_payloads() if row["data"]["_ab_cdc_deleted_at"] is None]
    for record in live:
        if record["data"]["id"] in (11, 3):
            assert record["data"]["body"] == ("é1" if record["data"]["id"] == 11 else "é3") * 20000
            assert len(record["data"]["more"]) == 9000
            assert "meta" not in record
        else:
            # The row had gone before its value could be asked for: left out, and said so; never a placeholder.
            assert "body" not in record["data"]
            assert {change["field"] for change in record["meta"]["changes"]} == {"body", "more"}
    shop.execute("alter table docs replica identity full")
    third_state = read(shop, catalog, second)
    shop.execute("update docs set n = 7")
    rows = read(shop, catalog, third_state).records()
    assert {(row["id"], len(row["body"])) for row in rows} == {(11, 40000), (3, 40000)}


def test_every_state_shape_goes_on_without_a_reset(shop, tmp_path):
    catalog = catalog_of(shop, only=["customers"])
    first = read(shop, catalog)
    shop.execute("insert into customers values (2001)")
    last = last_state(first)
    for document in (
        [last],
        last,
        {"type": "STATE", "state": last},
        b"\n".join(first.lines),
        [{"type": "GLOBAL", "global_": last["global"], "stream": None}],
    ):
        outcome = read(shop, catalog, document)
        assert [row["id"] for row in outcome.records()] == [2001], outcome
    empty = read(shop, catalog, {})
    # A first sync: everything is read, and what the snapshot shows is not sent again from the stream.
    assert len(empty.records()) == 1001


def test_a_key_that_json_cannot_hold_is_refused_both_ways(source_db):
    source_db.execute("create table odd (k numeric primary key, v numeric)")
    source_db.execute("insert into odd values (1, 'NaN')")
    catalog = catalog_of(source_db)
    first = read(source_db, catalog)
    assert first.exit_code == 0, first
    source_db.execute("insert into odd values ('NaN', 1)")
    for given in (first, None):
        assert failure(read(source_db, catalog, given))["failure_type"] == "config_error"
    # A table that is read whole has no key to be told apart by: null, with a note.
    whole = read(source_db, catalog_of(source_db, "full_refresh")).record_payloads()
    assert sorted(len(record["meta"]["changes"]) for record in whole) == [1, 1]


def test_wal_of_idle_tables_is_released_by_the_next_sync(shop):
    catalog = catalog_of(shop, only=["customers"])
    first = read(shop, catalog)
    shop.execute("create table unpublished (x text)")
    shop.execute("insert into unpublished select repeat('x', 1000) from generate_series(1, 5000)")
    shop.execute("checkpoint")
    second = read(shop, catalog, first)
    assert second.records() == []
    read(shop, catalog, second)
    lag = shop.value(
        "select pg_current_wal_flush_lsn() - confirmed_flush_lsn from pg_replication_slots where slot_name = %s",
        f"slot_{shop.name}",
    )
    assert lag < 1_000_000


def test_odd_names_are_read(source_db):
    odd = 'Sch.e"ma', "ta ble.ü'", 'co"l.ümn'
    with source_db.connect() as session, session.cursor() as cursor:
        cursor.execute('create schema "Sch.e""ma"')
        cursor.execute("""create table "Sch.e""ma"."ta ble.ü'" ("co""l.ümn" int primary key, "ID" text)""")
        cursor.execute("""insert into "Sch.e""ma"."ta ble.ü'" values (1, 'a')""")
    more: dict[str, Any] = {"schemas": [odd[0]], "publication": 'pub"li.c'}
    catalog = catalog_of(source_db, **more)
    first = read(source_db, catalog, **more)
    assert first.exit_code == 0, first
    with source_db.connect() as session, session.cursor() as cursor:
        cursor.execute("""update "Sch.e""ma"."ta ble.ü'" set "ID" = 'b'""")
    second = read(source_db, catalog, first, **more)
    (record,) = second.record_payloads()
    assert (record["namespace"], record["stream"]) == odd[:2]
    assert record["data"][odd[2]] == 1
    assert record["data"]["ID"] == "b"


def test_without_initial_load_only_changes_are_read(shop):
    shop.execute("create publication airbyte_publication for table customers")
    shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", f"slot_{shop.name}")
    shop.execute("insert into customers values (2001)")
    catalog = catalog_of(shop, only=["customers"], initial_load=False)
    first = read(shop, catalog, initial_load=False)
    assert [row["id"] for row in first.records()] == [2001]
    shop.execute("insert into customers values (2002)")
    second = read(shop, catalog, first, initial_load=False)
    assert [row["id"] for row in second.records()] == [2002]


def test_a_whitelist_selects_what_is_discovered(shop):
    shop.execute('create schema other; create table other."Odd.Name" (id int primary key)')
    assert set(discovered(shop, tables='customers, other."Odd.Name"')) == {"customers", "Odd.Name"}
    assert set(discovered(shop, tables="*.*")) == {"customers", "log", "Odd.Name"}
    assert set(discovered(shop, tables='"Odd.Name"', schema="other")) == {"Odd.Name"}
    assert set(discovered(shop, schemas=[])) == {"customers", "log", "Odd.Name"}


def test_spec_needs_no_server():
    outcome = connector.run(SOURCE, "spec")
    assert outcome.exit_code == 0
    assert outcome.spec["connectionSpecification"]["properties"]["password"]["airbyte_secret"] is True
