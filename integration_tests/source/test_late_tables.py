"""Tables that join a publication while older transactions write to them, and what befalls them before that is past.

Servers without the fix for concurrent invalidations (12 in every release, 17 before 17.5) go on dropping such a table's
changes until a decoding session ends: run this on one of them (PG_TEST_BIN) to see it bite.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from integration_tests.source.reading import TRANSPORTS, catalog_of, config, last_state, read
from integration_tests.source.standing import AT_BARRIER, BEHIND_THE_OLDER, held_commit, standby_missing, wait_for
from integration_tests.source.test_seam import newest
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE, Outcome
from integration_tests.support.pgserver import wait_until

READING_Z = (
    "select count(*) from pg_stat_activity"
    " where datname = current_database() and query ilike 'copy%\"z\"%' and state = 'active'"
)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("is_refreshed", [False, True], ids=["gone on with", "refreshed"])
def test_a_late_table_whose_first_sync_died_before_its_changes(source_db, transport, is_refreshed):
    """The cut is known to the state only, and a refresh sends null for the stream's."""
    for name in ("b", "z"):
        source_db.execute(f"create table {name} (id int primary key, v text)")
    first = read(source_db, catalog_of(source_db, only=["z"]))
    source_db.execute("insert into z select i, repeat('x', 5000) from generate_series(1, 2000) i")
    everything = catalog_of(source_db)
    given: dict[str, Any] = {"config": config(source_db, transport=transport), "catalog": everything}
    with source_db.connect() as session, session.cursor() as cursor:
        cursor.execute("insert into b values (1, 'before it is published')")
        with connector.start(SOURCE, "read", **given, state=[last_state(first)]) as sync:
            in_it = "select count(*) from pg_publication_tables where tablename = 'b'"
            wait_until(lambda: source_db.value(in_it) == 1, 20, "the table is published")
            cursor.execute("insert into b values (2, 'after it is published')")
            session.commit()
            second = sync.finish()
    # As if it had been killed just behind the snapshot of b.
    state = state_behind(second, "b")
    source_db.execute("delete from b where id = 1")
    for entry in state["global"]["stream_states"]:
        if is_refreshed or entry["stream_descriptor"]["name"] == "z":
            entry["stream_state"] = None
    with connector.start(SOURCE, "read", **given, state=[state], held=True) as sync:
        # Nobody reads what it writes, so there it stands; the stream begins when all of z has been read.
        wait_for(source_db, READING_Z, "the snapshot of z is read")
        source_db.execute("insert into b values (3, 'while z is read')")
        third = sync.finish()
    fourth = read(source_db, everything, third, transport=transport)
    rows = [row for outcome in (second, third, fourth) for row in outcome.records("b")]
    assert newest(rows) == dict(source_db.rows("select id, v from b"))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_held_commit_between_an_old_transaction_and_the_snapshot(source_db, transport):
    """It comes behind the old one's in WAL, ahead of the cut: the snapshot must show it."""
    source_db.execute("create table a (id int primary key)")
    source_db.execute("create table b (id int primary key, v text)")
    first = read(source_db, catalog_of(source_db, only=["a"]))
    both = catalog_of(source_db)
    given: dict[str, Any] = {"config": config(source_db, transport=transport), "catalog": both}
    with contextlib.ExitStack() as stack:
        old, oldest = (stack.enter_context(contextlib.closing(source_db.connect())).cursor() for _ in range(2))
        old.execute("set synchronous_commit = local")
        old.execute("begin; insert into b values (1, 'before it is published')")
        oldest.execute("begin; insert into a values (1)")
        sync = stack.enter_context(connector.start(SOURCE, "read", **given, state=[last_state(first)]))
        wait_for(source_db, AT_BARRIER, "the sync stands at the barrier")
        with standby_missing(source_db):
            old.execute("commit")
            with held_commit(source_db, "insert into b values (2, 'held')"):
                oldest.execute("rollback")
                wait_for(source_db, BEHIND_THE_OLDER, "the sync waits for the held one too")
        second = sync.finish()
    third = read(source_db, both, second, transport=transport)
    rows = second.records("b") + third.records("b")
    assert sorted(row["id"] for row in rows) == [1, 2]


def state_behind(outcome: Outcome, stream: str) -> dict[str, Any]:
    """The first state by which the snapshot of ``stream`` is complete."""
    for line in outcome.lines:
        if line.startswith(b'{"type":"STATE"'):
            state: dict[str, Any] = json.loads(line)["state"]
            for entry in state["global"]["stream_states"]:
                if entry["stream_descriptor"]["name"] == stream and entry["stream_state"]["cdc"]["complete"]:
                    return state
    raise LookupError(f"no state has {stream} complete: {outcome!r}")
