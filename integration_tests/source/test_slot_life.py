"""Accidents of slot, publication and state: each recognised, each with its own message; nothing lost silently."""

from __future__ import annotations

import pytest

from integration_tests.source.reading import catalog_of, config, failure, last_state, read, slot_of
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE
from integration_tests.support.pgserver import wait_until


@pytest.fixture
def table(source_db):
    source_db.execute("create table t (id int primary key, v text)")
    source_db.execute("insert into t values (1, 'a')")
    return source_db


def test_a_dropped_slot_is_not_made_anew_behind_a_state(table):
    catalog = catalog_of(table)
    first = read(table, catalog)
    table.execute("select pg_drop_replication_slot(%s)", slot_of(table))
    error = failure(read(table, catalog, first))
    assert error["failure_type"] == "config_error"
    assert "is gone" in error["message"]
    assert table.value("select count(*) from pg_replication_slots where slot_name = %s", slot_of(table)) == 0


def test_a_slot_ahead_of_the_state_is_refused(table):
    catalog = catalog_of(table)
    first = read(table, catalog)
    table.execute("insert into t values (2)")
    table.execute("select pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", slot_of(table))
    error = failure(read(table, catalog, first))
    assert error["failure_type"] == "config_error"
    assert "ahead of the state" in error["message"]


def test_a_state_beyond_the_server_is_refused(table):
    catalog = catalog_of(table)
    state = last_state(read(table, catalog))
    state["global"]["shared_state"]["cdc"]["lsn"] = "FF/0"
    error = failure(read(table, catalog, state))
    assert error["failure_type"] == "config_error"
    assert "ahead of the server" in error["message"]


def test_a_state_of_another_server_is_refused(table):
    catalog = catalog_of(table)
    state = last_state(read(table, catalog))
    state["global"]["shared_state"]["cdc"]["system_id"] = "1"
    assert "another database server" in failure(read(table, catalog, state))["message"]


def test_a_physical_slot_is_refused_by_check_and_read(table):
    catalog = catalog_of(table)
    table.execute("select pg_create_physical_replication_slot(%s)", slot_of(table))
    checked = connector.run(SOURCE, "check", config=config(table))
    assert checked.exit_code == 0
    assert checked.connection_status["status"] == "FAILED"
    assert "physical" in checked.connection_status["message"]
    assert "physical" in failure(read(table, catalog))["message"]
    table.execute("select pg_drop_replication_slot(%s)", slot_of(table))


def test_a_slot_of_another_database_is_refused(table, source_cluster):
    with source_cluster.connect("postgres") as session, session.cursor() as cursor:
        cursor.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot_of(table),))
        try:
            error = failure(read(table, catalog_of(table)))
        finally:
            cursor.execute("select pg_drop_replication_slot(%s)", (slot_of(table),))
    assert "belongs to the database postgres" in error["message"]


def test_a_publication_of_others_is_not_altered_and_the_sql_is_said(table):
    table.execute("create table u (id int primary key)")
    table.execute("create publication theirs for table t")
    more = {"publication": "theirs"}
    # Discover offers as incremental only what the publication holds.
    catalog = catalog_of(table, "full_refresh", ["u"], **more)
    assert catalog["streams"][0]["stream"]["supported_sync_modes"] == ["full_refresh"]
    catalog["streams"][0]["sync_mode"] = "incremental"
    error = failure(read(table, catalog, **more))
    assert error["failure_type"] == "config_error"
    remedy = 'ALTER PUBLICATION "theirs" ADD TABLE ONLY "public"."u"'
    assert remedy in error["message"]
    table.execute(remedy)
    assert read(table, catalog, **more).exit_code == 0


def test_a_publication_that_leaves_operations_out_is_refused(table):
    table.execute("create publication theirs for table t with (publish = 'insert')")
    error = failure(read(table, catalog_of(table, publication="theirs"), publication="theirs"))
    assert "update, delete" in error["message"]
    checked = connector.run(SOURCE, "check", config=config(table, publication="theirs"))
    assert "update, delete" in checked.connection_status["message"]


def test_nothing_is_made_when_it_may_not_be(table):
    catalog = catalog_of(table)
    error = failure(read(table, catalog, create_if_missing=False))
    assert "CREATE PUBLICATION" in error["message"]
    table.execute("create publication airbyte_publication for table t")
    error = failure(read(table, catalog, create_if_missing=False))
    assert "pg_create_logical_replication_slot" in error["message"]
    checked = connector.run(SOURCE, "check", config=config(table, create_if_missing=False))
    assert checked.connection_status["status"] == "FAILED"


def test_row_filter_and_column_list_hold_for_the_snapshot_too(table, source_cluster):
    if source_cluster.major < 15:
        pytest.skip("row filters and column lists came with PostgreSQL 15")
    table.execute("insert into t select i, 'v' || i from generate_series(2, 20) i")
    table.execute("alter table t add column hidden text default 'h'")
    table.execute("create publication theirs for table t (id, v) where (id > 10)")
    more = {"publication": "theirs"}
    catalog = catalog_of(table, **more)
    assert "hidden" not in catalog["streams"][0]["stream"]["json_schema"]["properties"]
    first = read(table, catalog, **more)
    assert sorted(row["id"] for row in first.records()) == list(range(11, 21))
    assert all("hidden" not in row for row in first.records())
    table.execute("update t set id = 100 where id = 1")
    table.execute("update t set id = 1 where id = 20")
    seen = [(row["id"], row["_ab_cdc_deleted_at"] is None) for row in read(table, catalog, first, **more).records()]
    assert seen == [(100, True), (20, False)]


def test_two_syncs_on_one_slot_exclude_each_other(table):
    catalog = catalog_of(table)
    first = read(table, catalog)
    table.execute("alter table t add column big text")
    table.execute("update t set big = repeat('x', 1000)")
    with table.connect() as blocker, blocker.cursor() as cursor:
        # A held lock on the key: what a running sync holds. The second gives way when it is released.
        key = table.value(
            "select ('x' || encode(substr(sha256(convert_to('airbyte-pg anchor ' || %s, 'utf8')), 1, 8), 'hex'))"
            "::bit(64)::bigint",
            slot_of(table),
        )
        cursor.execute("select pg_advisory_lock(%s)", ((key % (1 << 64)) >> 1,))
        with connector.start(
            SOURCE, "read", config=config(table), catalog=catalog, state=[last_state(first)]
        ) as second:
            second.wait_for(lambda message: message.get("type") == "TRACE")
            waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            wait_until(lambda: table.value(waiting) == 1, 20, "the second sync waits for the lock")
            assert second.exit_code is None
            cursor.execute("select pg_advisory_unlock_all()")
            outcome = second.finish()
    assert outcome.exit_code == 0, outcome
    assert len(outcome.records()) == 1
