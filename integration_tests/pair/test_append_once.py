"""Append mode with positions: killed at random and run again, every change is there, and none of them twice."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest

from integration_tests.pair.piping import Passed, sync
from integration_tests.pair.workload import FOLLOWED, Workload, create_tables, seeds
from integration_tests.source.reading import TRANSPORTS, catalog_of
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded

# Flushes are far smaller than checkpoints: what is committed behind the last STATE comes again.
OPTIONS: dict[str, Any] = {
    "emit_position": True,
    "sync_checkpoint_records": 400,
    "destination_options": {"flush_bytes": 4_000},
}
SIDES = ["source", "destination", "destination"]
TABLES = {"counters": "version", "journal": "writer"}


@pytest.mark.parametrize("seed", seeds(10))
def test_every_change_is_there_once(source_db, destination_db, seed):
    print(f"seed {seed}")
    draw = random.Random(seed)
    create_tables(source_db, seed)
    options = {**OPTIONS, "transport": TRANSPORTS[seed % 2]}
    catalog = catalog_of(source_db, only=FOLLOWED, destination="append", emit_position=True)
    passed: list[Passed] = []

    def go_on(kill: tuple[str, int] | None = None) -> None:
        states = [state for each in passed for state in each.states]
        passed.append(sync(source_db, destination_db, catalog, states[-1] if states else None, kill=kill, **options))
        assert kill or passed[-1].ok, passed[-1].printed[-3:]

    with Workload(source_db, seed, burst=1000) as workload:
        go_on(draw.choice([None, ("source", draw.randint(1, 3000))]))
        for _ in range(3):
            workload.wait_for_transactions(80)
            go_on((draw.choice(SIDES), draw.randint(100, 1500)))
    go_on()
    again = [line for each in passed for line in each.printed if b"came again" in line]
    print(f"{workload}; {[each.lines for each in passed]}; {again}")
    for table, column in TABLES.items():
        rows = placed(destination_db, table, column)
        changes = [place for place, *_ in rows if place[1]]
        assert len(changes) == len(set(changes)), table
        assert table == "journal" or gaps(rows) == []
        assert replayed(rows) == dict(source_db.rows(f"select id, {column} from {table}")), table


def test_a_server_that_was_set_back_begins_a_new_order(destination_db):
    """Its positions are lower than those that were written, on the same timeline: its changes are new all the same."""
    with Cluster(embedded(16)) as cluster, Database(cluster) as source:
        source.execute("create table t (id int primary key); insert into t values (1)")
        catalog = catalog_of(source, destination="append", emit_position=True)
        first = sync(source, destination_db, catalog, emit_position=True)
        assert first.ok, first.printed[-3:]
        cluster.save()
        source.execute("select pg_switch_wal()")
        source.execute("insert into t values (2)")
        assert sync(source, destination_db, catalog, first.states[-1], emit_position=True).ok
        cluster.rewind()
        source.execute("insert into t values (3)")
        # The source refuses the old state; the user resets it and keeps the rows.
        again = sync(source, destination_db, catalog, emit_position=True)
        assert again.ok, again.printed[-3:]
        source.execute("insert into t values (4)")
        for _ in range(2):
            # The second time as after a crash.
            assert sync(source, destination_db, catalog, again.states[-1], emit_position=True).ok
        found = destination_db.rows("select id, count(*) from public.t group by id order by id")
        assert found == [(1, 2), (2, 1), (3, 1), (4, 1)]


def placed(db: Database, table: str, column: str) -> list[tuple[tuple[int, int], int, int | None]]:
    """The rows of an appended table in the order of changes: place, key, and what it then held (None: deleted)."""
    rows = db.rows(
        f"select _ab_cdc_commit_lsn, _ab_cdc_ordinal, id, case when _ab_cdc_deleted_at is null then {column} end"
        f" from public.{table} order by 1, 2"
    )
    return [((int(commit), int(number)), key, held) for commit, number, key, held in rows]


def gaps(rows: list[tuple[tuple[int, int], int, int | None]]) -> list[str]:
    """Where a counter's changes, which raise it by one, are not all there."""
    found = []
    history: dict[int, list[int | None]] = defaultdict(list)
    for (_, number), key, held in rows:
        if number and history[key]:
            before = history[key][-1]
            expected = [1] if before is None else [None, before + 1]
            if held not in expected:
                found.append(f"{key}: {before}, then {held}")
        history[key].append(held)
    return found


def replayed(rows: list[tuple[tuple[int, int], int, int | None]]) -> dict[int, int]:
    """What the source's table holds when all this has happened."""
    last = {key: held for _, key, held in rows}
    return {key: held for key, held in last.items() if held is not None}
