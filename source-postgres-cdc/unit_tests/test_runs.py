"""Blocks of binary COPY, cut anywhere, and the generated code that renders runs of their rows."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from source_postgres_cdc.core.blocks import FILE_HEADER, FILE_TRAILER, blocks
from source_postgres_cdc.core.pgoutput import ProtocolError
from source_postgres_cdc.core.plan import render_values
from source_postgres_cdc.core.tuples import ORDINAL_STEP, SlowRow, TuplePlan

from . import frames
from .test_plan import COLUMNS, HEAD, OID, ROW

AROUND = (',"_ab_cdc_lsn":', ',"_ab_cdc_deleted_at":null')
NUMBERED = (',"_ab_cdc_lsn":', ',"_ab_cdc_ordinal":')
# Long ones, and text that looks like what stands before a value.
LONG = st.just("x" * 300) | st.just("t") | st.just("tttt")
ROWS = st.lists(ROW | st.tuples(*([st.just("1"), LONG] + [st.none()] * (len(COLUMNS) - 2))), max_size=8)


PLAIN = ["1", "x", "1.50", "y", "2024-01-02 03:04:05+00", "t", "{a}", "2024-01-02 03:04:05.25"]
PLAIN += ["\\x", "x", '"a"=>"b"', "x", "NaN"]
PLANS = {numbered: TuplePlan(COLUMNS, OID, numbered=numbered) for numbered in (False, True)}


def copied(sent: list[tuple[int, bytes]]) -> bytes:
    rows = (struct.pack(">HIQI", 2, 8, lsn, len(frame)) + frame for lsn, frame in sent)
    return FILE_HEADER + b"".join(rows) + FILE_TRAILER


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(ROWS, st.integers(1, 400), st.booleans())
def test_runs_of_blocks_that_are_cut_anywhere_equal_the_slow_way(rows, size, numbered):
    plan = PLANS[numbered]
    around = NUMBERED if numbered else AROUND

    def tail(lsn: int, number: int) -> str:
        return f"{around[0]}{lsn}{around[1]}{number if numbered else ''}"

    sent = [(100 + i, (frames.update if i % 3 else frames.insert)(OID, row)) for i, row in enumerate(rows)]
    lines: list[str] = []
    number = 0
    for block in blocks(cut(copied(sent), size)):
        while True:
            number = plan.render_run(block, len(block.buffer), HEAD, around, number, lines)
            taken = block.take()
            if taken is None:
                break
            number += ORDINAL_STEP
            place = len(lines)
            try:
                lines.append(plan.render_new(taken[1], 6, HEAD, tail(taken[0], number)))
            except SlowRow:
                lines.append(render_values(COLUMNS, rows[place], HEAD, tail(taken[0], number)))
    expected = [render_values(COLUMNS, row, HEAD, tail(100 + i, ORDINAL_STEP * (i + 1))) for i, row in enumerate(rows)]
    assert lines == expected


def test_a_run_ends_at_another_relation_and_at_the_limit():
    short = PLAIN
    row = [*short[:3], None, *short[4:]]
    sent = [(1, frames.insert(OID, short)), (2, frames.insert(OID, row)), (3, frames.insert(OID + 1, short))]
    block = next(blocks([copied(sent)]))
    lines: list[str] = []
    start = block.at
    assert TuplePlan(COLUMNS, OID).render_run(block, start, HEAD, AROUND, 0, lines) == ORDINAL_STEP
    assert len(lines) == 1
    assert TuplePlan(COLUMNS, OID).render_run(block, 1 << 30, HEAD, AROUND, 0, lines) == ORDINAL_STEP
    assert block.take() == sent[2]
    assert block.take() is None


@pytest.mark.parametrize("size", [0, 0x74, 0xFF, 0x100, 0x7400, 0x7474, 0xFFFF, 0x10000, 0x740000, 0x740074])
def test_lengths_that_look_like_what_stands_before_a_value(size):
    # 0x740000 has two zeros behind a "t" of its own.
    row = ["1", "x" * size, *PLAIN[2:]]
    block = next(blocks([copied([(1, frames.insert(OID, row)), (1, frames.insert(OID, PLAIN))])]))
    lines: list[str] = []
    PLANS[False].render_run(block, 1 << 30, HEAD, AROUND, 0, lines)
    tail = f"{AROUND[0]}1{AROUND[1]}"
    assert lines == [render_values(COLUMNS, each, HEAD, tail) for each in (row, PLAIN)]


def test_a_run_leaves_what_is_rare():
    plain = PLAIN
    for frame in (
        frames.insert(OID, [*plain[:2], "NaN", *plain[3:]]),
        frames.insert(OID, [*plain[:11], "\xff", plain[12]]),
        frames.update(OID, plain, plain),
        frames.delete(OID, plain),
        frames.insert(OID, plain[1:]),
        frames.begin(1, 2, 3),
    ):
        block = next(blocks([copied([(1, frame)])]))
        lines: list[str] = []
        TuplePlan(COLUMNS, OID).render_run(block, 1 << 30, HEAD, AROUND, 0, lines)
        assert lines == []
        assert block.take() == (1, frame)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 100,
        FILE_HEADER,
        FILE_HEADER + FILE_TRAILER + b"x",
        FILE_HEADER + struct.pack(">HIQI", 2, 8, 1, 10) + b"short",
        FILE_HEADER + struct.pack(">HIQI", 3, 8, 1, 0) + FILE_TRAILER,
    ],
)
def test_what_is_no_copy_of_frames_is_refused(data):
    with pytest.raises(ProtocolError):
        [list(iter(block.take, None)) for block in blocks(cut(data, 7))]
