"""The README's commands, word by word: discover, the pipe of two containers, again, and with a kill in between."""

from __future__ import annotations

import subprocess

import pytest
from docker import DockerClient

from integration_tests.images.containers import Folder, readme
from integration_tests.source.reading import config, confirmed
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

pytestmark = [pytest.mark.images, pytest.mark.timeout(300)]

DISCOVER, PIPE, RUNNER = readme("As containers")


def prepared(folder: Folder) -> None:
    done = folder.shell(DISCOVER)
    assert done.returncode == 0, done.stderr


def test_the_readmes_pipe_moves_the_rows_then_the_changes(
    folder: Folder, source_db: Database, destination_db: Database
):
    prepared(folder)
    done = folder.shell(PIPE)
    assert done.returncode == 0, done.stderr
    assert destination_db.rows("select id, name from users order by id") == [(1, "Ada"), (2, "Grace"), (3, "Edsger")]

    source_db.execute("update users set name = 'Lovelace' where id = 1; delete from users where id = 2")
    done = folder.shell(PIPE)
    assert done.returncode == 0, done.stderr
    assert destination_db.rows("select id, name from users order by id") == [(1, "Lovelace"), (3, "Edsger")]
    assert destination_db.value("select count(*) from airbyte_internal.public_raw__stream_users") == 5
    assert "STATE" in {line.get("type") for line in folder.lines("states.jsonl")}


@pytest.mark.parametrize("victim", ["source-postgres-cdc", "destination-postgres"])
def test_a_container_killed_on_the_way_is_made_good_by_the_next_pipe(
    folder: Folder, source_db: Database, destination_db: Database, engine: DockerClient, victim: str
):
    source_db.execute("insert into users select n, 'user ' || n from generate_series(4, 400000) n")
    prepared(folder)
    folder.write("destination.json", destination_db.config(schema="public", flush_rows=2000))
    pipe = subprocess.Popen(
        ["bash", "-c", "set -o pipefail\n" + PIPE], cwd=folder.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    loading = "select to_regclass('airbyte_internal.public_raw__stream_users') is not null"
    wait_until(lambda: destination_db.value(loading) or pipe.poll() is not None, 60, "the destination has begun")
    assert pipe.poll() is None
    for container in engine.containers.list():
        if victim in str(container.attrs["Config"]["Image"]):
            container.kill()
    said, _ = pipe.communicate(timeout=120)
    assert pipe.returncode != 0, said

    source_db.execute("delete from users where id % 2 = 0")
    done = folder.shell(PIPE)
    assert done.returncode == 0, done.stderr
    assert destination_db.rows("select count(*), sum(id) from users") == source_db.rows(
        "select count(*), sum(id) from users"
    )
    assert engine.containers.list(all=True) == []


def test_the_readmes_runner_runs_the_images(folder: Folder, source_db: Database, destination_db: Database):
    first = folder.shell(RUNNER)
    assert first.returncode == 0, first.stderr
    assert "synced 3 rows" in first.stdout
    source_db.execute("insert into users values (4, 'Barbara')")
    second = folder.shell(RUNNER)
    assert "synced 1 rows" in second.stdout, second
    assert destination_db.value("select count(*) from users") == 4


def test_the_runner_goes_on_with_the_images_until_it_is_told_to_stop(
    folder: Folder, source_db: Database, destination_db: Database, engine: DockerClient
):
    folder.write("source.json", config(source_db, acknowledge_seconds=1))
    with folder.start(f"exec {RUNNER} --continuous") as runner:
        try:
            _wait_for_users(runner, destination_db, 3)
            source_db.execute("insert into users values (4, 'Barbara')")
            _wait_for_users(runner, destination_db, 4)
            before = confirmed(source_db)
            source_db.execute("insert into users values (5, 'Katherine')")
            # What came back is seen inside of the container.
            wait_until(lambda: confirmed(source_db) != before, 60, "the slot is moved")
        finally:
            runner.terminate()
            said, _ = runner.communicate(timeout=120)
    assert runner.returncode == 0, said
    assert destination_db.value("select count(*) from users") == 5
    assert engine.containers.list(all=True) == []


def _wait_for_users(runner: subprocess.Popen[str], database: Database, count: int) -> None:
    def are_there() -> bool:
        assert runner.poll() is None, runner.communicate()[0]
        is_table = database.value("select to_regclass('public.users') is not null")
        return bool(is_table and database.value("select count(*) from users") == count)

    wait_until(are_there, 60, f"{count} users have arrived")
