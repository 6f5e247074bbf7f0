"""PyAirbyte, a client nobody here wrote, runs both connectors: by their local executables, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from integration_tests.source.reading import config
from integration_tests.support.databases import Database

INTERPRETER = Path(sys.executable).parent.parent / "pyairbyte" / "bin" / "python"
SCRIPT = Path(__file__).with_name("script.py")
LOCAL = {
    side: {"local_executable": str(Path(sys.executable).with_name(name))}
    for side, name in (("source", "source-postgres-cdc"), ("destination", "destination-postgres"))
}


def run_script(folder: Path, **given: Any) -> dict[str, Any]:
    """What the script said in the end."""
    offline = {"AIRBYTE_OFFLINE_MODE": "1", "DO_NOT_TRACK": "1", "AIRBYTE_LOGGING_ROOT": str(folder / "logs")}
    done = subprocess.run(
        [str(INTERPRETER), str(SCRIPT)],
        input=json.dumps({"folder": str(folder), **given}),
        cwd=folder,
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.fixture
def shop(source_db: Database) -> Database:
    source_db.execute("create table users (id int primary key, name text)")
    source_db.execute("insert into users values (1, 'Ada'), (2, 'Grace'), (3, null)")
    source_db.execute("create table visits (page text)")
    return source_db


def change(shop: Database) -> None:
    shop.execute("update users set name = 'Edsger' where id = 3; insert into users values (4, 'Barbara')")
    shop.execute("delete from users where id = 1")


AFTERWARDS = [(2, "Grace"), (3, "Edsger"), (4, "Barbara")]


def test_a_second_read_into_the_cache_reads_only_what_is_new(shop: Database, tmp_path: Path):
    given = {"source_config": config(shop, state_type="stream"), "source": LOCAL["source"], "streams": ["users"]}
    first = run_script(tmp_path, **given)
    assert first == {"available": ["users", "visits"], "read": 3, "rows": {"users": 3}}
    change(shop)
    second = run_script(tmp_path, **given)
    assert second["read"] == 3
    # The cache keeps the deleted row, with _ab_cdc_deleted_at: it knows nothing of deletes.
    assert second["rows"] == {"users": 4}
    assert run_script(tmp_path, **given)["read"] == 0


@pytest.mark.parametrize("cached", [False, True])
def test_source_to_destination(shop: Database, destination_db: Database, tmp_path: Path, cached: bool):
    given = {
        "source_config": config(shop, state_type="stream"),
        "source": LOCAL["source"],
        "destination_config": destination_db.config(schema="public"),
        "destination": LOCAL["destination"],
        "streams": ["users"],
        "cached": cached,
    }
    assert run_script(tmp_path, **given)["read"] == 3
    assert destination_db.rows("select id, name from users order by id") == [(1, "Ada"), (2, "Grace"), (3, None)]
    change(shop)
    run_script(tmp_path, **given)
    assert destination_db.rows("select id, name from users order by id") == AFTERWARDS


def test_a_global_state_passes_through_where_nothing_has_to_keep_it(
    shop: Database, destination_db: Database, tmp_path: Path
):
    given = {
        "source_config": config(shop),
        "source": LOCAL["source"],
        "destination_config": destination_db.config(schema="public"),
        "destination": LOCAL["destination"],
        "streams": ["users"],
        "cached": False,
        "stateless": True,
    }
    assert run_script(tmp_path, **given)["read"] == 3
    assert destination_db.value("select count(*) from users") == 3
