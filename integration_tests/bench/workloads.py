"""The narrow table of six columns, its backlogs of changes, and ways to move them: ours, and PostgreSQL's own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from integration_tests.bench.measure import Measured, pipe
from integration_tests.support import connector
from integration_tests.support.catalogs import configured
from integration_tests.support.connector import DESTINATION, SOURCE
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, wait_until

CREATE = """
create table narrow (
    id bigint primary key, customer text, amount numeric(12,2), created_at timestamptz, paid boolean, note text
)
"""
FILL = """
insert into narrow
select i, 'customer ' || i %% 5000, (i %% 100000) / 7.0, timestamptz '2024-01-01' + i * interval '1 second',
       i %% 3 = 0, case when i %% 4 > 0 then md5(i::text) end
from generate_series(%s::bigint, %s::bigint) i
"""
CHANGES_PER_TRANSACTION = 1000


class Bench:
    """A source and a destination database, and the files that commands are called with."""

    def __init__(self, source: Cluster, destination: Cluster, rows: int, changes: int) -> None:
        self.rows, self.changes = rows, changes
        self._clusters = source, destination
        self.source, self.destination = Database(source), Database(destination)
        self._files = Path(tempfile.mkdtemp(prefix="airbyte-pg-bench-"))
        self.slot = f"slot_{self.source.name}"
        method = {"replication_slot": self.slot, "publication": "airbyte_publication"}
        self._config = self.source.config(schemas=["public"], replication_method=method)
        self._write("source.json", self._config)
        self._write("destination.json", self.destination.config(schema="public"))
        self.source.execute(CREATE)
        self.source.execute(FILL, 1, rows)
        self.source.execute("vacuum analyze narrow")
        streams = connector.run(SOURCE, "discover", config=self._files / "source.json").catalog["streams"]
        self._stream = streams[0]
        self._write("append.json", configured(streams, "incremental", "append"))
        self._write("dedup.json", configured(streams, "incremental", "append_dedup"))
        self._write("overwrite.json", configured(streams, "full_refresh", "overwrite", generation=1, minimum=1))

    @property
    def size_mb(self) -> float:
        """Size of the table as COPY text."""
        return float(self.source.value("select sum(length(n::text)) / 1e6 from narrow n")) * self.rows / self._count()

    def _count(self) -> int:
        return int(self.source.value("select count(*) from narrow"))

    # Ours.

    def snapshot(self) -> Measured:
        """The whole table to JSON lines."""
        self._forget_slot()
        return pipe(self._source("append.json"))

    def changes_by(self, transport: str) -> Measured:
        """The backlog to JSON lines."""
        self._write("source.json", {**self._config, "transport": transport})
        try:
            return pipe(self._source("append.json", "state.json"))
        finally:
            self._write("source.json", self._config)

    def server_cpu(self, work: Callable[[], object]) -> float:
        """Seconds of CPU of the source's server while ``work`` is done."""
        before = self._server_seconds()
        work()
        return self._server_seconds() - before

    def _server_seconds(self) -> float:
        # Of the postmaster's children too, once they have ended and been waited for.
        postmaster = psutil.Process(self._clusters[0].pid)
        times = [postmaster.cpu_times(), *(child.cpu_times() for child in postmaster.children())]
        own = sum(each.user + each.system for each in times)
        return float(own + times[0].children_user + times[0].children_system)

    def pair_snapshot(self) -> Measured:
        """The whole table into raw and final tables."""
        self._forget_slot()
        self._empty_destination()
        return pipe(self._source("append.json"), self._destination("append.json"))

    def pair_stream(self) -> Measured:
        """The backlog into raw and final tables, deduplicated by key."""
        return pipe(self._source("dedup.json", "state.json"), self._destination("dedup.json"))

    def load_destination(self) -> None:
        """The table as it was before the backlog, deduplicated, at the destination."""
        self._forget_slot()
        self._empty_destination()
        pipe(self._source("dedup.json"), self._destination("dedup.json"))

    # PostgreSQL's.

    def copy_out(self) -> float:
        """``COPY narrow TO STDOUT``."""
        return self._psql_pipe(["copy narrow to stdout"])

    def copy_across(self) -> float:
        """``COPY narrow TO STDOUT | COPY narrow FROM STDIN``."""
        self._own_table()
        return self._psql_pipe(["copy narrow to stdout", "copy theirs.narrow from stdin"])

    def recvlogical(self) -> float:
        """The backlog by pg_recvlogical to /dev/null, from a copy of the same slot."""
        name = f"recv_{self.source.name}"
        self.source.execute("select pg_copy_logical_replication_slot(%s, %s)", self.slot, name)
        source = self._clusters[0]
        end = self.source.value("select pg_current_wal_flush_lsn()::text")
        command = [
            source.binaries.program("pg_recvlogical"),
            "-h",
            source.host,
            "-p",
            str(source.port),
            "-U",
            "postgres",
        ]
        command += ["-d", self.source.name, "--slot", name, "--start", "--endpos", end, "-n", "-f", "/dev/null"]
        command += ["-o", "proto_version=1", "-o", "publication_names=airbyte_publication"]
        try:
            return pipe(command, environment=self._password(self.source)).seconds
        finally:
            self.source.execute("select pg_drop_replication_slot(%s)", name)

    def subscription(self) -> float:
        """The backlog applied by a native subscription, from a copy of the same slot."""
        self._own_table()
        self._psql_pipe(["copy (select * from before) to stdout", "copy theirs.narrow from stdin"])
        name = f"sub_{self.source.name}"
        self.source.execute("select pg_copy_logical_replication_slot(%s, %s)", self.slot, name)
        end = self.source.value("select pg_current_wal_flush_lsn()::text")
        config = self.source.config()
        dsn = f"host={config['host']} port={config['port']} dbname={self.source.name} user=postgres"
        self.destination.execute("create schema if not exists narrow_holder")
        # A subscription applies to the table of the same name and schema.
        self.destination.execute("alter table if exists public.narrow rename to narrow_of_ours")
        self.destination.execute("alter table theirs.narrow set schema public")
        started = time.perf_counter()
        self.destination.execute(
            f"create subscription {name} connection '{dsn} password={config['password']}' "
            f"publication airbyte_publication with (create_slot = false, slot_name = '{name}', copy_data = false)"
        )
        applied = (
            "select coalesce(confirmed_flush_lsn >= %s::pg_lsn, false) from pg_replication_slots where slot_name = %s"
        )
        wait_until(lambda: self.source.value(applied, end, name), 600, "the subscription has applied the backlog")
        seconds = time.perf_counter() - started
        self.destination.execute(f"alter subscription {name} disable")
        self.destination.execute(f"alter subscription {name} set (slot_name = none)")
        self.destination.execute(f"drop subscription {name}")
        self.destination.execute("drop table public.narrow")
        self.destination.execute("alter table if exists public.narrow_of_ours rename to narrow")
        dropped = "select count(*) from pg_replication_slots where slot_name = %s and active"
        wait_until(lambda: self.source.value(dropped, name) == 0, 60, "the subscription's sender is gone")
        self.source.execute("select pg_drop_replication_slot(%s)", name)
        return seconds

    # Backlogs.

    def make_backlog(self, kind: str) -> None:
        """``inserts`` or ``updates`` of CHANGES_PER_TRANSACTION rows each, or inserts in ``one transaction``, behind a
        state that is saved."""
        self._forget_slot()
        self.source.execute("drop table if exists before")
        self.source.execute("create table before as select * from narrow")
        # Line by line: a fork inherits the peak memory of its parent, and would report ours as its own.
        with subprocess.Popen(self._source("append.json"), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(b'{"type":"STATE"'):
                    (self._files / "state.json").write_bytes(line)
        with contextlib.closing(self.source.connect()) as session, session.cursor() as cursor:
            if kind == "one transaction":
                cursor.execute("begin")
            for start in range(0, self.changes, CHANGES_PER_TRANSACTION):
                if kind != "updates":
                    first = (10_000_000 if kind == "inserts" else 20_000_000) + start
                    cursor.execute(FILL, (first, first + CHANGES_PER_TRANSACTION - 1))
                else:
                    first = 1 + start % self.rows
                    cursor.execute(
                        "update narrow set amount = amount + 1 where id between %s and %s",
                        (first, first + CHANGES_PER_TRANSACTION - 1),
                    )
            if kind == "one transaction":
                cursor.execute("commit")

    def _forget_slot(self) -> None:
        self.source.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", self.slot
        )

    def _empty_destination(self) -> None:
        self.destination.execute("drop schema if exists airbyte_internal cascade")
        self.destination.execute("drop table if exists public.narrow")

    def _own_table(self) -> None:
        self.destination.execute("create schema if not exists theirs")
        self.destination.execute("drop table if exists theirs.narrow")
        self.destination.execute(CREATE.replace("table narrow", "table theirs.narrow"))

    def _source(self, catalog: str, state: str | None = None) -> list[str]:
        command = [sys.executable, "-m", SOURCE, "read", "--config", self._path("source.json")]
        command += ["--catalog", self._path(catalog)]
        return command + (["--state", self._path(state)] if state else [])

    def _destination(self, catalog: str) -> list[str]:
        files = ["--config", self._path("destination.json"), "--catalog", self._path(catalog)]
        return [sys.executable, "-m", DESTINATION, "write", *files]

    def _psql_pipe(self, statements: list[str]) -> float:
        databases = (self.source, self.destination)[: len(statements)]
        commands = []
        for cluster, database, statement in zip(self._clusters, databases, statements):  # noqa: B905 - one or two
            program = cluster.binaries.program("psql")
            where = f"host={cluster.host} port={cluster.port} dbname={database.name} user=postgres"
            where += f" password={database.config()['password']}"
            commands.append([program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", where, "-c", statement])
        return pipe(*commands).seconds

    @staticmethod
    def _password(database: Database) -> dict[str, str]:
        return {**os.environ, "PGPASSWORD": database.config()["password"]}

    def _path(self, name: str) -> str:
        return str(self._files / name)

    def _write(self, name: str, document: Any) -> None:
        (self._files / name).write_text(json.dumps(document))
