"""A few changes now and then, for a long time: seen and acknowledged soon, and nothing grows by it but the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from integration_tests.destination.writing import USERS_CDC, is_state, one, record, state, status, sync, users
from integration_tests.support import connector
from integration_tests.support.catalogs import stream
from integration_tests.support.connector import DESTINATION, Running
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

DELETED = "2024-01-01T00:00:00Z"
MODES = pytest.mark.parametrize("destination", ["append", "append_dedup"])
# Rows that were ever put into the catalogue; a session that has ended has told of all of its own.
CATALOGUE = (
    "select sum(n_tup_ins + n_tup_upd) from pg_stat_sys_tables where schemaname = 'pg_catalog'"
    " and relname in ('pg_class', 'pg_attribute', 'pg_type', 'pg_depend', 'pg_index')"
)
SESSIONS = "select count(*) from pg_stat_activity where application_name = 'destination-postgres'"


def start(db: Database, catalog: dict[str, Any], **options: Any) -> Running:
    return connector.start(DESTINATION, "write", config=db.config(schema="public", **options), catalog=catalog)


def trickle(running: Running, numbers: range) -> None:
    """A change of one of five keys and a STATE at a time, each acknowledged before the next is written."""
    for number in numbers:
        gone = {"_ab_cdc_deleted_at": DELETED} if number % 7 == 0 else {}
        row = {"id": number % 5, "name": f"change {number}", "_ab_cdc_lsn": number, **gone}
        running.write(record(row) + state(number))
        running.wait_for(is_state, count=number + 1)


@MODES
def test_each_change_is_seen_and_acknowledged_while_stdin_stays_open(destination_db, destination):
    with start(destination_db, one(USERS_CDC, destination)) as running:
        for number in range(3):
            running.write(record({"id": number, "name": "a", "_ab_cdc_lsn": number}) + state(number))
            running.wait_for(is_state, count=number + 1)
            assert users(destination_db) == [(seen, "a") for seen in range(number + 1)]
        running.write(status())
        assert running.finish().exit_code == 0


def test_odd_texts_come_as_they_are(destination_db):
    """One by one, and together."""
    texts = [
        "",
        "NULL",
        "\\N",
        "\\",
        '\\"',
        '"',
        "{a,b}",
        "a\bb\fc\vd",
        "tab\tnl\ncr\r",
        "\\t",
        "\\b",
        " x ",
        "\x01\x1c\x85y",
    ]
    catalog = one(USERS_CDC, "append_dedup")
    lines = [record({"id": number, "name": text, "_ab_cdc_lsn": 1}) for number, text in enumerate(texts)]
    with start(destination_db, catalog) as running:
        for number, line in enumerate(lines):
            running.write(line + state(number))
            running.wait_for(is_state, count=number + 1)
        running.write(status())
        assert running.finish().exit_code == 0
    assert users(destination_db) == list(enumerate(texts))
    again = [record({"id": number, "name": text, "_ab_cdc_lsn": 2}) for number, text in enumerate(reversed(texts))]
    sync(destination_db, catalog, b"".join(again) + state(99))
    assert users(destination_db) == list(enumerate(reversed(texts)))


def test_a_session_that_waits_for_the_source_is_not_ended(destination_db):
    if destination_db.server.major < 14:
        pytest.skip("idle_session_timeout came with 14")
    destination_db.execute(f"alter database {destination_db.name} set idle_session_timeout = '200ms'")
    quiet = "select count(*) from pg_stat_activity where application_name = 'destination-postgres'"
    quiet += " and state = 'idle' and clock_timestamp() - state_change > interval '1 s'"
    with start(destination_db, one(USERS_CDC, "append")) as running:
        trickle(running, range(1))
        wait_until(lambda: destination_db.value(quiet) == 1, 30, "the session has been idle for long")
        trickle(running, range(1, 2))
        running.write(status())
        assert running.finish().exit_code == 0


@MODES
def test_small_flushes_leave_no_trace_in_the_catalogue(destination_db, destination):
    catalog = one(USERS_CDC, destination)
    sync(destination_db, catalog, b"")
    wait_until(lambda: destination_db.value(SESSIONS) == 0, 30, "the session has ended")
    before = destination_db.value(CATALOGUE)
    with start(destination_db, catalog, flush_seconds=0.001) as running:
        trickle(running, range(200))
        running.write(status())
        assert running.finish().exit_code == 0
    wait_until(lambda: destination_db.value(SESSIONS) == 0, 30, "the session has ended")
    # Statistics of columns that autovacuum brings have a table of their own.
    assert destination_db.value(CATALOGUE) == before
    if destination == "append_dedup":
        assert users(destination_db) == [(key, f"change {195 + key}") for key in (0, 2, 3, 4)]


@MODES
def test_memory_stays_what_it_is_over_many_flushes(destination_db, destination):
    with start(destination_db, one(USERS_CDC, destination), flush_seconds=0.001) as running:
        trickle(running, range(300))
        before = resident_kb(running.pid)
        trickle(running, range(300, 2000))
        assert resident_kb(running.pid) < before + 2048
        running.write(status())
        assert running.finish().exit_code == 0


def resident_kb(pid: int) -> int:
    status_lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status_lines if line.startswith("VmRSS:"))


def test_what_only_the_server_refuses_is_left_out_of_a_small_batch(destination_db):
    columns = {"id": "integer", "o": "object", "n": "number"}
    catalog = one(stream("users", columns, key=["id"], cdc=True), "append_dedup")
    rows = ['{"id":1,"o":{"a":1},"n":1}', '{"id":1,"o":{"a":1e999999},"n":2}', '{"id":2,"o":{"b":1},"n":3}']
    with start(destination_db, catalog) as running:
        for number, row in enumerate(rows):
            running.write(record(row) + state(number))
            running.wait_for(is_state, count=number + 1)
        running.write(status())
        assert running.finish().exit_code == 0
    found = users(destination_db, "id, o, n::text, jsonb_array_length(_airbyte_meta -> 'changes')")
    assert found == [(1, None, "2", 1), (2, {"b": 1}, "3", 0)]
