"""Where snapshot and stream meet: nothing lost, nothing stale, nothing twice."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, config, last_state, read
from integration_tests.source.standing import AT_BARRIER, BEHIND_THE_OLDER, wait_for
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE, Outcome
from integration_tests.support.pgserver import wait_until


@pytest.fixture
def table(source_db):
    source_db.execute("create table t (id int primary key, v text)")
    source_db.execute("insert into t select i, 'old' from generate_series(1, 10) i")
    return source_db


def newest(rows: list[dict[str, Any]], column: str = "v") -> dict[int, Any]:
    """What a destination keeps: per key the row with the highest LSN, the later one on a tie; deletes gone."""
    kept: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row["id"] not in kept or row["_ab_cdc_lsn"] >= kept[row["id"]]["_ab_cdc_lsn"]:
            kept[row["id"]] = row
    return {key: row[column] for key, row in kept.items() if row["_ab_cdc_deleted_at"] is None}


def test_a_transaction_open_when_the_sync_begins_is_neither_lost_nor_stale(table):
    with table.connect() as session, session.cursor() as cursor:
        cursor.execute("begin; insert into t values (100, 'open'); update t set v = 'open' where id = 1")
        with connector.start(SOURCE, "read", config=config(table), catalog=catalog_of(table)) as sync:
            sync.wait_for(lambda message: message.get("type") == "TRACE")
            cursor.execute("delete from t where id = 2; commit")
            outcome = sync.finish()
    assert outcome.exit_code == 0, outcome
    expected = {1: "open", 100: "open", **dict.fromkeys(range(3, 11), "old")}
    assert newest(outcome.records()) == expected
    assert len(outcome.records()) == len(expected)


def test_a_transaction_open_while_its_table_is_published_is_not_lost(table):
    # The slot and the publication are there; the table joins while a transaction has already written to it.
    table.execute("create table other (id int primary key)")
    first = read(table, catalog_of(table, only=["other"]))
    with table.connect() as session, session.cursor() as cursor:
        cursor.execute("begin; insert into t values (100, 'open')")
        both = catalog_of(table)
        with connector.start(SOURCE, "read", config=config(table), catalog=both, state=[last_state(first)]) as sync:
            in_it = "select count(*) from pg_publication_tables where tablename = 't'"
            wait_until(lambda: table.value(in_it) == 1, 20, "the table is published")
            cursor.execute("insert into t values (101, 'later'); commit")
            second = sync.finish()
    assert second.exit_code == 0, second
    assert {100, 101} <= newest(second.records("t")).keys()
    table.execute("insert into t values (102, 'after')")
    third = read(table, both, second)
    assert [row["id"] for row in third.records("t")] == [102]


@pytest.mark.parametrize("round_", range(3))
def test_writers_during_a_first_sync_are_seen_once_each(table, round_):
    table.execute("insert into t select i, repeat('x', 200) from generate_series(1000, 60000) i")
    stop = threading.Event()

    def write(worker: int) -> None:
        with table.connect() as session, session.cursor() as cursor:
            for i in range(1_000_000):
                if stop.is_set():
                    return
                key = 1_000_000 * worker + i
                cursor.execute("begin; insert into t values (%s, 'w'); insert into t values (%s, 'w')", (key, -key))
                cursor.execute("delete from t where id = %s", (-key,))
                cursor.execute("commit")

    writers = [threading.Thread(target=write, args=(worker,)) for worker in (1, 2, 3)]
    catalog = catalog_of(table)
    for writer in writers:
        writer.start()
    try:
        first = read(table, catalog)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    second = read(table, catalog, first)
    rows = first.records() + second.records()
    assert newest(rows) == dict(table.rows("select id, v from t"))
    # Each change once: an insert for every key ever, a delete for every negative one that the snapshot did not hold.
    inserts = [row["id"] for row in rows if row["_ab_cdc_deleted_at"] is None]
    assert len(inserts) == len(set(inserts))


def test_the_cut_of_a_late_table_is_exact(source_db):
    """Servers without the fix of 2025 keep "not published" in a decoding session; it must end before the barrier."""
    for name in ("a", "b", "z"):
        source_db.execute(f"create table {name} (id int primary key, v text)")
    first = read(source_db, catalog_of(source_db, only=["a"]))
    source_db.execute("insert into z select i, repeat('x', 1000) from generate_series(1, 100000) i")
    both = catalog_of(source_db)
    with contextlib.ExitStack() as stack:
        old, between, new = (stack.enter_context(source_db.connect()) for _ in range(3))
        before, during, behind = old.cursor(), between.cursor(), new.cursor()
        before.execute("insert into b values (1, 'before it is published')")
        with connector.start(SOURCE, "read", config=config(source_db), catalog=both, state=[last_state(first)]) as sync:
            in_it = "select count(*) from pg_publication_tables where tablename = 'b'"
            wait_until(lambda: source_db.value(in_it) == 1, 20, "the table is published")
            before.execute("insert into b values (2, 'after it is published')")
            wait_for(source_db, AT_BARRIER, "the sync stands at the barrier")
            during.execute("insert into b values (3, 'ahead of the cut')")
            old.commit()
            wait_for(source_db, BEHIND_THE_OLDER, "the older one is past")
            behind.execute("insert into b values (4, 'behind the barrier')")
            behind.execute("update a set v = v")
            between.commit()
            sync.wait_for(lambda message: message.get("record", {}).get("stream") == "z")
            new.commit()
            second = sync.finish(timeout=120)
    third = read(source_db, both, second)
    rows = second.records("b") + third.records("b")
    assert newest(rows).keys() == {1, 2, 3, 4}
    assert len(rows) == 4


def test_the_cut_is_remembered_by_the_state(source_db):
    source_db.execute("create table a (id int primary key)")
    source_db.execute("create table b (id int primary key, v text)")
    first = read(source_db, catalog_of(source_db, only=["a"]))
    both = catalog_of(source_db)
    with source_db.connect() as session, session.cursor() as cursor:
        cursor.execute("insert into b values (1, 'before it is published')")
        with connector.start(SOURCE, "read", config=config(source_db), catalog=both, state=[last_state(first)]) as sync:
            in_it = "select count(*) from pg_publication_tables where tablename = 'b'"
            wait_until(lambda: source_db.value(in_it) == 1, 20, "the table is published")
            cursor.execute("insert into b values (2, 'after it is published')")
            session.commit()
            second = sync.finish()
    # As if the sync had been killed just behind the snapshot.
    cut = states_of(second)[0]
    source_db.execute("insert into b values (3, 'third')")
    source_db.execute("delete from b where id = 1")
    third = read(source_db, both, cut)
    assert [(row["id"], row["_ab_cdc_deleted_at"] is None) for row in third.records("b")] == [(3, True), (1, False)]


def states_of(outcome: Outcome) -> list[dict[str, Any]]:
    """The states of a run as a runner would keep them, from the first on by which both streams are complete."""
    lines = [line for line in outcome.lines if line.startswith(b'{"type":"STATE"') and b'"name":"b"' in line]
    return [json.loads(line)["state"] for line in lines if line.count(b'"complete":true') == 2]
