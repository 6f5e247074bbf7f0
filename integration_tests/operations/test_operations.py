"""docs/operations.md: its SQL and its commands are run as they stand, and the roles it makes are enough for syncs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from json import dumps
from pathlib import Path

import pytest

from integration_tests.source.reading import config
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded, wait_until

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(
    r"^(?:    |ExecStart=)(airbyte-pg (?:status|sync --continuous) .*)$",
    TEXT + (ROOT / "README.md").read_text(),
    re.MULTILINE,
)
PROGRAM = [sys.executable, "-c", "from airbyte_pg.main import main; main()"]
WAL_LEVEL, SOURCE_ROLE, DESTINATION_ROLE, READERS, SLOTS, OLD_TRANSACTIONS, FAREWELL = BLOCKS


@pytest.fixture
def server() -> Iterator[Cluster]:
    """A server of its own: roles and the documented names of databases are the whole server's."""
    with Cluster(embedded(16)) as cluster:
        yield cluster


def sync(folder: Path) -> str:
    files = {"source-config": "source.json", "destination-config": "destination.json", "state": "state.json"}
    options = [part for option, file in files.items() for part in (f"--{option}", str(folder / file))]
    command = [*PROGRAM, "sync", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_documented_roles_are_enough_and_the_queries_show_the_slot(server: Cluster, tmp_path: Path):
    shop, warehouse = Database(server, "shop"), Database(server, "warehouse")
    shop.execute(WAL_LEVEL.partition("--")[0])
    shop.execute("create table users (id int primary key); create table orders (id int primary key, owner int)")
    shop.execute("insert into users values (1), (2); insert into orders values (1, 2)")
    shop.execute(SOURCE_ROLE)
    warehouse.execute(DESTINATION_ROLE)
    warehouse.execute(READERS)
    source = shop.config(username="airbyte_source", password="secret", schemas=["public"])
    destination = warehouse.config(username="airbyte_destination", password="secret", schema="public")
    (tmp_path / "source.json").write_text(dumps(source))
    (tmp_path / "destination.json").write_text(dumps(destination))

    assert "synced 3 rows" in sync(tmp_path)
    shop.execute("update orders set owner = 1")
    assert "synced 1 rows" in sync(tmp_path)

    assert warehouse.rows("set role analyst; select id, owner from public.orders") == [(1, 1)]
    ((name, active, status, *_),) = shop.rows(SLOTS)
    assert (name, active, status) == ("airbyte_slot", False, "reserved")
    shop.execute(OLD_TRANSACTIONS)
    shop.execute(FAREWELL)
    assert shop.rows(SLOTS) == []


def has_rows(database: Database, count: int) -> bool:
    there = database.value("select to_regclass('public.t') is not null")
    return bool(there and database.value("select count(*) from public.t") == count)


def test_the_documented_commands_run(source_db: Database, destination_db: Database, tmp_path: Path):
    source_db.execute("create table t (id int primary key)")
    (tmp_path / "source.json").write_text(dumps(config(source_db)))
    (tmp_path / "destination.json").write_text(dumps(destination_db.config(schema="public")))
    # Runs first, so that there is something to look at.
    syncs = [command for command in COMMANDS if "--continuous" in command]
    others = [command for command in COMMANDS if "--continuous" not in command]
    assert (len(syncs), len(others)) == (3, 3)
    for number, command in enumerate(syncs):
        source_db.execute("insert into t values (%s)", number)
        with (tmp_path / "log").open("wb") as log:
            run = subprocess.Popen([*PROGRAM, *command.split()[1:]], cwd=tmp_path, stdout=log, stderr=log)
        try:
            wait_until(partial(has_rows, destination_db, number + 1), 60, "it arrives")
            run.terminate()
            assert run.wait(60) == 0, (tmp_path / "log").read_text()
        finally:
            run.kill()
            run.wait()
    for command in others:
        done = subprocess.run(
            [*PROGRAM, *command.split()[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done
        assert "public.t" in done.stdout
