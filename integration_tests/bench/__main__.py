"""``make bench``: the narrow table through the source, and through the pair, next to PostgreSQL's own tools."""

from __future__ import annotations

import argparse
import functools
import json
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from integration_tests.bench.measure import Row, side_by_side, table
from integration_tests.bench.workloads import Bench
from integration_tests.support.pgserver import Cluster, embedded

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "6GB",
    "checkpoint_timeout": "30min",
    "wal_retrieve_retry_interval": "100ms",
}


def main() -> None:
    """Run, print the table, and leave the raw figures in bench-results/."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table")
    parser.add_argument("--changes", type=int, default=300_000, help="changes of a backlog")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, ours and the yardstick in turn")
    parser.add_argument("--only", default="", help="run only work whose name begins so (snapshot, changes, pair, ...)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with (
        Cluster(embedded(16), settings=SETTINGS, durable=True) as source,
        Cluster(embedded(18), settings=SETTINGS, durable=True) as destination,
    ):
        print(f"PostgreSQL {source.major} to {destination.major}, Python {platform.python_version()}; making the table")
        bench = Bench(source, destination, arguments.rows, arguments.changes)
        rows = work(bench, arguments.repeat, arguments.only)
    print(table(rows))
    directory = Path("bench-results")
    directory.mkdir(exist_ok=True)
    (directory / "bench.json").write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")


def work(bench: Bench, repeat: int, only: str) -> list[Row]:
    """Every measurement in turn; a line is printed as each is done."""
    rows: list[Row] = []
    size_mb = bench.size_mb
    changed_mb = size_mb / bench.rows * bench.changes

    def add(name: str, yardstick: str, count: int, size: float, ours, theirs) -> None:
        if name.startswith(only):
            rows.append(side_by_side(name, yardstick, count, size, ours, theirs, repeat))
            print(f"  {name}: {rows[-1].ours_per_s:,.0f} rows/s, {rows[-1].ratio:.2f} of {yardstick}", flush=True)

    add("snapshot", "psql COPY TO STDOUT", bench.rows, size_mb, bench.snapshot, bench.copy_out)
    add("pair, snapshot, append", "psql COPY to psql COPY", bench.rows, size_mb, bench.pair_snapshot, bench.copy_across)
    for kind in ("inserts", "updates", "one transaction"):
        if not any(name.startswith(only) for name in (f"changes, {kind}", f"pair, {kind}, dedup")):
            continue
        if not only.startswith("changes"):
            bench.load_destination()
        bench.make_backlog(kind)
        for transport in ("auto", "stream", "bulk"):
            read = functools.partial(bench.changes_by, transport)
            add(f"changes, {kind}, {transport}", "pg_recvlogical", bench.changes, changed_mb, read, bench.recvlogical)
        if f"changes, {kind}".startswith(only):
            ways: dict[str, Callable[[], object]] = {"pg_recvlogical": bench.recvlogical}
            ways |= {way: functools.partial(bench.changes_by, way) for way in ("stream", "bulk")}
            for way, run in ways.items():
                seconds = bench.server_cpu(run) / bench.changes * 1e6
                print(f"    CPU of the server, {way}: {seconds:.2f} us a change", flush=True)
        if kind == "one transaction":
            continue
        add(
            f"pair, {kind}, dedup",
            "native subscription",
            bench.changes,
            changed_mb,
            bench.pair_stream,
            bench.subscription,
        )
    return rows


if __name__ == "__main__":
    tempdir = tempfile.gettempdir()
    assert shutil.disk_usage(tempdir).free > 8 << 30, "the bench needs 8 GB of free disk"
    main()
