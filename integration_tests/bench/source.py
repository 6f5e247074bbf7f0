"""The source alone: snapshots and backlogs to JSON lines, next to COPY and pg_recvlogical."""

from __future__ import annotations

import os
import sys

from integration_tests.bench.ground import Ground
from integration_tests.bench.measure import Measured
from integration_tests.support.connector import SOURCE


class SourceBench:
    """The table ``narrow``, or another one, and its backlogs to /dev/null."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def snapshot(self, table: str = "narrow") -> Measured:
        """The whole table to JSON lines."""
        self._ground.forget_slot()
        return self._ground.pipe(self._ground.source_command(f"{table}.append.json"))

    def copy_out(self, table: str = "narrow") -> Measured:
        """``COPY table TO STDOUT``."""
        return self._ground.pipe(self._ground.psql(self._ground.source, f"copy {table} to stdout"))

    def discover(self) -> Measured:
        """The catalog of every table."""
        self._ground.write("tables.json", self._ground.many_tables().config(schemas=["public"]))
        path = str(self._ground.path("tables.json"))
        return self._ground.pipe([sys.executable, "-m", SOURCE, "discover", "--config", path])

    def list_columns(self) -> Measured:
        """The columns of every table, as the information schema has them."""
        query = "select * from information_schema.columns where table_schema = 'public'"
        return self._ground.pipe(self._ground.psql(self._ground.many_tables(), query))

    def changes_by(self, transport: str, table: str = "narrow") -> Measured:
        """The backlog to JSON lines."""
        self._ground.write("source.json", {**self._ground.config, "transport": transport})
        try:
            return self._ground.pipe(self._ground.source_command(f"{table}.append.json", "state.json"))
        finally:
            self._ground.write("source.json", self._ground.config)

    def recvlogical(self) -> Measured:
        """The backlog by pg_recvlogical to /dev/null, from a copy of the same slot."""
        ground, database, server = self._ground, self._ground.source, self._ground.clusters[0]
        name = f"recv_{database.name}"
        database.execute("select pg_copy_logical_replication_slot(%s, %s)", ground.slot, name)
        end = database.value("select pg_current_wal_flush_lsn()::text")
        command = [server.binaries.program("pg_recvlogical"), "-h", server.host, "-p", str(server.port)]
        command += ["-U", "postgres", "-d", database.name, "--slot", name, "--start", "--endpos", end, "-n"]
        command += ["-f", "/dev/null", "-o", "proto_version=1", "-o", "publication_names=airbyte_publication"]
        password = {**os.environ, "PGPASSWORD": database.config()["password"]}
        try:
            return ground.pipe(command, environment=password)
        finally:
            database.execute("select pg_drop_replication_slot(%s)", name)
