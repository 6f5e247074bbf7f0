"""History files of timelines, as PostgreSQL writes them."""

from __future__ import annotations

from source_postgres_cdc import timeline

HISTORY = """1\t0/3000060\tbefore 2026-01-01 00:00:00+00

# a comment
2\t1/A0\tno recovery target specified
"""


def test_ancestors_and_where_they_were_left():
    assert timeline.parse(HISTORY) == {1: 0x3000060, 2: 0x1_0000_00A0}
    assert timeline.parse("") == {}
