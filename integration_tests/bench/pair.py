"""Source and destination together, next to COPY into COPY and to a native subscription."""

from __future__ import annotations

import time

from integration_tests.bench.ground import NARROW, Ground
from integration_tests.bench.measure import Measured, server_seconds
from integration_tests.support.pgserver import wait_until


class PairBench:
    """The table ``narrow`` and its backlogs into the destination database."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def snapshot(self) -> Measured:
        """The whole table into raw and final tables."""
        self._ground.forget_slot()
        return self._load("narrow.append.json")

    def copy_across(self) -> Measured:
        """``COPY narrow TO STDOUT | COPY narrow FROM STDIN``."""
        self._own_table()
        return self._copy("narrow")

    def load(self) -> None:
        """The table as it is, before a backlog, deduplicated, at the destination."""
        self._ground.forget_slot()
        self._load("narrow.dedup.json")

    def changes(self) -> Measured:
        """The backlog into raw and final tables, deduplicated by key."""
        source = self._ground.source_command("narrow.dedup.json", "state.json")
        return self._ground.pipe(source, self._ground.destination_command("narrow.dedup.json"))

    def subscription(self) -> Measured:
        """The backlog applied by a native subscription, from a copy of the same slot."""
        source, destination = self._ground.source, self._ground.destination
        self._own_table()
        self._copy("(select * from before)")
        name = f"sub_{source.name}"
        source.execute("select pg_copy_logical_replication_slot(%s, %s)", self._ground.slot, name)
        end = source.value("select pg_current_wal_flush_lsn()::text")
        config = source.config()
        dsn = f"host={config['host']} port={config['port']} dbname={source.name} user=postgres"
        # A subscription applies to the table of the same name and schema.
        destination.execute("alter table if exists public.narrow rename to narrow_of_ours")
        destination.execute("alter table theirs.narrow set schema public")
        server_cpu_s = -sum(map(server_seconds, self._ground.servers))
        started = time.perf_counter()
        destination.execute(
            f"create subscription {name} connection '{dsn} password={config['password']}' "
            f"publication airbyte_publication with (create_slot = false, slot_name = '{name}', copy_data = false)"
        )
        applied = (
            "select coalesce(confirmed_flush_lsn >= %s::pg_lsn, false) from pg_replication_slots where slot_name = %s"
        )
        wait_until(lambda: source.value(applied, end, name), 600, "the subscription has applied the backlog")
        seconds = time.perf_counter() - started
        server_cpu_s += sum(map(server_seconds, self._ground.servers))
        destination.execute(f"alter subscription {name} disable")
        destination.execute(f"alter subscription {name} set (slot_name = none)")
        destination.execute(f"drop subscription {name}")
        destination.execute("drop table public.narrow")
        destination.execute("alter table if exists public.narrow_of_ours rename to narrow")
        dropped = "select count(*) from pg_replication_slots where slot_name = %s and active"
        wait_until(lambda: source.value(dropped, name) == 0, 60, "the subscription's sender is gone")
        source.execute("select pg_drop_replication_slot(%s)", name)
        return Measured(seconds, server_cpu_s=server_cpu_s)

    def _load(self, catalog: str) -> Measured:
        self._ground.destination.execute("drop schema if exists airbyte_internal cascade")
        self._ground.destination.execute("drop table if exists public.narrow")
        return self._ground.pipe(self._ground.source_command(catalog), self._ground.destination_command(catalog))

    def _copy(self, origin: str) -> Measured:
        out = self._ground.psql(self._ground.source, f"copy {origin} to stdout")
        return self._ground.pipe(out, self._ground.psql(self._ground.destination, "copy theirs.narrow from stdin"))

    def _own_table(self) -> None:
        self._ground.destination.execute("create schema if not exists theirs")
        self._ground.destination.execute("drop table if exists theirs.narrow")
        self._ground.destination.execute(NARROW.format("theirs.narrow"))
