"""What came back: the slot follows the state file while the source runs, and nothing else moves it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, confirmed, position_in, read, slot_of
from integration_tests.source.staying import keep, logs, sends, state_behind, stay, stopped
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until
from integration_tests.support.slots import only_one_free_slot

# So that a test sees it: else once a minute.
OFTEN: dict[str, Any] = {"acknowledge_from_state_file": True, "acknowledge_seconds": 0.1}


@pytest.fixture
def table(source_db):
    source_db.execute("create table t (id int primary key, v text)")
    return source_db


def expect_moved(database: Database, state: dict[str, Any]) -> None:
    """The slot comes to stand at the position of ``state``."""
    wait_until(lambda: confirmed(database) == position_in(state), 20, "the slot is moved")


def changed(state: dict[str, Any], **shared: Any) -> dict[str, Any]:
    """``state`` with other words in its shared part."""
    found = copy.deepcopy(state)
    found["global"]["shared_state"]["cdc"].update(shared)
    return found


def test_the_slot_follows_the_state_file(table, tmp_path):
    file = tmp_path / "state.json"
    catalog = catalog_of(table)
    with stay(table, catalog, state_file=file, **OFTEN) as run:
        state: dict[str, Any] = {}
        for key in (1, 2, 3):
            table.execute("insert into t values (%s, 'x')", key)
            state = state_behind(run, key)
            before = confirmed(table)
            keep(file, state)
            expect_moved(table, state)
            assert before != position_in(state)
        table.execute("insert into t values (4, 'not acknowledged')")
        sends(run, 4)
        stopped(run)
    assert confirmed(table) == position_in(state)
    # A sync that starts with what was acknowledged gets the rest.
    assert [row["id"] for row in read(table, catalog, [state]).records()] == [4]


def test_a_runner_s_word_in_the_environment_is_enough(table, tmp_path):
    file = tmp_path / "state.json"
    run = stay(
        table,
        catalog_of(table),
        state_file=file,
        environment={"AIRBYTE_PG_CONTINUOUS": "1"},
        run_mode="batch",
        acknowledge_from_state_file=False,
    )
    with run:
        table.execute("insert into t values (1, 'x')")
        state = state_behind(run, 1)
        keep(file, state)
        expect_moved(table, state)
        stopped(run)


def test_a_state_file_that_cannot_be_right_moves_nothing_and_is_told_once(table, tmp_path):
    file = tmp_path / "state.json"
    with stay(table, catalog_of(table), state_file=file, **OFTEN) as run:
        table.execute("insert into t values (1, 'x')")
        state = state_behind(run, 1)
        before = confirmed(table)
        wrong = {
            "The state cannot be read": "[{",
            "The state file is of another": changed(state, slot="another"),
            "The state file is of another ": changed(state, system_id="1"),
            "The state file is ahead": changed(state, lsn="FF/0"),
        }
        told = set[str]()
        for part, content in wrong.items():
            keep(file, content)
            if part.strip() not in told:
                run.wait_for(logs(f"stays where it is: {part}"))
            told.add(part.strip())
        assert confirmed(table) == before
        keep(file, state)
        expect_moved(table, state)
        outcome = stopped(run)
    warnings = [log["message"] for log in outcome.logs if "stays where it is" in log["message"]]
    assert len(warnings) == len(told)


def test_wal_is_let_go_of_on_both_slots_while_it_runs(table, tmp_path):
    """By acknowledgements, of tables that are not read and when nothing else happens, too."""
    table.execute("create table other (v text)")
    file = tmp_path / "state.json"
    with stay(table, catalog_of(table, only=["t"]), state_file=file, **OFTEN) as run:
        table.execute("insert into t values (1, 'x')")
        keep(file, state_behind(run, 1))
        table.execute("insert into other select repeat('x', 1000) from generate_series(1, 20000)")
        end = table.value("select pg_current_wal_flush_lsn()::text")
        behind = "select bool_and(restart_lsn >= %s::pg_lsn) from pg_replication_slots where database = %s"

        def is_let_go() -> bool:
            # As a server that is used does now and then: old positions go with such a record.
            table.execute("checkpoint")
            table.execute("insert into other values ('y')")
            states = [message["state"] for message in run.messages if message["type"] == "STATE"]
            keep(file, states[-1])
            return bool(table.value(behind, end, table.name))

        wait_until(is_let_go, 60, "both slots are behind what was written")
        assert table.value("select count(*) from pg_replication_slots where database = current_database()") == 2
        outcome = stopped(run)
    assert len(outcome.records()) == 1


def test_where_the_slot_itself_is_read_the_server_is_told_what_came_back(table, tmp_path):
    file = tmp_path / "state.json"
    with only_one_free_slot(table), stay(table, catalog_of(table), state_file=file, **OFTEN) as run:
        table.execute("insert into t values (1, 'x')")
        state = state_behind(run, 1)
        active = "select count(*) from pg_replication_slots where slot_name = %s and active"
        wait_until(lambda: table.value(active, slot_of(table)) == 1, 20, "it is read itself")
        table.execute("insert into t values (2, 'not acknowledged')")
        sends(run, 2)
        assert confirmed(table) != position_in(state)
        keep(file, state)
        expect_moved(table, state)
        stopped(run)
    assert confirmed(table) == position_in(state)
