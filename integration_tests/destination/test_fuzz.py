"""Input spoilt at random: nothing but a clear error, never a hang, and nothing acknowledged that is not there."""

from __future__ import annotations

import json
import os
import random
import threading
from decimal import Decimal

import pytest

from airbyte_pg.errors import ConnectorError, StreamName
from destination_postgres.buffers import Batch, Limits
from destination_postgres.columns import columns_of
from destination_postgres.flusher import Flusher
from destination_postgres.inbox import Inbox
from destination_postgres.raw_ids import RawIds
from destination_postgres.rowcode import RowEncoder
from destination_postgres.writer import Writer
from integration_tests.destination.mutating import CATALOG, FIELDS, STREAMS, Mutator, counted
from integration_tests.destination.writing import expect_quiet, state, status, write
from integration_tests.support.catalogs import TYPES

IS_NIGHT = "WORKLOAD_SEEDS" in os.environ
LINES = 100_000 if IS_NIGHT else 5_000
RUNS = 300 if IS_NIGHT else 20
LINES_PER_INPUT = 5_000
SEED = int(os.environ.get("WORKLOAD_FIRST_SEED", "1"))

COLUMNS = columns_of({field: TYPES[kind] for field, kind in FIELDS.items()})


class Sink:
    """What is stored and acknowledged, and whether ever more was acknowledged than stored."""

    def __init__(self) -> None:
        self.stored = 0
        self.acknowledged: list[bytes] = []

    def store(self, batch: Batch) -> None:
        self.stored += sum(buffer.row_count for buffer in batch.streams.values())

    def release(self, lines: bytes) -> None:
        self.acknowledged += lines.removesuffix(b"\n").split(b"\n")
        assert sum(map(count_of, self.acknowledged)) <= self.stored


def count_of(acknowledgement: bytes) -> int:
    count = json.loads(acknowledgement, parse_float=Decimal)["state"]["destinationStats"]["recordCount"]
    assert isinstance(count, Decimal)
    return int(count)


def take(lines: bytes) -> tuple[Sink, ConnectorError | None]:
    """Have ``lines`` read by the connector's own reader, in this process; what it failed with, if so."""
    sink = Sink()
    input_fd, output_fd = os.pipe()
    waiting_fd, waking_fd = os.pipe()
    feeder = threading.Thread(target=feed, args=(output_fd, lines), daemon=True)
    feeder.start()
    try:
        ids = RawIds()
        streams = [StreamName("public", name) for name in STREAMS]
        encoders = {stream: RowEncoder(stream, COLUMNS, ids, generation_id=1, sync_id=1) for stream in streams}
        flusher = Flusher(sink.store, sink.release, lambda: wake(waking_fd))
        try:
            Writer(Inbox(input_fd, waiting_fd), encoders, flusher, lambda _: None, Limits()).run()
        except ConnectorError as error:
            return sink, error
        finally:
            flusher.join()
        return sink, None
    finally:
        os.close(input_fd)
        feeder.join(30)
        assert not feeder.is_alive()
        os.close(waiting_fd)
        os.close(waking_fd)


def wake(fd: int) -> None:
    os.write(fd, b".")


def feed(fd: int, text: bytes) -> None:
    try:
        while text:
            text = text[os.write(fd, text) :]
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)


@pytest.mark.parametrize("first", range(0, LINES, LINES_PER_INPUT))
def test_spoilt_lines_one_at_a_time(first):
    print(f"WORKLOAD_FIRST_SEED={SEED}")
    for number in range(first, first + LINES_PER_INPUT):
        mutator = Mutator(SEED * 1_000_000 + number)
        kind = number % 10
        good = state(7, "users") if kind == 0 else status("users") if kind == 1 else mutator.record(3, "users")
        spoilt = mutator.spoilt(good)
        before = mutator.record(1, "users") + mutator.record(2, "orders") + state(1, None)
        ends = b"".join(map(status, STREAMS))
        lines = before + spoilt + mutator.record(4, "orders") + state(2, None) + ends
        sink, error = take(lines)
        if error is None:
            assert sink.stored == counted(lines), spoilt
            assert len(sink.acknowledged) >= 1, spoilt
        assert sink.acknowledged == [] or count_of(sink.acknowledged[0]) == 2, spoilt


@pytest.mark.parametrize("seed", range(SEED, SEED + RUNS))
def test_whole_runs_of_spoilt_input(destination_db, seed):
    print(f"WORKLOAD_FIRST_SEED={seed}")
    mutator, draw = Mutator(seed), random.Random(seed)
    lines = mutator.input(1000)
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        place = draw.randrange(len(lines))
        lines[place] = mutator.spoilt(lines[place])
    given = b"".join(lines)
    outcome = write(destination_db, CATALOG, given, flush_rows=draw.choice([1, 100, 10_000]))
    # Not always valid: a STATE goes back as it came.
    expect_quiet(outcome)
    tables = destination_db.rows("select tablename from pg_tables where schemaname = 'public'")
    final, raw = (
        sum(destination_db.value(f"select count(*) from {schema}{name}") for name in STREAMS) if tables else 0
        for schema in ("public.", "airbyte_internal.public_raw__stream_")
    )
    acknowledged = sum(int(found["destinationStats"]["recordCount"]) for found in outcome.states)
    assert final == raw
    assert acknowledged <= final
    errors = [trace["error"] for trace in outcome.traces if trace["type"] == "ERROR"]
    if outcome.exit_code == 0:
        assert errors == []
        assert final == counted(given)
    else:
        assert outcome.exit_code == 1
        assert len(errors) == 1
        assert "unexpected" not in errors[0]["message"], errors
