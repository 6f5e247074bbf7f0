"""``airbyte-pg status``: a healthy, a lagging, a missing and a lost slot; it disturbs nobody and waits for nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from airbyte_pg.watch import SourceAddress
from integration_tests.runner.test_resync import Pair
from integration_tests.source.reading import slot_of
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, wait_until
from source_postgres_cdc.settings import DEFAULT_PUBLICATION, DEFAULT_SLOT

WRITE_MUCH = "insert into t select i, repeat(md5(i::text), 20) from generate_series(1000, 20000) i"
PROGRAM = [sys.executable, "-c", "from airbyte_pg.main import main; main()", "status"]


class Status:
    """The status of a pair that has been synced once."""

    def __init__(self, pair: Pair, folder: Path) -> None:
        self.pair, self.folder = pair, folder

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        options = [f"--{side}-config={self.folder / side}.json" for side in ("source", "destination")]
        command = [*PROGRAM, *options, f"--state={self.pair.state}", *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        for database in (self.pair.source, self.pair.destination):
            assert database.config()["password"] not in done.stdout + done.stderr
        return done

    def json(self, *more: str, code: int = 0) -> dict[str, Any]:
        done = self.run("--json", *more)
        assert done.returncode == code, done
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def alerts(self, *more: str) -> list[str]:
        return [alert["kind"] for alert in self.json(*more, code=3)["alerts"]]

    def edit_state(self, **more: Any) -> None:
        (state,) = json.loads(self.pair.state.read_text())
        state["global"]["shared_state"]["cdc"] |= more
        self.pair.state.write_text(json.dumps([state]))


@pytest.fixture
def status(source_db: Database, destination_db: Database, tmp_path: Path) -> Status:
    pair = Pair(source_db, destination_db, tmp_path)
    done = pair.sync()
    assert done.returncode == 0, done.stderr
    return Status(pair, tmp_path)


def test_healthy(status: Status):
    pair = status.pair
    pair.source.execute("vacuum analyze t")
    pair.destination.execute("vacuum analyze public.t")
    assert pair.sync().returncode == 0
    found = status.json("--max-retained-bytes", str(1 << 30))
    source = found["source"]
    assert source["slot"]["name"] == slot_of(pair.source)
    assert source["slot"]["wal_status"] == ("reserved" if pair.source.server.major >= 13 else None)
    assert source["slot"]["catalog_xmin_age"] >= 0
    assert (source["slot"]["active_pid"], source["sessions"]) == (None, 0)
    (state,) = json.loads(pair.state.read_text())
    assert found["lag"]["position"] == state["global"]["shared_state"]["cdc"]["lsn"]
    assert found["lag"]["bytes"] < 10_000
    assert found["streams"] == [
        {"namespace": "public", "name": "t", "snapshot": 1.0, "source_rows": 2, "destination_rows": 2}
    ]
    done = status.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "public.t  complete" in done.stdout
    assert "no sync is reading" in done.stdout
    assert "ALERT" not in done.stdout


def test_position_at_the_servers_end_is_no_lag_however_old_it_is(status: Status):
    end = status.pair.source.value("select pg_current_wal_flush_lsn()::text")
    status.edit_state(lsn=end, at="2020-01-01T00:00:00Z")
    found = status.json("--max-lag-seconds", "1")
    if found["source"]["position"] == end:
        assert (found["lag"]["bytes"], found["lag"]["seconds"]) == (0, 0.0)


def test_lagging(status: Status):
    pair = status.pair
    pair.source.execute(WRITE_MUCH)
    status.edit_state(at=pair.source.value("select to_json(now() - interval '90 s')#>>'{}'"))
    lag = status.json("--max-lag-seconds", "600", "--max-retained-bytes", str(1 << 30))["lag"]
    assert lag["bytes"] > 10_000_000
    assert 90 < lag["seconds"] < 120
    limits = ("--max-lag-seconds", "60", "--max-retained-bytes", "1000000")
    assert status.alerts(*limits) == ["retained_bytes", "lag_seconds"]
    done = status.run(*limits)
    assert done.returncode == 3
    assert "ALERT: The destination may be 9" in done.stdout
    assert "MB of WAL, more than 1.0 MB" in done.stdout


def test_lag_that_the_state_does_not_know_is_no_good_news(status: Status):
    status.pair.source.execute(WRITE_MUCH)
    (state,) = json.loads(status.pair.state.read_text())
    state["global"]["shared_state"]["cdc"].pop("at", None)
    status.pair.state.write_text(json.dumps([state]))
    assert status.json()["lag"]["seconds"] is None
    assert status.alerts("--max-lag-seconds", "60") == ["lag_unknown"]


def test_missing(status: Status):
    status.pair.source.execute("select pg_drop_replication_slot(%s)", slot_of(status.pair.source))
    assert status.alerts() == ["slot_missing"]
    assert "slot      none" in status.run().stdout


@pytest.fixture
def small_cluster(source_cluster: Cluster) -> Iterator[Cluster]:
    """A server of its own that lets go of slots soon."""
    if source_cluster.major < 13:
        pytest.skip("max_slot_wal_keep_size came with PostgreSQL 13")
    settings = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    with Cluster(source_cluster.binaries, settings=settings) as cluster:
        yield cluster


def test_lost(small_cluster: Cluster, destination_db: Database, tmp_path: Path):
    with Database(small_cluster) as source_db:
        pair = Pair(source_db, destination_db, tmp_path)
        assert pair.sync().returncode == 0
        slot = "select wal_status, safe_wal_size from pg_replication_slots"

        def is_lost() -> bool:
            source_db.execute("insert into t select 1 + max(id), repeat('x', 100000) from t; checkpoint")
            source_db.execute("select pg_switch_wal()")
            return bool(source_db.rows(slot)[0][0] == "lost")

        wait_until(is_lost, 60, "the slot is lost")
        status = Status(pair, tmp_path)
        assert status.alerts("--max-retained-bytes", "1") == ["slot_lost"]
        done = status.run()
        assert "is lost" in done.stdout
        assert "must be read anew" in done.stdout


def test_states_per_stream_and_snapshots_in_parts(status: Status):
    (state,) = json.loads(status.pair.state.read_text())
    shared = state["global"]["shared_state"]["cdc"]
    own = {"version": 1, "complete": False, "page": 30, "pages": 120, "file": 1, "shared": {**shared, "lsn": "0/1"}}
    named = {"stream_descriptor": {"name": "t", "namespace": "public"}, "stream_state": {"cdc": own}}
    status.pair.state.write_text(json.dumps([{"type": "STREAM", "stream": named}]))
    found = status.json()
    assert (found["lag"]["position"], found["streams"][0]["snapshot"]) == ("0/1", 0.25)
    assert "25%" in status.run().stdout


def test_partitions_count_with_their_root(status: Status):
    source = status.pair.source
    if source.server.major < 13:
        pytest.skip("partitioned tables are followed since 13")
    source.execute(
        "create table p (id int primary key) partition by range (id);"
        "create table p1 partition of p for values from (0) to (10);"
        "create table p2 partition of p for values from (10) to (100); insert into p select generate_series(1, 50)"
    )
    assert status.pair.sync().returncode == 0
    source.execute("analyze p1; analyze p2")
    assert {stream["name"]: stream["source_rows"] for stream in status.json()["streams"]}["p"] == 50


def test_without_a_state_the_slot_is_what_there_is(status: Status):
    status.pair.state.unlink()
    found = status.json()
    assert found["lag"]["position"] is None
    command = [*PROGRAM, f"--source-config={status.folder / 'source.json'}", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, timeout=60, check=True).stdout)
    assert found["lag"]["position"] == found["source"]["slot"]["confirmed_lsn"]
    assert [stream["name"] for stream in found["streams"]] == ["t"]
    late = subprocess.run([*command, "--max-lag-seconds=1"], capture_output=True, timeout=60, check=False)
    assert (late.returncode, b"needs --state" in late.stderr) == (2, True)


def test_it_waits_for_nobody_while_a_sync_runs(status: Status):
    """The sync waits for a lock; the status does not, neither there nor at the destination."""
    source, destination = status.pair.source, status.pair.destination
    source.execute("create table u (id int primary key); insert into u values (1)")
    waiting = "select count(*) from pg_locks where not granted"
    with closing(source.connect()) as blocker, closing(destination.connect()) as other:
        blocker.cursor().execute("begin; lock table t, u in access exclusive mode")
        other.cursor().execute("begin; lock table public.t in access exclusive mode")
        sync = subprocess.Popen(status.pair.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: source.value(waiting) > 0, 30, "the sync wants to read the table")
            assert status.json()["source"]["sessions"] > 0
            assert "sessions of a sync" in status.run().stdout
        finally:
            sync.kill()
            sync.wait()


def test_server_that_cannot_be_asked_is_an_error_and_no_alert(status: Status):
    config = json.loads((status.folder / "source.json").read_text())
    (status.folder / "source.json").write_text(json.dumps({**config, "password": "not-this-one"}))
    done = status.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert "refused user name or password" in done.stderr
    assert "not-this-one" not in done.stderr


def test_it_looks_for_the_names_that_the_source_uses():
    named = SourceAddress(host="h", database="d", username="u").replication_method
    assert (named.replication_slot, named.publication) == (DEFAULT_SLOT, DEFAULT_PUBLICATION)
