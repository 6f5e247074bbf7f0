"""The destination alone, from files of lines that our source printed, next to psql and to a native subscription."""

from __future__ import annotations

import uuid

from psycopg2 import sql

from integration_tests.bench.ground import Ground
from integration_tests.bench.measure import Measured
from integration_tests.support.databases import Database


class DestinationBench:
    """Loads of a database that is made for each run: empty, or as it was before the backlog."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._before: Database | None = None

    # Appending.

    def record(self, table: str) -> None:
        """Write ``<table>.jsonl``, and what psql loads: the rows of the tables that the destination makes of it."""
        ground = self._ground
        ground.forget_slot()
        lines, ends = ground.path(f"{table}.jsonl"), ground.path(f"{table}.ends.jsonl")
        ground.pipe(ground.source_command(f"{table}.append.json"), stdout=lines)
        with lines.open("rb") as given:
            ends.write_bytes(b"".join(line for line in given if line.startswith(b'{"type":"TRACE"')))
        with self._empty() as database:
            self._write(database, f"{table}.append.json", lines.name)
            for part, made in self._parts(table).items():
                ground.pipe(ground.psql(database, f"\\copy {made} to '{ground.path(f'{table}.{part}')}'"))

    def append(self, table: str, lines: str | None = None, **options: str) -> Measured:
        """The table's file, or ``lines``, into raw and final tables; ``options`` are the destination's."""
        with self._empty() as database:
            return self._write(database, f"{table}.append.json", lines or f"{table}.jsonl", **options)

    def copy_in(self, table: str, *parts: str) -> Measured:
        """psql: COPY of the rows of ``parts`` (raw, final), one after the other, into tables of the same definition."""
        made = self._parts(table)
        copies = [f"\\copy {made[part]} from '{self._ground.path(f'{table}.{part}')}'" for part in parts]
        with self._empty() as database:
            # Without a record it makes the tables, and no more.
            self._write(database, f"{table}.append.json", f"{table}.ends.jsonl")
            return self._ground.pipe(self._ground.psql(database, *copies))

    def spoil(self, rows: int) -> None:
        """Write ``good.jsonl``, the first ``rows`` records of ``narrow``, and ``bad.jsonl``: each with a bad number."""
        path = self._ground.path
        with (
            path("narrow.jsonl").open("rb") as given,
            path("good.jsonl").open("wb") as good,
            path("bad.jsonl").open("wb") as bad,
        ):
            left = rows
            for line in given:
                is_record = line.startswith(b'{"type":"RECORD"')
                if is_record and left == 0:
                    continue
                left -= is_record
                good.write(line)
                bad.write(line.replace(b'"amount":', b'"amount":"about ', 1).replace(b',"created', b'","created', 1))

    # Deduplicating.

    def record_changes(self) -> None:
        """Write ``changes.jsonl`` of the source's backlog, and load what was before it, deduplicated."""
        ground = self._ground
        if self._before is not None:
            self._before.drop()
        self._before = Database(ground.clusters[1])
        self._write(self._before, "narrow.dedup.json", "before.jsonl")
        self._before.execute("vacuum analyze")
        ground.pipe(ground.source_command("narrow.dedup.json", "state.json"), stdout=ground.path("changes.jsonl"))

    def changes(self, **options: str) -> Measured:
        """The file of the backlog into a copy of what was before it, deduplicated by key."""
        assert self._before is not None
        self._before.close()
        name = f"t_{uuid.uuid4().hex[:12]}"
        parts = map(sql.Identifier, (name, self._before.name))
        self._ground.destination.execute(sql.SQL("create database {} template {}").format(*parts))
        with Database(self._ground.clusters[1], name, exists=True) as database:
            return self._write(database, "narrow.dedup.json", "changes.jsonl", **options)

    @staticmethod
    def _parts(table: str) -> dict[str, str]:
        return {"raw": f"airbyte_internal.public_raw__stream_{table}", "final": f"public.{table}"}

    def _empty(self) -> Database:
        return Database(self._ground.clusters[1])

    def _write(self, database: Database, catalog: str, lines: str, **options: str) -> Measured:
        self._ground.write("run.json", database.config(schema="public", **options))
        # What earlier runs have left to be written is not for this one to wait for.
        database.execute("checkpoint")
        command = self._ground.destination_command(catalog, "run.json")
        return self._ground.pipe(command, stdin=self._ground.path(lines))
