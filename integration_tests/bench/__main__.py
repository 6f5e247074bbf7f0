"""``make bench``: the source, the pair and the destination, each next to PostgreSQL's own tools."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from integration_tests.bench.destination import DestinationBench
from integration_tests.bench.ground import TABLES, Ground
from integration_tests.bench.measure import Measured, Row, side_by_side, table
from integration_tests.bench.pair import PairBench
from integration_tests.bench.source import SourceBench
from integration_tests.support.pgserver import Cluster, embedded

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "6GB",
    "checkpoint_timeout": "30min",
    "wal_retrieve_retry_interval": "100ms",
}
# A wide row is as large as so many narrow ones.
WIDE_FACTOR = 5
BAD_ROWS = 200_000


class Report:
    """Measures what is asked for; a line is printed as each is done."""

    def __init__(self, repeat: int, only: str) -> None:
        self.rows: list[Row] = []
        self._repeat = repeat
        self._only = only

    def wants(self, *names: str) -> bool:
        """Whether any of these measurements is asked for."""
        return any(name.startswith(self._only) for name in names)

    def add(
        self,
        name: str,
        yardstick: str,
        count: int,
        size_mb: float,
        ours: Callable[[], Measured],
        theirs: Callable[[], Measured],
    ) -> None:
        """Measure ``ours`` and ``theirs`` in turn, if it is asked for."""
        if not self.wants(name):
            return
        row = side_by_side(name, yardstick, count, size_mb, ours, theirs, self._repeat)
        self.rows.append(row)
        print(f"  {name}: {row.ours_per_s:,.0f} rows/s, {row.ratio:.2f} of {yardstick}", flush=True)


def main() -> None:
    """Run, print the table, and leave the raw figures in bench-results/."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table")
    parser.add_argument("--changes", type=int, default=300_000, help="changes of a backlog")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, ours and the yardstick in turn")
    parser.add_argument(
        "--only", default="", help="only work whose name begins so: snapshot, changes, discover, pair, destination"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with (
        tempfile.TemporaryDirectory(prefix="airbyte-pg-bench-") as files,
        Cluster(embedded(16), settings=SETTINGS, durable=True) as source,
        Cluster(embedded(18), settings=SETTINGS, durable=True) as destination,
    ):
        print(f"PostgreSQL {source.major} to {destination.major}, Python {platform.python_version()}; making the table")
        ground = Ground(source, destination, Path(files), arguments.rows, arguments.changes)
        report = Report(arguments.repeat, arguments.only)
        measure_tables(ground, report)
        for kind in ("inserts", "updates", "one transaction"):
            measure_backlog(ground, report, kind)
    print(table(report.rows))
    directory = Path("bench-results")
    directory.mkdir(exist_ok=True)
    (directory / "bench.json").write_text(json.dumps([row.as_json() for row in report.rows], indent=2) + "\n")


def measure_tables(ground: Ground, report: Report) -> None:
    """Whole tables: read, moved, appended."""
    source, pair, destination = SourceBench(ground), PairBench(ground), DestinationBench(ground)
    size_mb = ground.size_mb()
    report.add("snapshot", "psql COPY TO STDOUT", ground.rows, size_mb, source.snapshot, source.copy_out)
    report.add("discover, 2,000 tables", "psql, information_schema", TABLES, 0, source.discover, source.list_columns)
    measure_mixed(ground, report)
    measure_large(ground, report)
    copy = "psql COPY to psql COPY"
    report.add("pair, snapshot, append", copy, ground.rows, size_mb, pair.snapshot, pair.copy_across)
    for name, rows in (("narrow", ground.rows), ("wide", ground.rows // WIDE_FACTOR)):
        both, alone, bad = (f"destination, {name}{more}" for more in ("", ", no raw", ", bad values"))
        if not report.wants(both, alone, bad):
            continue
        if name == "wide":
            ground.make_wide(rows)
        destination.record(name)
        size_mb = ground.size_mb(name)
        append, copy_in = partial(destination.append, name), partial(destination.copy_in, name)
        report.add(both, "psql COPY raw, COPY final", rows, size_mb, append, partial(copy_in, "raw", "final"))
        append = partial(destination.append, name, raw_retention="none")
        report.add(alone, "psql COPY final", rows, size_mb, append, partial(copy_in, "final"))
        if name == "narrow" and report.wants(bad):
            count = min(rows, BAD_ROWS)
            destination.spoil(count)
            size_mb *= count / rows
            append, good = (partial(destination.append, name, lines) for lines in ("bad.jsonl", "good.jsonl"))
            report.add(bad, "ours, good values", count, size_mb, append, good)
    # A subscription would ask for it, too.
    ground.source.execute("drop table if exists wide")


def measure_mixed(ground: Ground, report: Report) -> None:
    """A table of 30 columns of many types: read, and its changes."""
    source = SourceBench(ground)
    read, changes = "snapshot, mixed", "changes, mixed"
    if not report.wants(read, changes):
        return
    rows, count = ground.rows // WIDE_FACTOR, ground.changes // WIDE_FACTOR
    ground.make_mixed(rows)
    size_mb = ground.size_mb("mixed")
    report.add(
        read, "psql COPY TO STDOUT", rows, size_mb, partial(source.snapshot, "mixed"), partial(source.copy_out, "mixed")
    )
    if report.wants(changes):
        ground.make_mixed_backlog(rows, count)
        for transport in ("auto", "stream", "bulk"):
            ours = partial(source.changes_by, transport, "mixed")
            report.add(
                f"{changes}, {transport}", "pg_recvlogical", count, size_mb * count / rows, ours, source.recvlogical
            )
    ground.forget_slot()
    ground.source.execute("drop table mixed")


def measure_large(ground: Ground, report: Report) -> None:
    """Updates that leave large values alone: each is looked up by key."""
    source, name = SourceBench(ground), "changes, large values untouched"
    if not report.wants(name):
        return
    rows = ground.changes // WIDE_FACTOR
    ground.make_large_backlog(rows)
    size_mb = ground.size_mb("large")
    for transport in ("stream", "bulk"):
        ours = partial(source.changes_by, transport, "large")
        report.add(f"{name}, {transport}", "pg_recvlogical", rows, size_mb, ours, source.recvlogical)
    ground.forget_slot()
    ground.source.execute("drop table large")


def measure_backlog(ground: Ground, report: Report, kind: str) -> None:
    """A backlog of changes: read, moved, applied."""
    source, pair, destination = SourceBench(ground), PairBench(ground), DestinationBench(ground)
    read, moved, applied = f"changes, {kind}", f"pair, {kind}, dedup", f"destination, {kind}, dedup"
    if not report.wants(read, *([moved, applied] if kind != "one transaction" else [])):
        return
    if report.wants(moved):
        pair.load()
    ground.make_backlog(kind)
    count, size_mb = ground.changes, ground.size_mb() / ground.rows * ground.changes
    for transport in ("auto", "stream", "bulk"):
        changes = partial(source.changes_by, transport)
        report.add(f"{read}, {transport}", "pg_recvlogical", count, size_mb, changes, source.recvlogical)
    if kind == "one transaction":
        return
    report.add(moved, "native subscription", count, size_mb, pair.changes, pair.subscription)
    if report.wants(applied):
        destination.record_changes()
        report.add(applied, "native subscription", count, size_mb, destination.changes, pair.subscription)
        alone = partial(destination.changes, raw_retention="none")
        report.add(f"{applied}, no raw", "native subscription", count, size_mb, alone, pair.subscription)


if __name__ == "__main__":
    tempdir = tempfile.gettempdir()
    assert shutil.disk_usage(tempdir).free > 8 << 30, "the bench needs 8 GB of free disk"
    main()
