"""What happens to tables, publication and server behind a connection's back: told, never followed blindly."""

from __future__ import annotations

import threading

import pytest

from integration_tests.source.reading import catalog_of, config, failure, last_state, read
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE
from integration_tests.support.pgserver import wait_until


@pytest.fixture
def table(source_db):
    source_db.execute("create table t (id int primary key, v text)")
    source_db.execute("insert into t values (1, 'a')")
    return source_db


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["drop table t", "create table t (id int primary key, v text)"], "made anew"),
        (
            [
                "create table t2 (id int primary key, v text)",
                "alter table t rename to t1",
                "alter table t2 rename to t",
            ],
            "another table",
        ),
        (["alter publication airbyte_publication drop table t"], "not in the publication"),
        (
            ["drop publication airbyte_publication", "create publication airbyte_publication for table t"],
            "not in the publication",
        ),
        (["alter table t drop constraint t_pkey", "alter table t add primary key (id, v)"], "primary key"),
    ],
    ids=["recreated", "swapped", "out for a while", "publication recreated", "key changed"],
)
def test_a_table_that_could_not_be_followed_is_told(table, statements, words):
    catalog = catalog_of(table)
    first = read(table, catalog)
    for statement in statements:
        table.execute(statement)
    error = failure(read(table, catalog, first))
    assert error["failure_type"] == "config_error"
    assert words in error["message"]
    # The remedy: a refresh of the stream, which the platform says by a null state.
    state = last_state(first)
    for stream in state["global"]["stream_states"]:
        stream["stream_state"] = None
    assert read(table, catalog_of(table), state).exit_code == 0


def test_a_column_that_may_not_be_read_any_more_is_refused(table):
    role = f"reader_{table.name}"
    table.execute(f"create role {role} login replication password 'reader-secret'")
    table.execute(f"grant select on t to {role}")
    table.execute("create publication airbyte_publication for table t")
    mine = {**config(table), "username": role, "password": "reader-secret"}
    catalog = catalog_of(table)
    first = connector.run(SOURCE, "read", config=mine, catalog=catalog)
    assert first.exit_code == 0, first
    table.execute(f"revoke select on t from {role}")
    table.execute(f"grant select (id) on t to {role}")
    error = failure(connector.run(SOURCE, "read", config=mine, catalog=catalog, state=[last_state(first)]))
    assert "may not read columns" in error["message"]
    table.execute(f"drop owned by {role}")
    table.execute(f"drop role {role}")


def test_a_state_of_another_database_is_refused(table):
    catalog = catalog_of(table)
    state = last_state(read(table, catalog))
    state["global"]["shared_state"]["cdc"]["database"] = "elsewhere"
    assert "database elsewhere" in failure(read(table, catalog, state))["message"]


def test_without_a_state_an_old_slot_is_no_burden(table):
    # Airbyte's own guide makes the slot first: changes before the publication cannot be decoded, and need not be.
    slot = f"slot_{table.name}"
    table.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", slot)
    table.execute("insert into t select i, 'x' from generate_series(2, 100) i")
    outcome = read(table, catalog_of(table))
    assert outcome.exit_code == 0, outcome
    assert len(outcome.records()) == 100


def test_a_table_rewritten_while_another_is_read_is_not_taken_for_empty(source_db):
    source_db.execute("create table a (id int primary key, v text)")
    source_db.execute("insert into a select i, repeat('x', 5000) from generate_series(1, 20000) i")
    source_db.execute("create table b (id int primary key, v int)")
    source_db.execute("insert into b select i, i from generate_series(1, 1000) i")
    catalog = catalog_of(source_db)
    with connector.start(SOURCE, "read", config=config(source_db), catalog=catalog) as sync:
        sync.wait_for(lambda message: message.get("type") == "RECORD")
        source_db.execute("alter table b alter v type bigint")
        outcome = sync.finish()
    if outcome.exit_code == 0:
        # The snapshot was done with b before the rewrite came.
        assert len(outcome.records("b")) == 1000
    else:
        assert failure(outcome)["failure_type"] == "transient_error"
        assert "rewritten" in failure(outcome)["message"]
    again = read(source_db, catalog_of(source_db))
    assert len(again.records("b")) == 1000


def test_a_sync_ends_soon_while_somebody_idles_in_a_transaction(table):
    catalog = catalog_of(table)
    first = read(table, catalog)
    with table.connect() as session, session.cursor() as cursor:
        cursor.execute("begin")
        cursor.execute("create temporary table x on commit drop as select 1")
        cursor.execute("insert into t select i, repeat('y', 100) from generate_series(2, 500) i")
        with connector.start(SOURCE, "read", config=config(table), catalog=catalog, state=[last_state(first)]) as sync:
            # The server would write on by itself after 15 seconds at the earliest.
            outcome = sync.finish(timeout=10)
        cursor.execute("rollback")
    assert outcome.exit_code == 0, outcome
    assert outcome.records() == []


def test_a_commit_that_waits_for_a_standby_is_sent_with_its_own_values(source_db):
    source_db.execute("create table docs (id int primary key, n int, body text)")
    source_db.execute("alter table docs alter body set storage external")
    source_db.execute("insert into docs values (1, 0, repeat('a', 20000))")
    catalog = catalog_of(source_db)
    first = read(source_db, catalog)
    done = threading.Event()

    def update() -> None:
        with source_db.connect() as session, session.cursor() as cursor:
            cursor.execute(
                "begin; update docs set body = repeat('b', 20000) where id = 1;"
                " update docs set n = 1 where id = 1; commit"
            )
        done.set()

    set_standby(source_db, "'nobody'")
    writer = threading.Thread(target=update)
    writer.start()
    try:
        waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
        wait_until(lambda: source_db.value(waiting) == 1, 10, "the commit waits")
        with connector.start(
            SOURCE, "read", config=config(source_db), catalog=catalog, state=[last_state(first)]
        ) as sync:
            looks = (
                "select count(*) from pg_stat_activity"
                " where application_name = 'source-postgres-cdc' and query like '%txid_current_snapshot%'"
            )
            wait_until(lambda: source_db.value(looks) == 1, 20, "the sync waits until the commit can be seen")
            set_standby(source_db, "''")
            outcome = sync.finish()
    finally:
        set_standby(source_db, "''")
        writer.join(30)
    assert done.is_set()
    assert outcome.exit_code == 0, outcome
    assert [(row["n"], row["body"][:1]) for row in outcome.records()][-1] == (1, "b")


def set_standby(database, names: str) -> None:
    database.execute(f"alter system set synchronous_standby_names = {names}")
    database.execute("select pg_reload_conf()")
    wait_until(lambda: f"'{database.value('show synchronous_standby_names')}'" == names, 10, "the setting holds")
