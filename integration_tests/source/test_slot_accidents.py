"""The accidents of slot and server: each told apart, each with its own message and remedy; and who may use a slot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extras import LogicalReplicationConnection

from integration_tests.source.reading import catalog_of, config, failure, last_state, read, slot_of
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE, Outcome
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, wait_until
from source_postgres_cdc import lsn, server, slot

PASSWORD = "member-secret"


@pytest.fixture
def table(source_db: Database) -> Database:
    source_db.execute("create table t (id int primary key, v text)")
    source_db.execute("insert into t values (1, 'a')")
    return source_db


@pytest.fixture
def member(table: Database) -> Iterator[str]:
    """A user that is only a member of a role with REPLICATION, and owns the table."""
    user, role = f"member_{table.name}", f"replicator_{table.name}"
    table.execute(f"create role {role} replication")
    table.execute(f"create role {user} login password '{PASSWORD}' in role {role}")
    table.execute(f"alter table t owner to {user}; grant create on database {table.name} to {user}")
    yield user
    table.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", user)
    table.execute(f"drop owned by {user}")
    table.execute(f"drop role {user}; drop role {role}")


def as_user(database: Database, user: str, **more: Any) -> dict[str, Any]:
    return {**config(database, **more), "username": user, "password": PASSWORD}


def test_check_accepts_a_mere_member_and_says_what_it_misses(table, member):
    checked = connector.run(SOURCE, "check", config=as_user(table, member))
    assert checked.connection_status == {"status": "SUCCEEDED"}, checked
    (warning,) = [entry["message"] for entry in checked.logs if entry["level"] == "WARN"]
    remedy = warning.partition("run: ")[2]
    assert remedy == f'ALTER ROLE "{member}" REPLICATION;'
    table.execute(remedy)
    assert connector.run(SOURCE, "check", config=as_user(table, member)).logs == []


def test_a_mere_member_makes_and_moves_the_slot_as_the_role_and_is_itself_again(table, member):
    if table.server.major < 11:
        pytest.skip("pg_replication_slot_advance came with PostgreSQL 11")
    with closing(table.connect(user=member, password=PASSWORD)) as session:
        assert server.replication_role(session) == f"replicator_{table.name}"
        slot.create(session, slot_of(table))
        table.execute("create table other (id int)")
        made = slot.find(session, session.server_version, slot_of(table))
        target = lsn.parse(table.value("select pg_current_wal_flush_lsn()::text"))
        assert made is not None
        slot.advance(session, made, target, 60)
        moved = slot.find(session, session.server_version, slot_of(table))
        assert moved is not None
        assert moved.confirmed_lsn == target
        assert server.value(session, "select current_user") == member
        # Who has the attribute needs to become nobody.
        table.execute(f"alter role {member} replication")
        assert server.replication_role(session) is None


def test_a_member_who_may_not_become_the_role_is_refused(table, member):
    if table.server.major < 16:
        pytest.skip("before PostgreSQL 16 every member may SET ROLE")
    table.execute(f"grant replicator_{table.name} to {member} with set false")
    checked = connector.run(SOURCE, "check", config=as_user(table, member)).connection_status
    assert "may not replicate" in checked["message"]


RESYNC = {"invalid_cdc_cursor_position_behavior": "Re-sync data"}
SLOT = "select pg_create_logical_replication_slot(%s, 'pgoutput')"


def warnings(outcome: Outcome) -> str:
    return "\n".join(entry["message"] for entry in outcome.logs if entry["level"] == "WARN")


def truncating(catalog: dict[str, Any]) -> dict[str, Any]:
    """The catalog of a refresh that removes what is there."""
    return {"streams": [{**entry, "generation_id": 7, "minimum_generation_id": 7} for entry in catalog["streams"]]}


def drop_slot(database: Database) -> None:
    database.execute("select pg_drop_replication_slot(%s)", slot_of(database))


def invalidate(database: Database) -> None:
    """Have the server remove WAL that the slot needs."""
    database.execute("alter system set max_slot_wal_keep_size = '1MB'")
    database.execute("select pg_reload_conf()")
    lost = "select wal_status = 'lost' from pg_replication_slots where slot_name = %s"

    def is_lost() -> bool:
        database.execute("select pg_logical_emit_message(false, '', 'x'); select pg_switch_wal()")
        database.execute("checkpoint")
        return bool(database.value(lost, slot_of(database)))

    try:
        wait_until(is_lost, 30, "the slot is lost")
    finally:
        database.execute("alter system reset max_slot_wal_keep_size")
        database.execute("select pg_reload_conf()")


def walsender(database: Database, application_name: str) -> Any:
    """A replication connection, to be closed."""
    given = config(database)
    return psycopg2.connect(
        host=given["host"],
        port=given["port"],
        dbname=given["database"],
        user=given["username"],
        password=given["password"],
        application_name=application_name,
        connection_factory=LogicalReplicationConnection,
    )


def test_a_slot_of_another_plugin_is_refused(table):
    try:
        table.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", slot_of(table))
    except psycopg2.errors.UndefinedFile:
        pytest.skip("this server has no test_decoding")
    error = failure(read(table, catalog_of(table)))
    assert "uses the plugin test_decoding" in error["message"]
    assert "test_decoding" in connector.run(SOURCE, "check", config=config(table)).connection_status["message"]


def test_a_temporary_slot_is_refused_even_to_be_made_anew(table):
    with closing(table.connect()) as session, session.cursor() as cursor:
        cursor.execute("select pg_create_logical_replication_slot(%s, 'pgoutput', true)", (slot_of(table),))
        assert "is temporary" in failure(read(table, catalog_of(table), **RESYNC))["message"]


def test_a_slot_that_another_consumer_streams_is_transient_and_names_it(table):
    catalog = catalog_of(table)
    first = read(table, catalog)
    with closing(walsender(table, "somebody else")) as other:
        options = {"proto_version": "1", "publication_names": "airbyte_publication"}
        other.cursor().start_replication(slot_name=slot_of(table), options=options)
        error = failure(read(table, catalog, first, initial_waiting_seconds=1))
        assert error["failure_type"] == "transient_error"
        assert f"pid {other.info.backend_pid}, somebody else" in error["message"]
        checked = connector.run(SOURCE, "check", config=config(table))
        assert checked.connection_status["status"] == "SUCCEEDED"
        assert "somebody else" in warnings(checked)
    # Its end is waited for.
    assert read(table, catalog, first).exit_code == 0


def test_an_invalidated_slot_is_told_and_made_anew_on_request(table):
    if table.server.major < 13:
        pytest.skip("max_slot_wal_keep_size came with PostgreSQL 13")
    catalog = catalog_of(table)
    first = read(table, catalog)
    invalidate(table)
    error = failure(read(table, catalog, first))
    assert error["failure_type"] == "config_error"
    assert "WAL that it needs was removed" in error["message"]
    assert "max_slot_wal_keep_size" in error["message"]
    message = connector.run(SOURCE, "check", config=config(table)).connection_status["message"]
    assert "invalidated" in message
    table.execute("insert into t values (2)")
    for given in (first, None):
        again = read(table, catalog, given, **RESYNC)
        assert again.exit_code == 0, again
        assert sorted(row["id"] for row in again.records()) == [1, 2]
        assert "invalidated" in warnings(again)
        table.execute("delete from t where id = 1")
        (deleted,) = read(table, catalog, again, **RESYNC).records()
        assert deleted["_ab_cdc_deleted_at"] is not None
        table.execute("insert into t values (1)")
        invalidate(table)


def test_a_dropped_slot_is_made_anew_on_request_and_what_stays_is_said(table):
    catalog = catalog_of(table)
    first = read(table, catalog)
    drop_slot(table)
    table.execute("delete from t; insert into t values (2)")
    # Not where nothing may be made, or no table is read whole.
    for option in ("create_if_missing", "initial_load"):
        assert "is gone" in failure(read(table, catalog, first, **RESYNC, **{option: False}))["message"]
    second = read(table, catalog, first, **RESYNC)
    assert [row["id"] for row in second.records()] == [2]
    assert "is gone" in warnings(second)
    assert "until the streams are refreshed" in warnings(second)
    drop_slot(table)
    refreshed = read(table, truncating(catalog), second, **RESYNC)
    assert [row["id"] for row in refreshed.records()] == [2]
    assert "until the streams are refreshed" not in warnings(refreshed)
    table.execute("insert into t values (3)")
    assert [row["id"] for row in read(table, catalog, refreshed, **RESYNC).records()] == [3]


def test_a_slot_ahead_of_the_state_leads_to_a_new_reading_on_request(table):
    catalog = catalog_of(table)
    first = read(table, catalog)
    drop_slot(table)
    table.execute("insert into t values (2)")
    table.execute(SLOT, slot_of(table))
    assert "ahead of the state" in failure(read(table, catalog, first))["message"]
    second = read(table, catalog, first, **RESYNC)
    assert [row["id"] for row in second.records()] == [1, 2]
    assert "ahead of the state" in warnings(second)


@pytest.mark.parametrize(("key", "value"), [("system_id", "1"), ("lsn", "FF/0")])
def test_another_server_is_read_anew_only_as_a_refresh(table, key, value):
    catalog = catalog_of(table)
    state = last_state(read(table, catalog))
    state["global"]["shared_state"]["cdc"][key] = value
    error = failure(read(table, catalog, state, **RESYNC))
    assert error["failure_type"] == "config_error"
    assert "only as a refresh" in error["message"]
    again = read(table, truncating(catalog), state, **RESYNC)
    assert [row["id"] for row in again.records()] == [1]


def test_the_server_is_known_without_its_control_functions_too(table, member):
    table.execute("revoke execute on function pg_control_system() from public")
    table.execute(f"alter role {member} replication")
    catalog = catalog_of(table)
    outcome = connector.run(SOURCE, "read", config=as_user(table, member), catalog=catalog)
    known = last_state(outcome)["global"]["shared_state"]["cdc"]
    assert known["system_id"] == str(table.value("select system_identifier from pg_control_system()"))
    assert known["timeline"] == 1


@pytest.fixture
def restorable(source_cluster: Any) -> Iterator[Database]:
    """A table on a server of its own, whose data are saved behind a first sync."""
    if not isinstance(source_cluster, Cluster):
        pytest.skip("needs a server that can be stopped")
    if source_cluster.major < 12:
        pytest.skip("recovery.signal came with PostgreSQL 12")
    with Cluster(source_cluster.binaries) as cluster, Database(cluster) as database:
        database.execute("create table t (id int primary key, v text); insert into t values (1, 'a')")
        yield database


def test_a_restore_to_a_point_in_time_is_told_by_the_timeline(restorable):
    catalog = catalog_of(restorable)
    before = read(restorable, catalog)
    restorable.server.save()
    restorable.execute("insert into t values (2)")
    target = restorable.value("select pg_current_wal_flush_lsn()::text")
    between = read(restorable, catalog, before)
    restorable.execute("insert into t values (3)")
    after = read(restorable, catalog, between)
    restorable.server.restore(target)
    assert restorable.rows("select id from t order by id") == [(1,), (2,)]
    # Past the positions of before: nothing but the timeline tells it.
    restorable.execute("create table filler as select repeat('x', 1000) from generate_series(1, 5000)")
    restorable.execute("insert into t values (4)")
    error = failure(read(restorable, catalog, after))
    assert error["failure_type"] == "config_error"
    assert "was restored" in error["message"]
    # Who may not ask for the history of timelines is told what would help.
    restorable.execute(f"create role poor login password '{PASSWORD}'; grant select on t to poor")
    poor = connector.run(SOURCE, "read", config=as_user(restorable, "poor"), catalog=catalog, state=[last_state(after)])
    assert 'ALTER ROLE "poor" REPLICATION' in failure(poor)["message"]
    # What had not seen more than the restored server goes on, on its timeline.
    onward = read(restorable, catalog, before)
    assert [row["id"] for row in onward.records()] == [2, 4]
    assert json.dumps(last_state(onward)["global"]["shared_state"]["cdc"]["timeline"]) == "2"
    assert "only as a refresh" in failure(read(restorable, catalog, after, **RESYNC))["message"]
    again = read(restorable, truncating(catalog), after, **RESYNC)
    assert [row["id"] for row in again.records()] == [1, 2, 4]
    assert read(restorable, catalog, again).records() == []


def test_failover_slots_need_a_server_that_has_them(table):
    if table.server.major >= 17:
        pytest.skip("this one has them")
    error = failure(read(table, catalog_of(table), failover=True))
    assert error["failure_type"] == "config_error"
    assert "PostgreSQL 17" in error["message"]


@pytest.fixture
def standby(destination_db: Database) -> Iterator[Database]:
    """A table, and a physical slot that failover slots wait for."""
    if destination_db.server.major < 17:
        pytest.skip("failover slots came with PostgreSQL 17")
    name = f"standby_{destination_db.name}"
    destination_db.execute("create table t (id int primary key); insert into t values (1)")
    destination_db.execute("select pg_create_physical_replication_slot(%s, true)", name)
    destination_db.execute(f"alter system set synchronized_standby_slots = '{name}'")
    destination_db.execute("select pg_reload_conf()")
    yield destination_db
    destination_db.execute("alter system reset synchronized_standby_slots")
    destination_db.execute("select pg_reload_conf()")
    destination_db.execute("select pg_drop_replication_slot(%s)", name)


def test_a_failover_slot_is_read_only_as_far_as_its_standbys_are(standby):
    catalog = catalog_of(standby)
    lagging = failure(read(standby, catalog, failover=True, initial_waiting_seconds=1))
    assert lagging["failure_type"] == "transient_error"
    assert f"standby_{standby.name}" in lagging["message"]
    failover = "select failover from pg_replication_slots where slot_name = %s"
    assert standby.value(failover, slot_of(standby)) is True
    confirm = "select pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())"
    with connector.start(SOURCE, "read", config=config(standby, failover=True), catalog=catalog) as sync:

        def is_over() -> bool:
            standby.execute(confirm, f"standby_{standby.name}")
            return sync.exit_code is not None

        wait_until(is_over, 30, "the sync ends when the standby has everything")
        outcome = sync.finish()
    assert outcome.exit_code == 0, outcome
    assert "without failover" not in warnings(outcome)
    # A slot that its standbys hold back is not waited for without an end.
    standby.execute("insert into t values (2)")
    state = last_state(outcome)
    state["global"]["shared_state"]["cdc"]["lsn"] = standby.value("select pg_current_wal_flush_lsn()::text")
    error = failure(read(standby, catalog, state, failover=True, initial_waiting_seconds=1))
    assert error["failure_type"] == "transient_error"
    assert "synchronized_standby_slots" in error["message"]


def test_the_heartbeat_runs_once_per_sync_as_the_user_and_its_failure_is_a_warning(table):
    table.execute("create table beats (who text, at timestamptz)")
    beat = {"heartbeat_action_query": "insert into beats values (current_user, now())"}
    catalog = catalog_of(table, only=["t"])
    first = read(table, catalog, **beat)
    assert first.exit_code == 0, first
    assert table.value("select count(*) from beats") == 1
    second = read(table, catalog, first, heartbeat_action_query="select secret_value from nowhere where x like '%d'")
    assert second.exit_code == 0, second
    assert "heartbeat_action_query failed" in warnings(second)
    assert "nowhere" not in warnings(second)
    # Before the end of the sync is set: what it writes to a followed table is in the same sync.
    beat = {"heartbeat_action_query": "insert into t values (7); update t set v = 'b' where id = 7"}
    assert [row["id"] for row in read(table, catalog, second, **beat).records()] == [7, 7]


def test_a_slot_without_failover_is_told_and_the_remedy_works(standby):
    catalog = catalog_of(standby)
    first = read(standby, catalog)
    checked = connector.run(SOURCE, "check", config=config(standby, failover=True))
    said = warnings(checked)
    assert "without failover" in said
    with closing(walsender(standby, "remedy")) as session:
        session.cursor().execute(said.partition("run: ")[2])
    assert warnings(connector.run(SOURCE, "check", config=config(standby, failover=True))) == ""
    assert first.exit_code == 0
