"""The ground of every measurement: two databases, the tables that are moved, backlogs of changes, and the commands."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from integration_tests.bench.measure import Measured, pipe
from integration_tests.support import connector
from integration_tests.support.catalogs import configured
from integration_tests.support.connector import DESTINATION, SOURCE
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster

NARROW = """
create table {} (
    id bigint primary key, customer text, amount numeric(12,2), created_at timestamptz, paid boolean, note text
)
"""
FILL_NARROW = """
insert into narrow
select i, 'customer ' || i %% 5000, (i %% 100000) / 7.0, timestamptz '2024-01-01' + i * interval '1 second',
       i %% 3 = 0, case when i %% 4 > 0 then md5(i::text) end
from generate_series(%s::bigint, %s::bigint) i
"""
# 30 columns: whole numbers, decimals, texts, moments, booleans, dates, documents. Every eighth text is NULL.
WIDE = """
create table wide as
select i as id, i * 7919 as b1, i %% 100 as b2, -i as b3, i * 1000000007 as b4,
       (i %% 100000) / 7.0 as n1, i * 0.01 as n2, -i / 3.0 as n3, (i %% 1000)::numeric(12,2) as n4, i * 1e6 as n5,
       'customer ' || i %% 5000 as t1, md5(i::text) as t2, 'status ' || i %% 5 as t3,
       case when i %% 8 > 0 then repeat(md5(i::text), 3) end as t4, 'Zürich ' || i %% 100 as t5, 'a "quoted" one' as t6,
       timestamptz '2024-01-01' + i * interval '1 second' as z1, timestamptz '2001-02-03 04:05:06.789' as z2,
       timestamptz '2024-01-01' + i * interval '1 ms' as z3,
       timestamp '2024-01-01' + i * interval '1 minute' as s1, timestamp '2024-01-01 12:34:56.123456' as s2,
       i %% 2 = 0 as f1, i %% 3 = 0 as f2, i %% 5 = 0 as f3, i %% 7 = 0 as f4,
       date '2000-01-01' + (i %% 9000)::int as d1, date '2024-02-29' as d2, date '1970-01-01' + (i %% 20000)::int as d3,
       jsonb_build_object('id', i, 'tags', jsonb_build_array('x', 'y'), 'price', i / 4.0) as j1,
       jsonb_build_object('name', md5(i::text), 'nested', jsonb_build_object('n', i, 'ok', true)) as j2
from generate_series(1, %s::bigint) i
"""
# 30 columns of everything that is common, in a thousand bytes a row.
MIXED = """
create table mixed (
    id bigint primary key, small smallint, whole integer, large bigint, exact numeric(12,2), free numeric, single real,
    twice double precision, flag boolean, short varchar(20), code char(8), note text, long_1 text, long_2 text,
    label mood, day date, clock time, moment timestamp, moment_tz timestamptz, span interval, uid uuid, bytes bytea,
    address inet, bits bit(8), place point, document jsonb, plain json, numbers int[], texts text[], period int4range
)
"""
FILL_MIXED = """
insert into mixed
select i, i %% 100, i, i * 1000000007, (i %% 100000) / 7.0, i / 7.0, i / 3.0, i / 9.0, i %% 2 = 0,
       'customer ' || i %% 5000,
       lpad((i %% 1000)::text, 8, '0'), case when i %% 4 > 0 then md5(i::text) end, repeat(md5(i::text), 6),
       repeat('Zürich "' || i, 18), (array['new', 'paid', 'sent'])[1 + i %% 3]::mood,
       date '2000-01-01' + (i %% 9000)::int,
       time '00:00' + i * interval '1 second', timestamp '2024-01-01' + i * interval '1 minute',
       timestamptz '2024-01-01' + i * interval '1 second', i * interval '1 second', md5(i::text)::uuid,
       decode(md5(i::text), 'hex'), ('10.' || i %% 256 || '.0.1')::inet, (i %% 256)::int::bit(8), point(i, i / 2.0),
       jsonb_build_object('id', i, 'tags', jsonb_build_array('x', 'y'), 'price', i / 4.0, 'name', md5(i::text)),
       json_build_object('n', i), array[i %% 1000, i %% 7, null], array['a ' || i %% 100, 'b', null],
       int4range((i %% 1000)::int, (i %% 1000 + 10)::int)
