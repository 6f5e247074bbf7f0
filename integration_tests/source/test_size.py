"""Large things: a transaction of hundreds of thousands of rows in little memory, and a single row of many megabytes."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from integration_tests.source.reading import TRANSPORTS, catalog_of, config, last_state, read
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE

LIMIT_MB = 200
ROWS = 300_000
# 32 bytes each: a value of 32 MB that does not compress.
DIGESTS = 1_000_000
LARGE_VALUE = f"select string_agg(md5(i::text), '' order by i) from generate_series(1, {DIGESTS}) i"


def peak_mb(pid: int) -> float:
    """The most memory that a running process has had resident; of its program, not of who started it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_large_transaction_needs_little_memory(source_db, transport):
    source_db.execute("create table t (id int primary key, v text)")
    catalog = catalog_of(source_db)
    first = read(source_db, catalog, transport=transport)
    source_db.execute(f"insert into t select i, repeat('x', 200) from generate_series(1, {ROWS}) i")
    settings, state = config(source_db, transport=transport), [last_state(first)]
    seen, peak = 0, 0.0
    with connector.start(SOURCE, "read", config=settings, catalog=catalog, state=state, held=True) as sync:
        for line in sync.raw_lines():
            is_record = line.startswith(b'{"type":"RECORD"')
            seen += is_record
            # Every so often, and at every line of the end: a peak stays to be seen.
            if seen % 10_000 == 0 or not is_record:
                peak = max(peak, peak_mb(sync.pid))
        assert sync.finish().exit_code == 0
    print(f"{peak:.0f} MB")
    assert seen == ROWS
    assert 0 < peak < LIMIT_MB


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_row_of_many_megabytes_comes_whole_both_ways(source_db, transport):
    source_db.execute("create table t (id int primary key, n int, v text)")
    source_db.execute(f"insert into t select 1, 0, ({LARGE_VALUE})")
    catalog = catalog_of(source_db)
    first = read(source_db, catalog, transport=transport)
    source_db.execute(f"insert into t select 2, 0, ({LARGE_VALUE})")
    # The third does not log its value: it is asked for.
    source_db.execute("update t set n = 1 where id = 1")
    second = read(source_db, catalog, first, transport=transport)
    expected = _digest("".join(map(_digest, range(1, DIGESTS + 1))))
    found = [(row["id"], row["n"], _digest(row["v"])) for outcome in (first, second) for row in outcome.records()]
    assert found == [(1, 0, expected), (2, 0, expected), (1, 1, expected)]


def _digest(value: object) -> str:
    return hashlib.md5(str(value).encode(), usedforsecurity=False).hexdigest()
