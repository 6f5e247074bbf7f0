"""A long initial load: the changes are read in between, and after some hours it goes on with the next attempt."""

from __future__ import annotations

import threading

import pytest

from integration_tests.source.reading import catalog_of, confirmed, failure, position, read
from integration_tests.source.test_parts import needs_parts, progress_of, state_lines
from integration_tests.source.test_seam import newest
from integration_tests.support.databases import Database

ROWS = 3000


@pytest.fixture
def tables(source_db):
    needs_parts(source_db)
    for name in ("a", "z"):
        source_db.execute(f"create table {name} (id int primary key, v text)")
        source_db.execute(f"insert into {name} select i, rpad(i::text, 70, '.') from generate_series(1, {ROWS}) i")
    return source_db


class Writer(threading.Thread):
    """Changes table a and adds to table z, until told to stop."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self._stop_asked = threading.Event()

    def run(self) -> None:
        with self._database.connect() as session, session.cursor() as cursor:
            i = 0
            while not self._stop_asked.is_set():
                i += 1
                cursor.execute("begin; insert into z values (%s, 'added')", (ROWS + i,))
                cursor.execute("update a set v = %s where id = %s", (f"change {i}", i * 37 % ROWS))
                cursor.execute("delete from a where id = %s; commit", (i * 53 % ROWS,))

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(60)


def test_the_changes_are_read_between_the_parts(tables):
    catalog = catalog_of(tables)
    writer = Writer(tables)
    writer.start()
    try:
        first = read(tables, catalog, snapshot_part_pages=5, snapshot_drain_seconds=0)
    finally:
        writer.stop()
    assert first.exit_code == 0, first
    second = read(tables, catalog, first)
    for name in ("a", "z"):
        sent = newest(first.records(name) + second.records(name))
        assert sent == dict(tables.rows(f"select id, v from {name}"))
    # The position moved while a was not complete.
    positions = {
        state["global"]["shared_state"]["cdc"]["lsn"]
        for state in first.states
        if not state["global"]["stream_states"][0]["stream_state"]["cdc"]["complete"]
    }
    assert len(positions) > 5
    # Changes of z came from the stream only once its first part had begun.
    begun = next(i for i, state in enumerate(first.states) if len(state["global"]["stream_states"]) == 2)
    assert begun > 5
    before = b"".join(first.lines).split(b'{"type":"STATE"')[: begun + 1]
    assert not any(b'"stream":"z"' in lines for lines in before)


def test_a_load_that_lasts_too_long_goes_on_with_the_next_attempt(tables):
    catalog = catalog_of(tables)
    outcome = read(tables, catalog, snapshot_part_pages=20, initial_load_timeout_hours=1e-9)
    assert failure(outcome)["failure_type"] == "transient_error"
    assert "goes on with the next attempt" in failure(outcome)["message"]
    assert [entry.get("page") for entry in progress_of(outcome, "a")] == [0, 20, 20]
    rows = {name: outcome.records(name) for name in ("a", "z")}
    attempts = 1
    while outcome.exit_code == 1:
        tables.execute("update a set v = 'late' where id %% 100 = %s", attempts)
        tables.execute("delete from z where id %% 100 = %s", attempts)
        state, before = state_lines(outcome)[-1], position(outcome)
        outcome = read(tables, catalog, [state], snapshot_part_pages=20, initial_load_timeout_hours=1e-9)
        # WAL up to the drain is let go.
        assert confirmed(tables) == before
        rows = {name: rows[name] + outcome.records(name) for name in rows}
        attempts += 1
        assert attempts < 20
    assert outcome.exit_code == 0, outcome
    assert attempts >= 3
    for name in ("a", "z"):
        assert newest(rows[name]) == dict(tables.rows(f"select id, v from {name}"))
        assert progress_of(outcome, name)[-1]["complete"] is True
