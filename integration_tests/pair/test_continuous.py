"""The pair in a continuous run: tables that come and change, a position that is lost, rows that are appended once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, config, slot_of
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until
from integration_tests.support.runner import ContinuousRun

DEADLINE_S = 60.0


class Pair:
    """Both databases and the run between them."""

    def __init__(self, source: Database, destination: Database, folder: Path) -> None:
        self.source, self.destination, self.folder = source, destination, folder
        self.options: dict[str, Any] = {}
        source.execute("create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b')")

    def run(self, *options: str) -> ContinuousRun:
        read = {**config(self.source), **self.options}
        return ContinuousRun(self.folder, read, self.destination.config(schema="public"), "--max-pause=2", *options)

    def has(self, query: str, rows: list[tuple[Any, ...]]) -> Callable[[], bool]:
        """Whether the destination answers so; the tables of ``query`` are still to be made, perhaps."""

        def holds() -> bool:
            tables = "select count(*) from pg_tables where schemaname = 'public'"
            try:
                return bool(self.destination.value(tables)) and self.destination.rows(query) == rows
            except Exception as error:
                if getattr(error, "pgcode", None) in ("42P01", "42703"):
                    return False
                raise

        return holds

    def expect(self, query: str, rows: list[tuple[Any, ...]]) -> None:
        wait_until(self.has(query, rows), DEADLINE_S, f"{query} answers {rows}")


@pytest.fixture
def pair(source_db: Database, destination_db: Database, tmp_path: Path) -> Pair:
    return Pair(source_db, destination_db, tmp_path)


def test_tables_come_and_change_while_it_runs(pair: Pair):
    with pair.run() as run:
        pair.expect("select id, v from public.t order by id", [(1, "a"), (2, "b")])
        pair.source.execute("create table late (id int primary key); insert into late values (7)")
        pair.source.execute("alter table t add column w int default 3; update t set v = 'c' where id = 1")
        pair.expect("select id from public.late", [(7,)])
        pair.expect("select id, v, w from public.t order by id", [(1, "c", 3), (2, "b", 3)])
        pair.source.execute("insert into late values (8); delete from t where id = 2")
        pair.expect("select id from public.late order by id", [(7,), (8,)])
        pair.expect("select id, v, w from public.t", [(1, "c", 3)])
        assert run.stop() == 0, run.log
    assert "the run goes on with them as they are now" in run.log


def test_lost_position_is_refreshed_and_then_followed(pair: Pair):
    pair.options["replication_method"] = {
        **config(pair.source)["replication_method"],
        "invalid_cdc_cursor_position_behavior": "Re-sync data",
    }
    with pair.run() as run:
        pair.expect("select id, v from public.t order by id", [(1, "a"), (2, "b")])
        assert run.stop() == 0, run.log
    pair.source.execute("select pg_drop_replication_slot(%s)", slot_of(pair.source))
    pair.source.execute("delete from t where id = 1")
    with pair.run() as run:
        pair.expect("select id, v from public.t order by id", [(2, "b")])
        pair.source.execute("insert into t values (3, 'c')")
        pair.expect("select id, v from public.t order by id", [(2, "b"), (3, "c")])
        assert run.stop() == 0, run.log
    assert "read again, replacing its rows" in run.log


def test_what_is_appended_comes_once_however_often_both_are_killed(pair: Pair):
    catalog = pair.folder / "catalog.json"
    catalog.write_text(json.dumps(catalog_of(pair.source, destination="append", generation=None)))
    wanted = [(1, "a"), (2, "b")]
    rows = "select id, v from public.t order by id"
    with pair.run(f"--catalog={catalog}") as run:
        pair.expect(rows, wanted)
        for number in range(10, 18):
            pair.source.execute("insert into t values (%s, 'x')", number)
            side = run.side("read" if number % 2 else "write")
            if side is not None:
                side.kill()
            wanted.append((number, "x"))
        pair.expect(rows, wanted)
        assert run.stop() == 0, run.log
    assert pair.destination.rows(rows) == wanted


def test_slot_follows_what_came_back(pair: Pair):
    pair.options["acknowledge_seconds"] = 1
    confirmed = "select confirmed_flush_lsn - '0/0'::pg_lsn from pg_replication_slots where slot_name = %s"
    with pair.run() as run:
        pair.expect("select count(*) from public.t", [(2,)])
        pair.source.execute("insert into t select i, repeat('x', 1000) from generate_series(10, 2000) i")
        written = pair.source.value("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        pair.expect("select count(*) from public.t", [(1993,)])
        wait_until(
            lambda: pair.source.value(confirmed, slot_of(pair.source)) >= written, DEADLINE_S, "the slot follows"
        )
        status = run.status("--max-lag-seconds", "30")
        assert status["alerts"] == []
        assert status["source"]["sessions"] > 0
        assert run.stop() == 0, run.log
