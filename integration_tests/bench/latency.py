"""``make bench-latency``: from commit on the source to visible in the final table, next to a native subscription.

A writer commits transactions of updates and one insert, whose row holds ``clock_timestamp()`` of the moment before its
commit. A watcher asks the target every few milliseconds for the greatest id that it sees, and the time there: one look
into an index, on a connection of its own. Both servers have this machine's clock. All of a transaction becomes visible
at once, in either target, so the insert stands for its updates. Ours and the subscription run in turn, never together.
"""

from __future__ import annotations

import argparse
import bisect
import json
import platform
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from integration_tests.bench.measure import server_seconds
from integration_tests.source.reading import config
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded, wait_until
from integration_tests.support.runner import ContinuousRun

SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "30min"}
# Changes a second, and in a transaction.
LOADS = ((1, 1), (1_000, 10), (5_000, 50))
ROWS = 100_000
QUICK_S = 0.2
WARM_UP_S = 3.0
POLL_S = 0.004
TABLE = "create table moving (id bigint primary key, v bigint, note text, at timestamptz)"
WRITE = """
with changed as (update moving set v = v + 1 where id = any (%s))
insert into moving values (%s, 0, 'marks the end', clock_timestamp()) returning extract(epoch from at)::float8
"""


@dataclass(frozen=True)
class Latency:
    """Of one load and one way: changes a second that were written, percentiles in seconds, CPU of all servers."""

    load: int
    way: str
    written: float
    p50: float
    p95: float
    p99: float
    longest: float
    servers_cpu: float


class Writer(threading.Thread):
    """Writes at a rate until it is told to stop. ``marks``: the ids that end transactions, and their times."""

    def __init__(self, source: Database, first: int, load: int, size: int) -> None:
        super().__init__(daemon=True)
        self.marks: list[tuple[int, float]] = []
        self._source, self._first, self._pause_s, self._size = source, first, size / load, size
        self._is_over = threading.Event()

    def run(self) -> None:
        due = time.monotonic()
        with closing(self._source.connect()) as session, session.cursor() as cursor:
            while not self._is_over.wait(max(due - time.monotonic(), 0)):
                number = self._first + len(self.marks)
                keys = [1 + (number * 7919 + step * 104_729) % ROWS for step in range(self._size - 1)]
                cursor.execute(WRITE, (keys, number))
                ((written,),) = cursor.fetchall()
                self.marks.append((number, written))
                due += self._pause_s

    def stop(self) -> list[tuple[int, float]]:
        """The marks."""
        self._is_over.set()
        self.join()
        return self.marks


def main() -> None:
    """Run, print the table, and leave the figures in bench-results/."""
    parser = argparse.ArgumentParser(prog="make bench-latency")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of each measurement; one change a second: twice that"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with (
        tempfile.TemporaryDirectory(prefix="airbyte-pg-latency-") as folder,
        Cluster(embedded(16), settings=SETTINGS, durable=True) as first,
        Cluster(embedded(18), settings=SETTINGS, durable=True) as second,
        Database(first) as source,
        Database(second) as ours,
        Database(second) as theirs,
    ):
        print(f"PostgreSQL {first.major} to {second.major}, Python {platform.python_version()}")
        source.execute(TABLE)
        source.execute("insert into moving select i, 0, md5(i::text), now() from generate_series(1, %s) i", ROWS)
        source.execute("vacuum analyze moving")
        quick = {"sync_checkpoint_seconds": QUICK_S}
        ways = {
            "ours": _ours(source, ours, Path(folder)),
            f"ours, a state each {QUICK_S} s": _ours(source, ours, Path(folder), quick),
            "native subscription": _subscription(source, theirs),
        }
        found = []
        for load, size in LOADS:
            for way, (target, running) in ways.items():
                with running():
                    seconds = arguments.seconds * (2 if load == 1 else 1)
                    found.append(measure(way, source, target, load, size, seconds, [first.pid, second.pid]))
                    print(f"  {found[-1]}", flush=True)
    print(table(found))
    directory = Path("bench-results")
    directory.mkdir(exist_ok=True)
    (directory / "latency.json").write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n")