from generate_series(%s::bigint, %s::bigint) i
"""
# Two large values a row, stored out of line: an update of the version does not log them.
LARGE = """
create table large (id bigint primary key, version int, body text, more text);
alter table large alter body set storage external, alter more set storage external;
insert into large select i, 0, repeat(md5(i::text), 100), repeat(md5((-i)::text), 100) from generate_series(1, {}) i
"""
TABLES = 2000
CHANGES_PER_TRANSACTION = 1000


class Ground:
    """A source database with the table ``narrow``, a destination database, and the files of the commands."""

    def __init__(self, source: Cluster, destination: Cluster, files: Path, rows: int, changes: int) -> None:
        self.rows, self.changes = rows, changes
        self.clusters = source, destination
        self.servers = source.pid, destination.pid
        self.source, self.destination = Database(source), Database(destination)
        self._tables: Database | None = None
        self._files = files
        self.slot = f"slot_{self.source.name}"
        method = {"replication_slot": self.slot, "publication": "airbyte_publication"}
        self.config = self.source.config(schemas=["public"], replication_method=method)
        self.write("source.json", self.config)
        self.write("destination.json", self.destination.config(schema="public"))
        self.source.execute(NARROW.format("narrow"))
        self.source.execute(FILL_NARROW, 1, rows)
        self.source.execute("vacuum analyze narrow")
        self.write_catalogs("narrow")

    def make_wide(self, rows: int) -> None:
        """A table of 30 columns in the source, and its catalogs."""
        self.source.execute(WIDE, rows)
        self.source.execute("alter table wide add primary key (id)")
        self.source.execute("vacuum analyze wide")
        self.write_catalogs("wide")

    def make_mixed(self, rows: int) -> None:
        """A table of 30 columns of many types in the source, and its catalogs."""
        self.source.execute("create type mood as enum ('new', 'paid', 'sent')")
        self.source.execute(MIXED)
        self.source.execute(FILL_MIXED, 1, rows)
        self.source.execute("vacuum analyze mixed")
        self.write_catalogs("mixed")

    def make_mixed_backlog(self, rows: int, changes: int) -> None:
        """Inserts into ``mixed`` behind its ``rows`` rows; the state before them is ``state.json``."""
        self._read_before("mixed")
        for start in range(rows, rows + changes, CHANGES_PER_TRANSACTION):
            self.source.execute(FILL_MIXED, start + 1, start + CHANGES_PER_TRANSACTION)

    def make_large_backlog(self, rows: int) -> None:
        """A table of ``rows`` rows with large values, each of which an update has left as they were."""
        self.source.execute(LARGE.format(rows))
        self.source.execute("vacuum analyze large")
        self.write_catalogs("large")
        self._read_before("large")
        for start in range(0, rows, CHANGES_PER_TRANSACTION):
            self.source.execute(
                "update large set version = version + 1 where id > %s and id <= %s",
                start,
                start + CHANGES_PER_TRANSACTION,
            )

    def many_tables(self) -> Database:
        """A database with TABLES tables, made when it is asked for first."""
        if self._tables is None:
            self._tables = Database(self.clusters[0])
            for number in range(TABLES):
                self._tables.execute(NARROW.format(f"many_{number}"))
        return self._tables

    def write_catalogs(self, table: str) -> None:
        """The files ``<table>.append.json`` and ``<table>.dedup.json``."""
        found = connector.run(SOURCE, "discover", config=self.path("source.json")).catalog
        for name, mode in (("append", "append"), ("dedup", "append_dedup")):
            self.write(f"{table}.{name}.json", configured(found, "incremental", mode, only=[table]))

    def size_mb(self, table: str = "narrow") -> float:
        """Size of a table as COPY text, of as many rows as it was made with."""
        size, count = self.source.rows(f"select sum(octet_length(t::text)) / 1e6, count(*) from {table} t")[0]
        return float(size) * (self.rows / count if table == "narrow" else 1)

    # Backlogs.

    def make_backlog(self, kind: str) -> None:
        """``inserts`` or ``updates`` of CHANGES_PER_TRANSACTION rows each, or inserts in ``one transaction``.

        The table as it was is in the table ``before`` and in ``before.jsonl``, whose last state is ``state.json``.
        """
        self.source.execute("drop table if exists before")
        self.source.execute("create table before as select * from narrow")
        self._read_before("narrow")
        with contextlib.closing(self.source.connect()) as session, session.cursor() as cursor:
            if kind == "one transaction":
                cursor.execute("begin")
            for start in range(0, self.changes, CHANGES_PER_TRANSACTION):
                if kind != "updates":
                    first = (10_000_000 if kind == "inserts" else 20_000_000) + start
                    cursor.execute(FILL_NARROW, (first, first + CHANGES_PER_TRANSACTION - 1))
                else:
                    first = 1 + start % self.rows
                    cursor.execute(
                        "update narrow set amount = amount + 1 where id between %s and %s",
                        (first, first + CHANGES_PER_TRANSACTION - 1),
                    )
            if kind == "one transaction":
                cursor.execute("commit")

    def _read_before(self, table: str) -> None:
        self.forget_slot()
        self.pipe(self.source_command(f"{table}.append.json"), stdout=self.path("before.jsonl"))
        # Line by line: a fork inherits the peak memory of its parent, and would report ours as its own.
        with self.path("before.jsonl").open("rb") as lines:
            for line in lines:
                if line.startswith(b'{"type":"STATE"'):
                    self.path("state.json").write_bytes(line)

    def forget_slot(self) -> None:
        """The next sync of the source begins anew."""
        self.source.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", self.slot
        )

    # Commands and their files.

    def source_command(self, catalog: str, state: str | None = None) -> list[str]:
        """Our source, reading the streams of a catalog file."""
        command = [sys.executable, "-m", SOURCE, "read", "--config", str(self.path("source.json"))]
        command += ["--catalog", str(self.path(catalog))]
        return command + (["--state", str(self.path(state))] if state else [])

    def destination_command(self, catalog: str, config: str = "destination.json") -> list[str]:
        """Our destination, writing the streams of a catalog file."""
        files = ["--config", str(self.path(config)), "--catalog", str(self.path(catalog))]
        return [sys.executable, "-m", DESTINATION, "write", *files]

    def psql(self, database: Database, *statements: str) -> list[str]:
        """psql with ``statements``, one after the other on one connection."""
        cluster = database.server
        assert isinstance(cluster, Cluster)
        where = f"host={cluster.host} port={cluster.port} dbname={database.name} user=postgres"
        where += f" password={database.config()['password']} options='-c datestyle=ISO -c timezone=UTC'"
        command = [cluster.binaries.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", where]
        return [*command, *(part for statement in statements for part in ("-c", statement))]

    def pipe(self, *commands: list[str], **more: Any) -> Measured:
        """measure.pipe, with the CPU of both servers."""
        return pipe(*commands, servers=self.servers, **more)

    def path(self, name: str) -> Path:
        """A file of this run."""
        return self._files / name

    def write(self, name: str, document: Any) -> None:
        """Write a JSON file of this run."""
        self.path(name).write_text(json.dumps(document))
