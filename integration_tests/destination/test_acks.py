"""STATE lines come back after the commit that covers them, at once, as they came; and nothing acknowledged is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from integration_tests.destination.writing import (
    USERS,
    is_state,
    line,
    one,
    own_tables,
    raw_count,
    record,
    records,
    state,
    status,
    sync,
    users,
    write,
)
from integration_tests.support import connector
from integration_tests.support.catalogs import configured, merged
from integration_tests.support.connector import DESTINATION, Running
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded, wait_until

SOON_S = 0.2
WAITING = (
    "select count(*) from pg_stat_activity where application_name = 'destination-postgres' and wait_event_type = 'Lock'"
)


def start(db: Database, catalog: dict[str, Any] | None = None, **options: Any) -> Running:
    """A sync that flushes soon, unless ``options`` say otherwise."""
    config = db.config(schema="public", **(options or {"flush_seconds": SOON_S}))
    return connector.start(DESTINATION, "write", config=config, catalog=catalog or one())


def test_rows_of_a_slow_stream_become_visible_and_are_acknowledged_while_stdin_stays_open(destination_db):
    with start(destination_db, flush_seconds=1.5) as running:
        running.write(record({"id": 1, "name": "a"}) + state(1, id=7, sourceStats={"recordCount": 1.0}))
        message = running.wait_for(is_state)
        assert users(destination_db) == [(1, "a")]
        assert raw_count(destination_db) == 1
        running.write(record({"id": 2, "name": "b"}))
        wait_until(lambda: len(users(destination_db)) == 2, 30, "rows without a STATE behind them are written too")
        running.write(state(2))
        running.wait_for(is_state, count=2)
        running.write(status())
        outcome = running.finish()
    assert outcome.exit_code == 0
    assert message["state"]["id"] == 7
    assert message["state"]["destinationStats"] == {"recordCount": 1}


def test_states_are_returned_byte_for_byte_with_the_count(destination_db):
    given = (
        b'{"type":"STATE","later":[1.0],"state":{"type":"STREAM","stream":{"stream_descriptor":{"name":"users",'
        b'"namespace":"public"},"stream_state":{"n":1E400,"d":0.10, "s":"\\u00e9\\n"}},"id":7,"x":null}}\n'
    )
    outcome = sync(destination_db, one(), records([{"id": 1}, {"id": 2}]) + given)
    assert [line for line in outcome.lines if b'"STATE"' in line] == [
        given[:-3] + b',"destinationStats":{"recordCount":2.0}}}\n'
    ]


def test_counts_add_up_for_each_kind_of_state(destination_db):
    orders = {**USERS, "name": "orders"}
    lines = [
        records([{"id": 1}, {"id": 2}]),
        record({"id": 1}, "orders"),
        state(1),
        state(2, "orders"),
        record({"id": 3}),
        state(3),
        state(4, "orders"),
        record({"id": 2}, "orders"),
    ]
    outcome = sync(destination_db, configured([USERS, orders], destination="append"), b"".join(lines) + state(5))
    assert [found["destinationStats"]["recordCount"] for found in outcome.states] == [2, 1, 1, 0, 0]
    lines = [records([{"id": 4}]), record({"id": 3}, "orders"), state(6, None), state(7, None)]
    outcome = sync(destination_db, configured([USERS, orders], destination="append"), b"".join(lines))
    assert [found["destinationStats"]["recordCount"] for found in outcome.states] == [2, 0]
    legacy = line("STATE", state={"data": {"a": 1}})
    outcome = sync(destination_db, configured([USERS, orders], destination="append"), records([{"id": 5}]) + legacy)
    assert outcome.states == [{"data": {"a": 1}, "destinationStats": {"recordCount": 1}}]


def test_a_sync_of_states_only_returns_them_at_once(destination_db):
    with start(destination_db, flush_seconds=3600) as running:
        for number in (1, 2):
            running.write(state(number, None))
            running.wait_for(is_state, count=number)
        running.write(status())
        assert running.finish().exit_code == 0


@pytest.mark.parametrize("destination", ["append", "append_dedup"])
def test_no_state_leaves_before_the_commit(destination_db, destination):
    sync(destination_db, one(destination=destination), b"")
    blocker = destination_db.connect()
    blocker.autocommit = False
    with start(destination_db, one(destination=destination)) as running, blocker.cursor() as cursor:
        # Held from here on, so that the rows can be copied and not be committed: the final table is locked.
        running.write(state(0, None))
        running.wait_for(is_state)
        cursor.execute("lock table public.users in access exclusive mode")
        running.write(record({"id": 1, "name": "a"}) + state(1))
        wait_until(lambda: destination_db.value(WAITING) == 1, 30, "the flush waits for the lock")
        assert sum(map(is_state, running.messages)) == 1
        blocker.rollback()
        running.wait_for(is_state, count=2)
        assert users(destination_db) == [(1, "a")]
        running.write(status())
        assert running.finish().exit_code == 0
    blocker.close()


def test_a_deadlock_with_another_session_is_tried_again(destination_db):
    sync(destination_db, one(), b"")
    blocker = destination_db.connect()
    blocker.autocommit = False
    with start(destination_db) as running, blocker.cursor() as cursor:
        running.write(state(0, None))
        running.wait_for(is_state)
        # The destination writes final, then raw. We hold raw and want final: one of us must give way. Our patience is
        # the longer one, so it is the destination.
        raw = "airbyte_internal.public_raw__stream_users"
        cursor.execute(f"set deadlock_timeout = '20s'; lock table {raw} in access exclusive mode")
        running.write(record({"id": 1, "name": "a"}) + state(1))
        wait_until(lambda: destination_db.value(WAITING) == 1, 30, "the flush waits for the lock")
        cursor.execute("lock table public.users in access exclusive mode")
        blocker.rollback()
        running.wait_for(is_state, count=2)
        running.write(status())
        outcome = running.finish()
    blocker.close()
    assert outcome.exit_code == 0
    assert any("tried again: sqlstate=40P01" in log["message"] for log in outcome.logs)
    assert users(destination_db) == [(1, "a")]
    assert raw_count(destination_db) == 1


@pytest.mark.parametrize("value", [None, "INCOMPLETE"])
def test_a_stream_without_complete_is_written_acknowledged_and_fails(destination_db, value):
    lines = record({"id": 1, "name": "a"}) + state(1) + (status(value=value) if value else b"")
    outcome = write(destination_db, one(), lines)
    assert outcome.exit_code == 1
    assert users(destination_db) == [(1, "a")]
    assert [found["destinationStats"]["recordCount"] for found in outcome.states] == [1]
    errors = [trace for trace in outcome.traces if trace["type"] == "ERROR"]
    assert len(errors) == 1
    assert errors[0]["error"]["failure_type"] == "transient_error"
    assert b'"ERROR"' in outcome.lines[-1]


def test_a_runner_without_statuses_completes_by_the_end_of_its_input(destination_db):
    for rows in ([1], [2, 3]):
        lines = records({"id": number, "name": "a"} for number in rows) + state(1)
        outcome = write(destination_db, one(destination="overwrite"), lines, require_stream_status=False)
        assert outcome.exit_code == 0, outcome
        assert users(destination_db) == [(number, "a") for number in rows]


@pytest.mark.parametrize(
    "ending",
    [
        status(value="STARTED"),
        status("others"),
        line("TRACE", trace={"type": "ERROR", "emitted_at": 1, "error": {"message": "the disk is full"}}),
        record({"id": 3, "name": "c"})[:-9],
    ],
    ids=["a status", "a status of another stream", "an error", "half a line"],
)
def test_an_end_that_says_otherwise_completes_nothing(destination_db, ending):
    sync(destination_db, one(destination="overwrite", generation=1), record({"id": 1, "name": "a"}))
    both = merged(one(destination="overwrite", generation=2), one({**USERS, "name": "others"}))
    lines = record({"id": 2, "name": "b"}) + state(1, None) + ending
    outcome = write(destination_db, both, lines, require_stream_status=False)
    assert outcome.exit_code == 1
    assert len(outcome.states) == 1
    assert users(destination_db) == [(1, "a")]


def test_what_the_source_said_is_passed_on(destination_db):
    said = [
        line("LOG", log={"level": "INFO", "message": "not this"}),
        line("LOG", log={"level": "WARN", "message": "the slot lags"}),
        line("LOG", log={"level": "FATAL", "message": "out of slots"}),
        line("TRACE", trace={"type": "ERROR", "emitted_at": 1, "error": {"message": "the disk is full"}}),
    ]
    outcome = write(destination_db, one(), b"".join(said))
    assert outcome.error is not None
    assert outcome.error["message"] == "The source failed: the disk is full"
    assert outcome.error["failure_type"] == "transient_error"
    assert [(log["level"], log["message"]) for log in outcome.logs] == [
        ("WARN", "source: the slot lags"),
        ("FATAL", "source: out of slots"),
        ("ERROR", "source: the disk is full"),
    ]


@pytest.mark.parametrize("destination", ["append", "append_dedup"])
def test_a_killed_sync_keeps_what_it_acknowledged_and_the_next_one_goes_on(destination_db, destination):
    catalog = one(destination=destination)
    rows = [{"id": number, "name": "x" * 500} for number in range(60_000)]
    parts = [records(rows[first : first + 1000]) + state(first + 1000) for first in range(0, len(rows), 1000)]
    with start(destination_db, catalog) as running:
        for part in parts:
            if not running.write(part):
                break
            if any(map(is_state, running.messages)):
                running.kill()
        outcome = running.finish()
    assert outcome.exit_code == -signal.SIGKILL
    acknowledged = outcome.states[-1]["stream"]["stream_state"]["n"]
    assert 0 < acknowledged < len(rows)
    wait_until(
        lambda: (
            destination_db.value("select count(*) from pg_stat_activity where application_name ~ 'destination'") == 0
        ),
        30,
        "the server has noticed",
    )
    assert acknowledged <= destination_db.value("select count(*) from public.users")
    sync(destination_db, catalog, b"".join(parts[acknowledged // 1000 :]))
    assert destination_db.value("select count(distinct id) from public.users") == len(rows)
    assert raw_count(destination_db) >= len(rows)
    if destination == "append_dedup":
        assert destination_db.value("select count(*) from public.users") == len(rows)
    assert own_tables(destination_db) == set()


def test_a_stopped_sync_leaves_soon_and_keeps_what_it_acknowledged(destination_db):
    with start(destination_db) as running:
        running.write(record({"id": 1, "name": "a"}) + state(1))
        running.wait_for(is_state)
        running.write(record({"id": 2, "name": "b"}))
        running.terminate()
        wait_until(lambda: running.exit_code is not None, 10, "the connector has ended")
        assert running.exit_code == 128 + signal.SIGTERM
    assert users(destination_db) == [(1, "a")]


def test_a_stop_interrupts_a_flush_that_waits(destination_db):
    sync(destination_db, one(), b"")
    blocker = destination_db.connect()
    blocker.autocommit = False
    with start(destination_db) as running, blocker.cursor() as cursor:
        running.write(state(0, None))
        running.wait_for(is_state)
        cursor.execute("lock table public.users in access exclusive mode")
        running.write(record({"id": 1, "name": "a"}) + state(1))
        wait_until(lambda: destination_db.value(WAITING) == 1, 30, "the flush waits for the lock")
        running.terminate()
        # Well before the process would be ended hard.
        wait_until(lambda: running.exit_code is not None, 3, "the connector has ended")
        assert running.exit_code == 128 + signal.SIGTERM
        assert sum(map(is_state, running.messages)) == 1
    blocker.rollback()
    blocker.close()
    assert users(destination_db) == []


def test_a_reader_of_stdout_that_goes_away_ends_the_sync(destination_db):
    """As in ``destination | head``: a STATE that nobody can read any more is no reason to go on."""
    with tempfile.TemporaryDirectory() as directory:
        files = {"config": destination_db.config(schema="public", flush_seconds=SOON_S), "catalog": one()}
        arguments = []
        for name, document in files.items():
            path = Path(directory) / name
            path.write_text(json.dumps(document))
            arguments += [f"--{name}", str(path)]
        process = subprocess.Popen(
            [sys.executable, "-m", DESTINATION, "write", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        process.stdin.write(record({"id": 1, "name": "a"}) + state(1))
        process.stdin.flush()
        # stdin stays open: it is the flush by age that finds nobody listening.
        assert process.wait(30) == 1
        process.stdin.close()
        assert process.stderr is not None
        assert process.stderr.read().decode().splitlines() == ["destination-postgres: the reader of stdout has gone"]
        process.stderr.close()
    assert users(destination_db) == [(1, "a")]


def test_a_server_that_goes_away_ends_the_sync_with_a_transient_error(destination_db):
    with start(destination_db) as running:
        running.write(record({"id": 1, "name": "a"}) + state(1))
        running.wait_for(is_state)
        destination_db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'destination-postgres'"
        )
        running.write(record({"id": 2, "name": "b"}) + state(2))
        outcome = running.finish()
    assert outcome.exit_code == 1
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "transient_error"
    assert len(outcome.states) == 1
    assert users(destination_db) == [(1, "a")]


def test_what_was_acknowledged_outlives_the_server():
    """Although the role asks for commits that do not wait for the disk."""
    with Cluster(embedded(18), settings={"wal_writer_delay": "10s"}, durable=True) as cluster, Database(cluster) as db:
        db.execute("alter role postgres set synchronous_commit = off")
        with start(db) as running:
            running.write(record({"id": 1, "name": "a"}) + state(1))
            running.wait_for(is_state)
            cluster.kill()
            assert running.finish().exit_code == 1
        cluster.start()
        assert users(db) == [(1, "a")]
        assert raw_count(db) == 1
