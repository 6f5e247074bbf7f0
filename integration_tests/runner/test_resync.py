"""``airbyte-pg sync`` when the source's position is lost: a refresh that leaves no row behind that is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, config, slot_of
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

ROWS = "select id, v from public.t order by id"


class Pair:
    """A source and a destination, synced by the runner."""

    def __init__(self, source: Database, destination: Database, folder: Path) -> None:
        self.source, self.destination, self.state = source, destination, folder / "state.json"
        self._folder = folder
        source.execute("create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b')")

    def sync(
        self, behavior: str = "Re-sync data", catalog: Path | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """One sync to its end."""
        command = self.command(behavior, catalog, **more)
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)

    def command(self, behavior: str = "Re-sync data", catalog: Path | None = None, **more: Any) -> list[str]:
        documents = {
            "source": config(self.source, invalid_cdc_cursor_position_behavior=behavior, **more),
            "destination": self.destination.config(schema="public"),
        }
        for name, document in documents.items():
            (self._folder / f"{name}.json").write_text(json.dumps(document))
        options = [f"--{name}-config={self._folder / name}.json" for name in documents]
        options += [f"--catalog={catalog}"] if catalog else []
        program = "from airbyte_pg.main import main; main()"
        return [sys.executable, "-c", program, "sync", *options, f"--state={self.state}"]

    def is_equal(self) -> bool:
        return self.source.rows(ROWS) == self.destination.rows(ROWS)


@pytest.fixture
def pair(source_db: Database, destination_db: Database, tmp_path: Path) -> Pair:
    pair = Pair(source_db, destination_db, tmp_path)
    done = pair.sync()
    assert done.returncode == 0, done.stderr
    assert pair.is_equal()
    return pair


@pytest.mark.parametrize("state_type", ["global", "stream"])
def test_a_lost_slot_becomes_a_refresh_and_deleted_rows_go(pair, state_type):
    assert pair.sync(state_type=state_type).returncode == 0
    pair.source.execute("select pg_drop_replication_slot(%s)", slot_of(pair.source))
    pair.source.execute("delete from t where id = 1; insert into t values (3, 'c')")
    failed = pair.sync("Fail sync", state_type=state_type)
    assert failed.returncode == 1
    assert "is gone" in failed.stderr
    done = pair.sync(state_type=state_type)
    assert done.returncode == 0, done.stderr
    assert "read again, replacing its rows" in done.stderr
    assert pair.is_equal()
    # And from there it goes on as before: rows are kept.
    pair.source.execute("update t set v = 'x' where id = 2")
    done = pair.sync(state_type=state_type)
    assert (done.returncode, done.stderr) == (0, "")
    assert pair.is_equal()
    assert done.stdout.startswith("synced 1 row")


def test_a_restored_server_becomes_a_refresh_though_its_positions_are_lower(pair):
    # The state as it would be of a server that was far ahead.
    (state,) = json.loads(pair.state.read_text())
    state["global"]["shared_state"]["cdc"]["lsn"] = "FF/0"
    pair.state.write_text(json.dumps([state]))
    pair.destination.execute("update public.t set _ab_cdc_lsn = 1e15, v = 'of the other history'")
    done = pair.sync()
    assert done.returncode == 0, done.stderr
    assert pair.is_equal()


def test_a_refresh_that_was_killed_goes_on_as_one(pair):
    pair.source.execute("select pg_drop_replication_slot(%s)", slot_of(pair.source))
    pair.source.execute("delete from t where id = 1")
    waiting = "select count(*) from pg_locks where relation = 't'::regclass and not granted"
    generations = pair.state.with_name("state.json.generations.json")
    with closing(pair.source.connect()) as blocker, blocker.cursor() as cursor:
        runner = subprocess.Popen(pair.command(), stderr=subprocess.PIPE)
        try:
            wait_until(lambda: b'"refreshing": true' in generations.read_bytes(), 30, "the refresh is decided")
            # Its connectors are only now being started.
            cursor.execute("begin; lock table t in access exclusive mode")
            wait_until(lambda: pair.source.value(waiting) > 0, 30, "the refresh wants to read the table")
        finally:
            runner.kill()
            _, errors = runner.communicate()
        cursor.execute("rollback")
    assert b"read again, replacing its rows" in errors
    assert pair.destination.rows(ROWS) == [(1, "a"), (2, "b")]
    done = pair.sync()
    assert done.returncode == 0, done.stderr
    assert pair.is_equal()
    pair.source.execute("insert into t values (4, 'd')")
    assert pair.sync().stdout.startswith("synced 1 row")
    assert pair.is_equal()


def test_generations_that_the_user_gave_are_not_touched(pair, tmp_path):
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps(catalog_of(pair.source)))
    assert pair.sync(catalog=catalog).returncode == 0
    pair.source.execute("select pg_drop_replication_slot(%s)", slot_of(pair.source))
    pair.source.execute("delete from t where id = 1; insert into t values (3, 'c')")
    done = pair.sync(catalog=catalog)
    assert done.returncode == 0, done.stderr
    assert "deleted meanwhile stay" in done.stderr
    assert pair.destination.rows(ROWS) == [(1, "a"), (2, "b"), (3, "c")]


def test_what_is_appended_gets_its_place_and_comes_once(source_db: Database, destination_db: Database, tmp_path: Path):
    """The runner asks for positions where a stream is appended to; an older state is as good as a lost answer."""
    pair = Pair(source_db, destination_db, tmp_path)
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps(catalog_of(source_db, destination="append", generation=None)))

    def sync() -> None:
        done = pair.sync(catalog=catalog)
        assert done.returncode == 0, done.stderr

    sync()
    before = pair.state.read_bytes()
    source_db.execute("update t set v = 'c' where id = 1; delete from t where id = 2; insert into t values (3, 'd')")
    sync()
    query = (
        "select id, v, _ab_cdc_deleted_at is not null, _ab_cdc_commit_lsn > 0, _ab_cdc_ordinal from public.t"
        " order by _ab_cdc_commit_lsn, _ab_cdc_ordinal, id"
    )
    wanted: list[tuple[Any, ...]] = [(1, "a", False, True, 0), (2, "b", False, True, 0)]
    wanted += [(1, "c", False, True, 2), (2, None, True, True, 4), (3, "d", False, True, 6)]
    assert destination_db.rows(query) == wanted
    pair.state.write_bytes(before)
    sync()
    assert destination_db.rows(query) == wanted
