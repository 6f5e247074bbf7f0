"""Four random writers, syncs killed at random, gone on from the last state that came back: the end is equal.

Every seed is one story; what a seed does not fix is how the writers' transactions interleave. Three ways of reading
take turns, seed by seed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from integration_tests.pair.piping import Passed, differences, sync
from integration_tests.pair.workload import (
    FOLLOWED,
    HARD,
    KEYLESS,
    LATE,
    PARTITIONED,
    PARTITIONED_SINCE,
    ROWS,
    Workload,
    create_tables,
    evolve,
    seeds,
)
from integration_tests.source.reading import TRANSPORTS, catalog_of, confirmed, position_in
from integration_tests.source.watching import AnchorWatch
from integration_tests.support.catalogs import merged
from integration_tests.support.databases import Database
from integration_tests.support.slots import only_one_free_slot

# Many small checkpoints and flushes: states come back all the time, and a kill falls between any two steps.
SMALL_CHECKPOINTS: dict[str, Any] = {"sync_checkpoint_records": 200}
SMALL_FLUSHES: dict[str, Any] = {"flush_bytes": 20_000 if "WORKLOAD_SEEDS" in os.environ else 60_000}
RETENTIONS = ("keep", "typed", "none")
SIDES = ["source", "destination"]
# The anchor itself is read where no slot is free for a copy of it.
READINGS = (*TRANSPORTS, "fallback")


def _story(seed: int) -> Any:
    reading = READINGS[seed % len(READINGS)]
    return pytest.param(seed, reading, id=f"{seed}-{reading}")


@dataclass
class Story:
    """Syncs of one connection, one after the other, each from the last state that came back."""

    source: Database
    destination: Database
    watch: AnchorWatch
    options: dict[str, Any]
    draw: random.Random
    state: dict[str, Any] | None = None
    given: dict[str, Any] | None = None
    passed: list[Passed] = field(default_factory=list)

    def sync(self, catalog: dict[str, Any], kill: tuple[str, int] | None = None) -> None:
        """One sync; one that is not killed must end well."""
        self.given = self.state
        self.watch.given(self.given)
        # What raw tables keep, or kept in the sync before, is nothing to the final ones.
        flushes = {**SMALL_FLUSHES, "raw_retention": self.draw.choice(RETENTIONS)}
        options = {**self.options, "destination_options": flushes}
        passed = sync(self.source, self.destination, catalog, self.state, kill=kill, **options)
        assert kill or passed.ok, [json.loads(line)["trace"]["error"] for line in passed.printed if b'"TRACE"' in line]
        self.state = passed.states[-1] if passed.states else self.state
        self.passed.append(passed)

    def refresh(self, stream: str) -> None:
        """What a platform does for a refresh that keeps the destination's rows: the stream's state is null."""
        assert self.state is not None
        for entry in self.state["global"]["stream_states"]:
            if entry["stream_descriptor"]["name"] == stream:
                entry["stream_state"] = None

    def __str__(self) -> str:
        ended = "".join("." if passed.ok else f" killed at {passed.lines}" for passed in self.passed)
        return f"{len(self.passed)} syncs: {ended}; {len(self.watch.seen)} positions of the anchor"


@contextlib.contextmanager
def _begun(source: Database, destination: Database, seed: int, reading: str) -> Iterator[Story]:
    print(f"seed {seed}, {reading}")
    create_tables(source, seed)
    transport = reading if reading in TRANSPORTS else "auto"
    slots = only_one_free_slot(source) if reading == "fallback" else contextlib.nullcontext()
    with slots, AnchorWatch(source) as watch:
        options = {**SMALL_CHECKPOINTS, **_parts(seed), "transport": transport, "truncate_handling": "propagate"}
        yield Story(source, destination, watch, options, random.Random(f"{seed}/destination"))


def _parts(seed: int) -> dict[str, Any]:
    """Tables whole or in few or many parts, changes read behind each or not, by one connection or two."""
    draw = random.Random(seed)
    pages, seconds = draw.choice([(3, 1000), (20, 0), (10, 1000), (1000, 0), (1000, 1000)])
    return {
        "snapshot_part_pages": pages,
        "snapshot_drain_seconds": seconds,
        "max_db_connections": draw.choice([1, 2]),
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "reading"), [_story(seed) for seed in seeds(10)])
def test_killed_at_random_it_ends_equal(source_db, destination_db, seed, reading):
    draw = random.Random(seed)

    def killed(last: int) -> tuple[str, int]:
        return draw.choice(SIDES), draw.randint(1, last * ROWS // 2000)

    has_parts = source_db.server.major >= PARTITIONED_SINCE
    followed = {**FOLLOWED, **HARD, **(PARTITIONED if has_parts else {})}

    def found(*more: str) -> dict[str, Any]:
        """What is followed, by its present columns, and the table without a key, which is read whole each time."""
        whole = catalog_of(source_db, "full_refresh", only=KEYLESS, destination="overwrite")
        for entry in whole["streams"]:
            entry |= {"generation_id": None, "minimum_generation_id": None}
        return merged(catalog_of(source_db, only=[*followed, *more]), whole)

    with _begun(source_db, destination_db, seed, reading) as story:
        first = found()
        with Workload(source_db, seed, burst=1000) as workload:
            story.sync(first, killed(6000))
            story.sync(first)
            source_db.execute("alter publication airbyte_publication add table unselected")
            workload.wait_for_transactions(100)
            story.sync(first, killed(3000))
            # Killed early, the next sync decodes the joining of the late table anew.
            print(evolve(source_db, draw, 1))
            story.sync(found(*LATE), draw.choice([None, killed(300), killed(1500)]))
            workload.wait_for_transactions(100)
            print(evolve(source_db, draw, 2))
            story.sync(found(*LATE), ("answering destination", draw.randint(1, 6)))
            story.refresh(draw.choice([*followed, *LATE]))
            story.sync(found(*LATE), draw.choice([None, killed(3000)]))
            print(evolve(source_db, draw, 3))
        story.sync(found(*LATE))
        print(f"{workload}; {story}")
        assert story.given is not None
        assert confirmed(source_db) == position_in(story.given)
    story.watch.expect_no_fault()
    columns = (
        "select column_name from information_schema.columns where table_name = 'evolving' and table_schema = 'public'"
    )
    evolved = ", ".join(f"coalesce({name}::text, '-')" for (name,) in source_db.rows(columns))
    tables = {**followed, **LATE, "evolving": evolved}
    assert {table: differences(source_db, destination_db, table, tables[table])[:10] for table in tables} == {
        table: [] for table in tables
    }
    for table, shown in KEYLESS.items():
        query = f"select {shown} from public.{table} order by 1, 2"
        assert destination_db.rows(query) == source_db.rows(query)
