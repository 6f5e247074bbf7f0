"""The source alone, nobody killed: every change of four random writers comes exactly once, in its order.

What append mode at a destination relies on: snapshot and streams of all syncs, put one after the other, are a history
without a gap and without a repetition.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Any

import pytest

from integration_tests.pair.workload import FOLLOWED, LATE, Workload, create_tables, seeds
from integration_tests.source.reading import TRANSPORTS, catalog_of, last_state, read
from integration_tests.support.connector import Outcome
from integration_tests.support.databases import Database

Row = dict[str, Any]
# Table -> its key, and what else of a row is compared: values that read the same in Python and in JSON.
CONTENT = {
    "accounts": (("id",), ("note",)),
    "transfers": (("account", "nr"), ()),
    "documents": (("id",), ("version", "title", "body")),
    "journal": (("id",), ("writer",)),
    "counters": (("id",), ("version",)),
    "late": (("id",), ("version",)),
}
AGAIN = ("accounts", "documents")
VERSIONED = ("counters", "late")


@pytest.mark.parametrize("seed", seeds(3))
def test_every_change_comes_exactly_once(source_db, seed):
    print(f"seed {seed}")
    create_tables(source_db, seed)
    more = {"transport": TRANSPORTS[seed % len(TRANSPORTS)], "sync_checkpoint_records": 500}
    first = catalog_of(source_db, only=FOLLOWED, destination="append")
    everything = catalog_of(source_db, only=[*FOLLOWED, *LATE], destination="append")
    outcomes: list[Outcome] = []
    with Workload(source_db, seed, burst=1000) as workload:
        for catalog in (first, first, everything, everything):
            workload.wait_for_transactions(60)
            outcomes.append(_next(source_db, catalog, outcomes, **more))
    outcomes.append(_next(source_db, everything, outcomes, **more))
    print(f"{workload}; records per sync: {[len(outcome.records()) for outcome in outcomes]}")
    records = {table: [row for outcome in outcomes for row in outcome.records(table)] for table in CONTENT}
    ids = [row["id"] for row in records["journal"]]
    assert sorted(ids) == [row[0] for row in source_db.rows("select id from journal order by id")]
    for table in VERSIONED:
        assert faults(records[table]) == []
    for table, (key, others) in CONTENT.items():
        assert replayed(records[table], key, others) == _content(source_db, table), table


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_stream_is_read_again_while_the_others_go_on(source_db, transport):
    """The platform sends null for it: a snapshot, and what changed since the position. The others do not notice."""
    create_tables(source_db, 1)
    catalog = catalog_of(source_db, only=FOLLOWED, destination="append")
    outcomes: list[Outcome] = []
    with Workload(source_db, 1, burst=1000) as workload:
        outcomes.append(_next(source_db, catalog, outcomes, transport=transport))
        workload.wait_for_transactions(60)
        state = last_state(outcomes[-1])
        for entry in state["global"]["stream_states"]:
            if entry["stream_descriptor"]["name"] in AGAIN:
                entry["stream_state"] = None
        outcomes.append(read(source_db, catalog, state, transport=transport))
        assert outcomes[-1].exit_code == 0, outcomes[-1]
        workload.wait_for_transactions(60)
    outcomes.append(_next(source_db, catalog, outcomes, transport=transport))
    records = {table: [row for outcome in outcomes for row in outcome.records(table)] for table in FOLLOWED}
    assert faults(records["counters"]) == []
    ids = [row["id"] for row in records["journal"]]
    assert sorted(ids) == [row[0] for row in source_db.rows("select id from journal order by id")]
    for table in AGAIN:
        key, others = CONTENT[table]
        # What a destination keeps: the row of the highest cursor, of equal ones the later.
        by_cursor = sorted(records[table], key=lambda row: row["_ab_cdc_lsn"])
        assert replayed(by_cursor, key, others) == _content(source_db, table), table


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_state_is_a_place_to_go_on_from(source_db, transport):
    """Commits that follow each other closely in WAL: what came before a state is not sent again, the rest is."""
    source_db.execute("create table t (id int primary key)")
    catalog = catalog_of(source_db)
    first = read(source_db, catalog, transport=transport)
    with contextlib.ExitStack() as open_sessions:
        cursors = [open_sessions.enter_context(contextlib.closing(source_db.connect())).cursor() for _ in range(8)]
        for number, cursor in enumerate(cursors):
            cursor.execute("begin; insert into t values (%s), (-%s)", (number + 1, number + 1))
        for cursor in cursors:
            cursor.execute("commit")
    whole = read(source_db, catalog, first, transport=transport, sync_checkpoint_records=1)
    seen: list[int] = []
    checkpoints = []
    for message in whole.messages:
        if message["type"] == "RECORD":
            seen.append(message["record"]["data"]["id"])
        elif message["type"] == "STATE":
            checkpoints.append((json.loads(json.dumps(message["state"], default=float)), len(seen)))
    assert sorted(seen) == [*range(-8, 0), *range(1, 9)]
    assert {count for _, count in checkpoints} == set(range(2, 17, 2))
    for state, count in checkpoints:
        again = read(source_db, catalog, state, transport=transport)
        assert again.exit_code == 0, again
        assert [row["id"] for row in again.records()] == seen[count:]


def test_faults_are_seen():
    def row(version: int, *, deleted: bool = False) -> Row:
        return {"id": 1, "version": version, "_ab_cdc_deleted_at": "now" if deleted else None}

    assert faults([row(3), row(4), row(0, deleted=True), row(1), row(2)]) == []
    for wrong in (
        [row(3), row(3)],
        [row(3), row(5)],
        [row(4), row(3)],
        [row(0, deleted=True)],
        [row(1), row(0, deleted=True), row(0, deleted=True)],
        [row(1), row(0, deleted=True), row(2)],
    ):
        assert len(faults(wrong)) == 1, wrong


def faults(rows: Iterable[Row]) -> list[str]:
    """Where the history of a key is none: a version twice, left out or out of order, a delete of what is not there.

    Versions rise by one with every change and begin with 1; only a snapshot's may begin anywhere.
    """
    found = []
    versions: dict[int, int | None] = {}
    for row in rows:
        key, now = row["id"], None if row["_ab_cdc_deleted_at"] else row["version"]
        if key not in versions:
            is_wrong = now is None
        else:
            before = versions[key]
            is_wrong = before is None if now is None else now != (before or 0) + 1
        if is_wrong:
            found.append(f"{key}: {versions.get(key, 'nothing')} and then {now}")
        versions[key] = now
    return found


def replayed(
    rows: Iterable[Row], key: tuple[str, ...], others: tuple[str, ...]
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """What a table holds after ``rows`` have been applied one after the other."""
    kept = {}
    for row in rows:
        at = tuple(row[column] for column in key)
        if row["_ab_cdc_deleted_at"] is None:
            # A large value that was gone when it was asked for is left out; a later row takes such a one's place.
            kept[at] = tuple(row.get(column, "left out") for column in others)
        else:
            # A stream that is read again may send deletes of what its new snapshot did not show.
            kept.pop(at, None)
    return kept


def _content(database: Database, table: str) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    key, others = CONTENT[table]
    rows = database.rows(f"select {', '.join(key + others)} from {table}")
    return {row[: len(key)]: row[len(key) :] for row in rows}


def _next(source: Database, catalog: Row, before: list[Outcome], **more: Any) -> Outcome:
    outcome = read(source, catalog, before[-1] if before else None, **more)
    assert outcome.exit_code == 0, outcome
    return outcome