def _ours(
    source: Database, target: Database, folder: Path, options: dict[str, Any] | None = None
) -> tuple[Database, Any]:
    @contextmanager
    def running() -> Iterator[None]:
        with ContinuousRun(folder, {**config(source), **(options or {})}, target.config(schema="public")) as run:
            yield
            assert run.stop() == 0, run.log

    return target, running


def _subscription(source: Database, target: Database) -> tuple[Database, Any]:
    target.execute(TABLE)
    source.execute("create publication theirs for table moving")
    parts = source.config()
    dsn = f"host={parts['host']} port={parts['port']} dbname={source.name} user={parts['username']}"
    target.execute(
        f"create subscription theirs connection '{dsn} password={parts['password']}' publication theirs"
        f" with (slot_name = 'theirs_{source.name}')"
    )
    ready = "select bool_and(srsubstate = 'r') from pg_subscription_rel"
    wait_until(lambda: target.value(ready), 120, "the subscription has copied its table")
    target.execute("alter subscription theirs disable")

    @contextmanager
    def running() -> Iterator[None]:
        target.execute("alter subscription theirs enable")
        yield
        target.execute("alter subscription theirs disable")

    return target, running


def measure(
    way: str, source: Database, target: Database, load: int, size: int, seconds: float, servers: list[int]
) -> Latency:
    """Write and watch for ``seconds``, once everything from before is there."""
    highest = source.value("select max(id) from moving")
    seen_before = "select coalesce(max(id), 0) from public.moving"
    exists = "select to_regclass('public.moving') is not null"
    wait_until(lambda: target.value(exists) and target.value(seen_before) >= highest, 120, f"{way} has caught up")
    time.sleep(1)
    writer = Writer(source, highest + 1, load, size)
    cpu_s = -sum(map(server_seconds, servers))
    started = time.monotonic()
    writer.start()
    sightings = _watch(target, writer, seconds + WARM_UP_S)
    cpu_s += sum(map(server_seconds, servers))
    took = time.monotonic() - started
    marks = [mark for mark in writer.marks if mark[1] > writer.marks[0][1] + WARM_UP_S]
    ids = [seen for seen, _ in sightings]
    latencies = sorted(sightings[bisect.bisect_left(ids, number)][1] - at for number, at in marks)
    p50, p95, p99 = (latencies[min(int(len(latencies) * share), len(latencies) - 1)] for share in (0.5, 0.95, 0.99))
    return Latency(load, way, len(writer.marks) * size / took, p50, p95, p99, latencies[-1], cpu_s / took)


def _watch(target: Database, writer: Writer, seconds: float) -> list[tuple[int, float]]:
    """Every greatest id that was seen in the target, and when."""
    sightings: list[tuple[int, float]] = [(0, 0.0)]
    with closing(target.connect()) as session, session.cursor() as cursor:
        cursor.execute(
            "prepare look as select max(id), extract(epoch from clock_timestamp())::float8 from public.moving"
        )
        end, marks = time.monotonic() + seconds, list[tuple[int, float]]()
        while not marks or sightings[-1][0] < marks[-1][0]:
            if not marks and time.monotonic() >= end:
                marks = writer.stop()
            assert time.monotonic() < end + 120, "the last change has not come"
            cursor.execute("execute look")
            ((seen, at),) = cursor.fetchall()
            if seen > sightings[-1][0]:
                sightings.append((seen, at))
            time.sleep(POLL_S)
    return sightings


def table(found: list[Latency]) -> str:
    """The figures as a table of docs/performance.md."""
    lines = [
        "| changes/s | way | written/s | p50 | p95 | p99 | longest | CPU of the servers |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in found:
        figures = " | ".join(f"{value * 1000:,.0f} ms" for value in (each.p50, each.p95, each.p99, each.longest))
        lines.append(f"| {each.load:,} | {each.way} | {each.written:,.0f} | {figures} | {each.servers_cpu:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
