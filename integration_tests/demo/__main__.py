"""The demo's story: two servers, a shop under writes, three syncs, and the proof that both ends are equal."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

from integration_tests.demo import shop
from integration_tests.demo.compare import compare
from integration_tests.support import connector
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded

TABLES = ("customers", "orders", "order_lines")
SYNC_DEADLINE_S = 300.0
_SYNCED = re.compile(r"synced ([\d,]+) rows")


class Failed(Exception):
    """The demo cannot go on; the text says why."""


class Demo:
    """What the steps share: the two databases, and a folder with configurations and state."""

    def __init__(self, source: Database, destination: Database, folder: Path) -> None:
        self.source = source
        self.destination = destination
        self.folder = folder
        self.configs: dict[str, dict[str, Any]] = {
            connector.SOURCE: source.config(
                schemas=["public"],
                replication_method={
                    "method": "CDC",
                    "replication_slot": "airbyte_slot",
                    "publication": "airbyte_publication",
                },
            ),
            connector.DESTINATION: destination.config(schema="public"),
        }
        for name, config in self.configs.items():
            (folder / f"{name}.json").write_text(json.dumps(config))

    def check(self) -> None:
        for side in (connector.SOURCE, connector.DESTINATION):
            outcome = connector.run(side, "check", config=self.configs[side])
            self._expect(outcome)
            if outcome.connection_status["status"] != "SUCCEEDED":
                raise Failed(f"check of {side}: {outcome.connection_status.get('message')}")
        tell("check", "both servers can be used")

    def discover(self) -> None:
        outcome = connector.run(connector.SOURCE, "discover", config=self.configs[connector.SOURCE])
        self._expect(outcome)
        found = [(stream["name"], stream["source_defined_primary_key"]) for stream in outcome.catalog["streams"]]
        keyed = (f"{name} ({', '.join(part for path in key for part in path)})" for name, key in found)
        tell("discover", ", ".join(keyed))

    def sync(self, label: str, what: str) -> None:
        """Run ``airbyte-pg sync`` as a user would and print its figures."""
        command = [sys.executable, "-c", "from airbyte_pg.main import main; main()", "sync"]
        for option, file in (
            ("--source-config", f"{connector.SOURCE}.json"),
            ("--destination-config", f"{connector.DESTINATION}.json"),
            ("--state", "state.json"),
        ):
            command += [option, str(self.folder / file)]
        start = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=SYNC_DEADLINE_S, check=False)
        seconds = time.monotonic() - start
        found = _SYNCED.search(done.stdout)
        if done.returncode or found is None:
            raise Failed(f"{label} ended with exit code {done.returncode}")
        rows = int(found[1].replace(",", ""))
        tell(label, f"{what:<42}{rows:>9,} rows {seconds:>6.1f} s {rows / seconds:>9,.0f} rows/s")

    def prove(self) -> bool:
        """Print the table of differences; true when there are none."""
        comparisons = [compare(self.source, self.destination, table) for table in TABLES]
        print(f"\n  {'table':<14}{'source rows':>12}{'final rows':>12}{'that differ':>13}")
        for one in comparisons:
            print(f"  {one.table:<14}{one.source_rows:>12,}{one.final_rows:>12,}{one.differing:>13,}")
        differing = sum(one.differing for one in comparisons)
        if differing:
            print(f"\n{differing:,} rows differ: this must not happen.")
        else:
            print("\nEvery row has arrived as it is in the source, compared value by value.")
        return not differing

    @staticmethod
    def _expect(outcome: connector.Outcome) -> None:
        if outcome.exit_code or outcome.error:
            raise Failed(outcome.error["message"] if outcome.error else repr(outcome))


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description="Move live data between two PostgreSQL servers.")
    parser.add_argument("--keep", action="store_true", help="leave the servers up at the end until Enter or Ctrl-C")
    arguments = parser.parse_args()
    # Orderly also when told to stop from outside: the servers end with us.
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _leave)
    with (
        Cluster(embedded(16)) as source_server,
        Cluster(embedded(18)) as destination_server,
        tempfile.TemporaryDirectory(prefix="demo-") as folder,
    ):
        try:
            demo = Demo(Database(source_server, "shop"), Database(destination_server, "warehouse"), Path(folder))
            equal = tell_the_story(demo)
            how_to_look_around(demo, keep=arguments.keep)
        except Failed as failure:
            print(f"\nThe demo failed: {failure}", file=sys.stderr)
            for server in (source_server, destination_server):
                last = "\n    ".join(server.log_tail().splitlines()[-10:])
                print(f"\n  PostgreSQL {server.major} said last:\n    {last}", file=sys.stderr)
            return 1
    return 0 if equal else 1


def tell_the_story(demo: Demo) -> bool:
    """Run every step and return whether both ends are equal."""
    versions = [database.value("show server_version") for database in (demo.source, demo.destination)]
    tell("servers", f"PostgreSQL {versions[0]} as the source, {versions[1]} as the destination")
    demo.source.execute(shop.SCHEMA)
    demo.source.execute(shop.FIRST_ROWS)
    sizes = ", ".join(f"{demo.source.value(f'select count(*) from {table}'):,} {table}" for table in TABLES)
    tell("shop", f"{sizes}; a writer begins to change them")
    with shop.Writer(demo.source) as writer:
        demo.check()
        demo.discover()
        demo.sync("sync 1", "all there is, while it changes")
        writer.hold_sale()
        demo.sync("sync 2", "what has changed since, while it changes")
    tell("writer", f"stopped after {writer.committed:,} transactions")
    demo.sync("sync 3", "the rest")
    return demo.prove()


def how_to_look_around(demo: Demo, *, keep: bool) -> None:
    if not keep:
        print("To look around in both servers: make demo KEEP=1")
        return
    print("\nLook around, in another terminal:\n")
    for database, query in (
        (demo.source, "select * from orders limit 3"),
        (demo.destination, "select * from public.orders limit 3"),
        (demo.destination, 'select * from airbyte_internal."public_raw__stream_orders" limit 3'),
    ):
        config = database.config()
        assert isinstance(database.server, Cluster)
        psql = shlex.quote(database.server.binaries.program("psql"))
        address = f"-h {config['host']} -p {config['port']} -U {config['username']} {config['database']}"
        print(f"  PGPASSWORD={config['password']} {psql} {address} -xc {shlex.quote(query)}")
    try:
        input("\nEnter (or Ctrl-C) stops both servers. ")
    except (KeyboardInterrupt, EOFError):
        print()


def tell(topic: str, text: str) -> None:
    print(f"  {topic:<10}{text}", flush=True)


def _leave(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
