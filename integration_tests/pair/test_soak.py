"""A continuous run under writers that never rest, while everything around it fails again and again.

Turbulence: sides killed, servers restarted and killed, networks stalled and cut, columns changed. Then calm, in which
the memory of both processes is watched, and so on by turns. At the end nothing may be missing, nothing may be left in
the source's WAL. SOAK_SECONDS (120) and SOAK_SEED; `make soak` runs half an hour.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from integration_tests.pair.piping import differences
from integration_tests.pair.workload import (
    FOLLOWED,
    HARD,
    LATE,
    PARTITIONED,
    PARTITIONED_SINCE,
    Workload,
    create_tables,
    evolve,
)
from integration_tests.source.reading import config
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded, wait_until
from integration_tests.support.proxy import Proxy
from integration_tests.support.runner import ContinuousRun

SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))
# Of a turn: so much of it is turbulent, at least so long.
TURN_S = 300.0
CALM_SHARE = 0.3
BETWEEN_FAULTS_S = (2.0, 7.0)
# What a process may grow by while nothing fails: caches that fill, the allocator's whims.
GROWTH_BYTES = 25 << 20
RETAINED_BYTES = 4 << 20


class Soak:
    """The run, what it stands between, and what can be done to it."""

    def __init__(self, source: Database, destination: Database, ways: tuple[Proxy, Proxy], folder: Path) -> None:
        self.source, self.destination, self.ways = source, destination, ways
        self.tables = {**FOLLOWED, **HARD, **LATE}
        if source.server.major >= PARTITIONED_SINCE:
            self.tables |= PARTITIONED
        through = [{"host": way.host, "port": way.port} for way in ways]
        options = {
            "tables": ",".join(f"public.{table}" for table in self.tables),
            "truncate_handling": "propagate",
            "acknowledge_seconds": 5,
        }
        read = {**config(source), **options, **through[0]}
        write = {**destination.config(schema="public"), **through[1]}
        self.run = ContinuousRun(folder, read, write, "--max-pause", "4")
        self.evolutions = 0

    def faults(self, draw: random.Random) -> dict[str, Callable[[], object]]:
        """Everything that can happen."""
        return {
            "kill the source": lambda: self._kill("read"),
            "kill the destination": lambda: self._kill("write"),
            "restart the source's server": lambda: self._restart(0),
            "restart the destination's server": lambda: self._restart(1),
            "crash the source's server": lambda: self._restart(0, crash=True),
            "crash the destination's server": lambda: self._restart(1, crash=True),
            "stall the source's network": lambda: self._stall(0, draw.uniform(1, 5)),
            "stall the destination's network": lambda: self._stall(1, draw.uniform(1, 5)),
            "cut the source's network": self.ways[0].cut,
            "cut the destination's network": self.ways[1].cut,
            "change a table": lambda: self._evolve(draw),
        }

    def memory(self) -> dict[int, int]:
        """Resident bytes of both connectors, by process."""
        sides = [side for side in map(self.run.side, ("read", "write")) if side is not None]
        return {side.pid: side.memory_info().rss for side in sides}

    def differences(self) -> dict[str, Any]:
        """Rows that only one side has, of all tables that have such."""
        query = "select column_name from information_schema.columns where table_name = 'evolving'"
        columns = ", ".join(f"coalesce({name}::text, '-')" for (name,) in self.source.rows(query))
        shown = {**self.tables, "evolving": columns}
        found = {table: differences(self.source, self.destination, table, shown[table])[:5] for table in shown}
        return {table: rows for table, rows in found.items() if rows}

    def _kill(self, command: str) -> None:
        if (side := self.run.side(command)) is not None:
            side.kill()

    def _restart(self, which: int, *, crash: bool = False) -> None:
        server = (self.source, self.destination)[which].server
        assert isinstance(server, Cluster)
        if crash:
            server.kill()
            server.start()
        else:
            server.restart()
        self.ways[which].lead_to(server.host, server.port)

    def _stall(self, which: int, seconds: float) -> None:
        with self.ways[which].stalled():
            time.sleep(seconds)

    def _evolve(self, draw: random.Random) -> None:
        self.evolutions += 1
        print("   ", evolve(self.source, draw, self.evolutions)[:100])


@pytest.fixture
def soak(tmp_path: Path) -> Iterator[Soak]:
    """Servers of its own, which it may restart."""
    with ExitStack() as stack:
        first = stack.enter_context(Cluster(embedded(int(os.environ.get("PG_TEST_SOURCE_MAJOR", "16")))))
        second = stack.enter_context(Cluster(embedded(18)))
        databases = stack.enter_context(Database(first)), stack.enter_context(Database(second))
        ways = tuple(stack.enter_context(Proxy(server.host, server.port)) for server in (first, second))
        yield Soak(*databases, (ways[0], ways[1]), tmp_path)


@pytest.mark.timeout(SECONDS * 2 + 300)
def test_everything_fails_and_nothing_is_lost(soak: Soak):
    seed = int(os.environ.get("SOAK_SEED", "0")) or random.randrange(1, 10_000)
    print(f"SOAK_SEED={seed} SOAK_SECONDS={SECONDS:.0f}")
    draw = random.Random(seed)
    create_tables(soak.source, seed)
    end = time.monotonic() + SECONDS
    with soak.run:
        with Workload(soak.source, seed, come_back=True) as workload:
            while (left := end - time.monotonic()) > 1:
                turn_s = min(TURN_S, left)
                _turbulence(soak, draw, turn_s * (1 - CALM_SHARE))
                _calm(soak, turn_s * CALM_SHARE)
        print(workload)
        _expect_caught_up(soak)
        assert soak.run.exit_code is None, soak.run.log
        assert soak.run.stop() == 0, soak.run.log
    assert soak.differences() == {}


def _turbulence(soak: Soak, draw: random.Random, seconds: float) -> None:
    """Every fault once, in any order, and again, for ``seconds``."""
    end, deck = time.monotonic() + seconds, list[str]()
    faults = soak.faults(draw)
    while time.monotonic() < end:
        deck = deck or draw.sample(list(faults), len(faults))
        fault = deck.pop()
        print(f"  {end - time.monotonic():5.0f} s left: {fault}", flush=True)
        faults[fault]()
        time.sleep(draw.uniform(*BETWEEN_FAULTS_S))
        assert soak.run.exit_code is None, soak.run.log


def _calm(soak: Soak, seconds: float) -> None:
    """Only the writers, for ``seconds``: neither process grows, once both have got over what was."""
    time.sleep(seconds / 2)
    wait_until(lambda: len(soak.memory()) == 2, 60, "both sides run")
    before = soak.memory()
    time.sleep(seconds / 2)
    after = soak.memory()
    print(f"  calm: {[f'{size >> 20} MB' for size in before.values()]} {[size >> 20 for size in after.values()]}")
    assert before.keys() == after.keys(), soak.run.log
    assert all(after[pid] - before[pid] < GROWTH_BYTES for pid in after), (before, after)


def _expect_caught_up(soak: Soak) -> None:
    """What was written arrives, and the source's server may let go of it."""
    wait_until(lambda: not soak.differences(), 90, "everything has arrived")

    def is_released() -> bool:
        # restart_lsn moves where the server notes its running transactions.
        soak.source.execute("checkpoint")
        slot = soak.run.status()["source"]["slot"]
        return bool(slot["retained_bytes"] < RETAINED_BYTES)

    wait_until(is_released, 90, "the WAL is released")
    status = soak.run.status("--max-lag-seconds", "60")
    print(f"  kept: {status['source']['slot']['retained_bytes']} bytes; lag: {status['lag']}")
    assert status["alerts"] == []
