"""Transactions that are open, held or prepared where a sync begins, reads its snapshot and ends: each change once."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from integration_tests.source.reading import (
    TRANSPORTS,
    catalog_of,
    config,
    confirmed,
    last_state,
    position,
    read,
    slot_of,
)
from integration_tests.source.standing import (
    AT_BARRIER,
    MAKING_SLOT,
    WAITS_FOR_STANDBY,
    held_commit,
    past_the_older,
    set_standby,
    standby_missing,
    wait_for,
)
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE, Running
from integration_tests.support.databases import Database


@pytest.fixture
def table(source_db):
    """A table of ten rows in a publication, with a slot: what a user's guide makes before the first sync."""
    source_db.execute("create table t (id int primary key, v text)")
    source_db.execute("insert into t select i, 'old' from generate_series(1, 10) i")
    source_db.execute("create publication airbyte_publication for table t")
    return source_db


def make_slot(database: Database) -> None:
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", slot_of(database))


def ids(*outcomes: connector.Outcome) -> list[int]:
    for outcome in outcomes:
        assert outcome.exit_code == 0, outcome
    return sorted(row["id"] for outcome in outcomes for row in outcome.records())


def begun(database: Database, **more: Any) -> Running:
    catalog = catalog_of(database, destination="append")
    return connector.start(SOURCE, "read", config=config(database), catalog=catalog, **more)


def test_a_commit_between_the_stamp_and_the_snapshot_comes_once(table):
    """Older than the barrier: it commits while the sync waits for it. Younger: open while the snapshot is read."""
    make_slot(table)
    with table.connect() as before, table.connect() as behind, before.cursor() as older, behind.cursor() as younger:
        older.execute("begin; insert into t values (100, 'older'); delete from t where id = 1")
        with begun(table) as sync:
            with past_the_older(table, older, "insert into t values (101, 'older'); commit"):
                younger.execute("begin; insert into t values (200, 'younger'); delete from t where id = 2")
            sync.wait_for(lambda message: message.get("type") == "RECORD")
            younger.execute("insert into t values (201, 'younger'); commit")
            first = sync.finish()
    second = read(table, catalog_of(table), first)
    # 2 was in the snapshot and is deleted; 1 was not.
    assert ids(first, second) == sorted([2, *range(2, 11), 100, 101, 200, 201])
    (deleted,) = [row for row in first.records() + second.records() if row["_ab_cdc_deleted_at"]]
    assert deleted["id"] == 2


@pytest.mark.parametrize("ending", ["commit prepared 'p'", "rollback prepared 'p'"])
def test_a_prepared_transaction_that_ends_later_comes_once_or_never(table, ending):
    first = read(table, catalog_of(table))
    with table.connect() as session, session.cursor() as cursor:
        cursor.execute("begin; insert into t values (100, 'prepared'); prepare transaction 'p'")
    second = read(table, catalog_of(table), first)
    table.execute("insert into t values (101, 'x')")
    table.execute(ending)
    third = read(table, catalog_of(table), second)
    assert ids(second) == []
    assert ids(third) == ([100, 101] if ending.startswith("commit") else [101])


@pytest.mark.parametrize(
    ("has_slot", "stands"), [(True, AT_BARRIER), (False, MAKING_SLOT)], ids=["slot there", "slot to be made"]
)
def test_a_held_commit_older_than_the_snapshot_comes_once(table, has_slot, stands):
    if has_slot:
        make_slot(table)
    with (
        standby_missing(table),
        held_commit(table, "insert into t values (100, 'held')"),
        begun(table) as sync,
    ):
        wait_for(table, stands, "the sync waits until the commit can be seen")
        set_standby(table, "''")
        first = sync.finish()
    second = read(table, catalog_of(table), first)
    assert ids(first, second) == [*range(1, 11), 100]


def test_a_held_commit_younger_than_the_barrier_comes_once(table):
    """It hangs while the snapshot is read, which does not show it; the stream, which ends behind it, does."""
    make_slot(table)
    with (
        contextlib.closing(table.connect()) as session,
        session.cursor() as older,
        standby_missing(table),
        begun(table) as sync,
    ):
        older.execute("begin; insert into t values (99, 'rolled back')")
        with contextlib.ExitStack() as held:
            with past_the_older(table, older, "rollback"):
                held.enter_context(held_commit(table, "insert into t values (100, 'held')"))
            sync.wait_for(lambda message: message.get("type") == "RECORD")
            first = sync.finish()
            assert table.value(WAITS_FOR_STANDBY) == 1
            second = read(table, catalog_of(table), first)
    third = read(table, catalog_of(table), second)
    assert ids(first, second, third) == [*range(1, 11), 100]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_position_at_a_commit_includes_it_and_behind_it_does_not(table, transport):
    """The next transaction's first change may begin exactly where a commit ends, and a state may hold either."""
    catalog = catalog_of(table)
    first = last_state(read(table, catalog))
    for i in (100, 101, 102):
        table.execute("insert into t values (%s, 'a'), (-%s, 'b')", i, i)
    for at, expected in boundaries(table):
        state = {**first, "global": {**first["global"], "shared_state": with_position(first, at)}}
        outcome = read(table, catalog, state, transport=transport)
        assert ids(outcome) == expected, at
        assert confirmed(table) == at


def boundaries(database: Database) -> list[tuple[str, list[int]]]:
    """Positions in rising order, each with the ids that are still to come from there on."""
    peek = f"peek_{database.name}"
    database.execute("select pg_copy_logical_replication_slot(%s, %s, true)", slot_of(database), peek)
    frames = database.rows(
        "select data from pg_logical_slot_peek_binary_changes(%s, null, null,"
        " 'proto_version', '1', 'publication_names', 'airbyte_publication')",
        peek,
    )
    database.execute("select pg_drop_replication_slot(%s)", peek)
    tags = [bytes(frame)[:1] for (frame,) in frames]
    # Servers before 15 send transactions without a change too.
    commits = [bytes(frames[i][0]) for i in range(1, len(tags)) if tags[i - 1 : i + 1] == [b"I", b"C"]]
    assert len(commits) == 3
    found = []
    for number, commit in enumerate(commits):
        rest = [sign * i for i in (100, 101, 102)[number:] for sign in (1, -1)]
        # Commit: flags, the record's own position, the position behind it (documentation 55.9).
        for offset, to_come in ((2, rest), (10, rest[2:])):
            value = int.from_bytes(commit[offset : offset + 8], "big")
            found.append((f"{value >> 32:X}/{value & 0xFFFFFFFF:X}", sorted(to_come)))
    return found


def with_position(state: dict[str, Any], lsn: str) -> dict[str, Any]:
    shared: dict[str, Any] = state["global"]["shared_state"]
    return {**shared, "cdc": {**shared["cdc"], "lsn": lsn}}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_transaction_open_for_a_whole_backlog_comes_in_the_next_sync(table, transport):
    """The anchor's restart position stays behind it: reading must not begin there again and again."""
    catalog = catalog_of(table)
    first = read(table, catalog)
    with contextlib.closing(table.connect()) as session, session.cursor() as cursor:
        cursor.execute("begin; insert into t values (-1, 'open')")
        for begin in range(1000, 41_000, 1000):
            table.execute(f"insert into t select {begin} + i, repeat('x', 2000) from generate_series(0, 999) i")
        second = read(table, catalog, first, transport=transport)
        assert ids(second) == list(range(1000, 41_000))
        cursor.execute("insert into t values (-2, 'open'); commit")
    third = read(table, catalog, second, transport=transport)
    assert ids(third) == [-2, -1]
    assert confirmed(table) == position(second)
