"""A continuous run: changes as they are committed, to an end in order; and what is altered while it runs."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, position_in, read
from integration_tests.source.staying import ended, has_value, logs, positions, sends, stay, stopped
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until


@pytest.fixture
def table(source_db):
    source_db.execute("create table t (id int primary key, v text)")
    source_db.execute("insert into t values (1, 'before')")
    return source_db


def test_changes_come_while_it_runs_and_sigterm_ends_it_in_order(table):
    catalog = catalog_of(table)
    with stay(table, catalog) as run:
        sends(run, 1)
        for key in (2, 3):
            table.execute("insert into t values (%s, 'while')", key)
            sends(run, key)
        outcome = stopped(run)
    assert [row["id"] for row in outcome.records()] == [1, 2, 3]
    # A sync that is started with the last state has nothing more to send.
    after = read(table, catalog, outcome)
    assert (after.exit_code, after.records()) == (0, [])


def test_a_change_does_not_wait_for_a_state(table):
    with stay(table, catalog_of(table), sync_checkpoint_seconds=600) as run:
        for key in (2, 3, 4):
            table.execute("insert into t values (%s, 'x')", key)
            sends(run, key, deadline=20)
        said = sum(message["type"] == "STATE" for message in run.messages)
        outcome = stopped(run)
    assert len(outcome.states) == said + 1


def test_sigterm_does_not_wait_for_the_end_of_a_large_transaction(table):
    """It would be killed: better a state from before, and rows that come again."""
    catalog = catalog_of(table)
    with stay(table, catalog) as run:
        sends(run, 1)
        table.execute("insert into t select i, repeat('x', 100) from generate_series(2, 200000) i")
        sends(run, 2)
        outcome = stopped(run)
    after = read(table, catalog, outcome)
    assert {row["id"] for row in [*outcome.records(), *after.records()]} == set(range(1, 200001))


def test_it_ends_by_itself_after_max_run_seconds(table):
    with stay(table, catalog_of(table), max_run_seconds=1) as run:
        outcome = ended(run)
    assert len(outcome.records()) == 1


def test_what_nobody_reads_holds_up_the_run_but_not_its_answers(table):
    """Keep-alives are answered while the output is blocked; a server would take the source for dead."""
    with stay(table, catalog_of(table), held=True) as run:
        wait_until(lambda: _answered(table), 30, "it streams")
        table.execute("insert into t select i, repeat('x', 1000) from generate_series(2, 30000) i")
        wait_until(lambda: _waits_to_send(table), 30, "the server cannot send more")
        first = _answered(table)
        wait_until(lambda: _answered(table) > first, 30, "an answer has come")
        assert _waits_to_send(table)
        run.release()
        sends(run, 30000)
        stopped(run)


def test_a_reader_that_goes_ends_the_run(table):
    with stay(table, catalog_of(table), held=True) as run:
        wait_until(lambda: _answered(table), 30, "it streams")
        run.stop_reading()
        table.execute("insert into t values (2, 'x')")
        wait_until(lambda: run.exit_code is not None, 20, "the run has ended")
        assert run.exit_code == 1


def test_a_state_comes_for_the_wal_of_others_too_and_none_when_nothing_happens(table):
    table.execute("create table other (id int)")
    with stay(table, catalog_of(table, only=["t"])) as run:
        sends(run, 1)
        table.execute("insert into other values (1)")
        end = table.value("select pg_current_wal_flush_lsn()")
        run.wait_for(lambda message: message["type"] == "STATE" and _is_behind(message["state"], end))
        outcome = stopped(run)
    # But for the last one, which is said whatever it says.
    said = positions(outcome)[:-1]
    assert len(said) - len(set(said)) <= 1


def test_the_heartbeat_goes_on(table):
    table.execute("create table beats (at timestamptz default clock_timestamp())")
    with stay(table, catalog_of(table, only=["t"]), heartbeat_action_query="insert into beats default values") as run:
        wait_until(lambda: table.value("select count(*) from beats") >= 2, 50, "it beats again")
        stopped(run)


def test_a_column_that_the_catalog_does_not_know_is_left_out(table):
    with stay(table, catalog_of(table)) as run:
        sends(run, 1)
        table.execute("alter table t add column n int default 7")
        table.execute("insert into t values (2, 'x', 8)")
        sends(run, 2)
        outcome = stopped(run)
    assert all("n" not in row for row in outcome.records())


def test_a_runner_is_told_that_the_catalog_is_outdated(table):
    """And all that was read is whole: it discovers again and goes on."""
    with stay(table, catalog_of(table), environment={"AIRBYTE_PG_CONTINUOUS": "1"}) as run:
        sends(run, 1)
        table.execute("alter table t add column n int default 7")
        table.execute("insert into t values (2, 'x', 8)")
        outcome = ended(run, exit_code=66)
    assert outcome.error is None
    assert "discovered anew" in str(outcome.logs)
    after = read(table, catalog_of(table), outcome)
    assert {row["id"]: row["n"] for row in after.records()} == {1: 7, 2: 8}


def test_a_new_table_ends_the_run_where_a_runner_can_take_it_in(table):
    with stay(table, catalog_of(table), environment={"AIRBYTE_PG_CONTINUOUS": "1"}) as run:
        sends(run, 1)
        table.execute("create table u (id int primary key)")
        outcome = ended(run, exit_code=66)
    assert "new tables" in str(outcome.logs)


def test_a_column_of_another_type_has_the_table_read_again(table):
    table.execute("create table u (id int primary key)")
    with stay(table, catalog_of(table)) as run:
        sends(run, 1)
        table.execute("alter table t add column w text; alter table t alter column v type int using 5")
        table.execute("insert into t values (2, 6)")
        run.wait_for(has_value("v", 5), 60)
        sends(run, 2)
        table.execute("insert into u values (1)")
        sends(run, 1, "u")
        table.execute("insert into t values (3, 7)")
        sends(run, 3)
        outcome = stopped(run)
    last = {row["id"]: row["v"] for row in outcome.records("t")}
    assert last == {1: 5, 2: 6, 3: 7}


def test_a_dropped_table_does_not_end_the_others(table):
    table.execute("create table u (id int primary key)")
    with stay(table, catalog_of(table)) as run:
        table.execute("insert into u values (1)")
        sends(run, 1, "u")
        table.execute("drop table u")
        table.execute("create table v (id int primary key)")
        run.wait_for(logs("The other streams go on without it"), 60)
        table.execute("insert into t values (2, 'x')")
        sends(run, 2)
        run.terminate()
        outcome = run.finish()
    assert outcome.exit_code == 0
    assert {stream: said[-1] for stream, said in outcome.statuses.items()} == {"t": "COMPLETE", "u": "INCOMPLETE"}
    assert read(table, catalog_of(table, only=["t"]), outcome).records() == []


def test_a_truncate_is_told_while_it_runs(table):
    with stay(table, catalog_of(table), truncate_handling="propagate") as run:
        sends(run, 1)
        table.execute("truncate t")
        run.wait_for(has_value("_ab_cdc_truncate", True))
        table.execute("insert into t values (1, 'again')")
        run.wait_for(has_value("v", "again"))
        stopped(run)


def test_a_partition_that_comes_while_it_runs_is_read(source_db):
    if source_db.server.major < 13:
        pytest.skip("partitioned tables can be followed from 13 on")
    source_db.execute("create table t (id int primary key, v text) partition by range (id)")
    source_db.execute("create table t_1 partition of t for values from (0) to (10)")
    source_db.execute("insert into t values (1, 'x')")
    with stay(source_db, catalog_of(source_db, only=["t"])) as run:
        sends(run, 1)
        source_db.execute("create table t_2 (id int primary key, v text)")
        source_db.execute("insert into t_2 values (11, 'before')")
        source_db.execute("alter table t attach partition t_2 for values from (10) to (20)")
        sends(run, 11)
        source_db.execute("insert into t values (12, 'after')")
        sends(run, 12)
        stopped(run)


def _answered(database: Database) -> Any:
    """When the walsender has last heard of the run; None where there is none."""
    found = database.rows(
        "select reply_time from pg_stat_replication r join pg_stat_activity a using (pid) where a.datname = %s",
        database.name,
    )
    return found[0][0] if found else None


def _waits_to_send(database: Database) -> bool:
    return bool(database.value("select count(*) from pg_stat_activity where wait_event = 'WalSenderWriteData'"))


def _is_behind(state: dict[str, Any], position: str) -> bool:
    return _number(position_in(state)) >= _number(position)


def _number(lsn: str) -> int:
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)
