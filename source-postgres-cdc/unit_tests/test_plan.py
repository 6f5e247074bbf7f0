"""The generated code equals the slow way, byte for byte, and both equal a plain oracle."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from source_postgres_cdc.core.pgoutput import UNCHANGED, ProtocolError
from source_postgres_cdc.core.plan import CopyPlan, PlanColumn, render_values
from source_postgres_cdc.core.tuples import SlowRow, TuplePlan
from source_postgres_cdc.core.values import Kind

from . import frames
from .test_values import escaped

HEAD = '{"type":"RECORD","record":{"stream":"t","emitted_at":1,"data":{'
TAIL = ',"_ab_cdc_lsn":7'
OID = 5

COLUMNS = [
    PlanColumn("id", Kind.INTEGER),
    PlanColumn('odd "name" {}\'\\é\n', Kind.TEXT),
    PlanColumn("amount", Kind.DECIMAL),
    PlanColumn(None, Kind.TEXT),
    PlanColumn("at", Kind.TIMESTAMPTZ),
    PlanColumn("ok", Kind.BOOLEAN),
    PlanColumn("list", Kind.ARRAY, Kind.TEXT),
    PlanColumn("local", Kind.TIMESTAMP),
    PlanColumn("bytes", Kind.BYTEA),
    PlanColumn("uuid", Kind.PLAIN),
    PlanColumn("pairs", Kind.HSTORE),
    PlanColumn("raw", Kind.TEXT, is_raw=True),
    PlanColumn("any", Kind.DECIMAL_OR_TEXT),
]

TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\x00"))
MOMENT = st.builds(
    "{}-01-02 03:04:05{}{}".format,
    st.sampled_from(["0044", "2024", "10000", "294276"]),
    st.sampled_from(["", ".5", ".25", ".125", ".0625", ".03125", ".015625"]),
    st.sampled_from(["", " BC"]),
)
INFINITE = st.sampled_from(["infinity", "-infinity"])
ROW = st.tuples(
    st.none() | st.integers().map(str),
    st.none() | TEXT,
    st.none() | st.decimals(allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}") | st.just("NaN"),
    st.none() | TEXT,
    st.none()
    | MOMENT.map(lambda moment: moment.replace(" BC", "+00 BC") if "BC" in moment else f"{moment}+00")
    | INFINITE,
    st.none() | st.sampled_from(["t", "f"]),
    st.none() | st.sampled_from(["{}", "{a,b}", '{"a\\\\b","c\\"d",NULL}']),
    st.none() | MOMENT | INFINITE,
    st.none() | st.binary(max_size=3).map(lambda value: f"\\x{value.hex()}"),
    st.none() | st.just("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    st.none() | st.sampled_from(["", '"a"=>"1"', '"a\\"b"=>NULL, "c\\\\"=>"d"']),
    st.none()
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00")).map(lambda text: text.encode().decode("latin-1"))
    | TEXT,
    st.none() | st.sampled_from(["1.5", "NaN", "-Infinity"]),
)


PLAN = TuplePlan(COLUMNS, OID)


def copy_chunk(rows) -> bytes:
    lines = ("\t".join("\\N" if value is None else escaped(value) for value in row) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode("latin-1")


@given(st.lists(ROW, max_size=5))
def test_copy_and_stream_and_the_slow_way_give_the_same_bytes(rows):
    slow = [render_values(COLUMNS, row, HEAD, TAIL) for row in rows]
    rendered, count = CopyPlan(COLUMNS).render(copy_chunk(rows), HEAD, TAIL)
    assert count == len(rows)
    assert rendered.decode("latin-1") == "".join(slow)
    for row, expected in zip(rows, slow, strict=True):
        try:
            line = PLAN.render_new(frames.insert(5, row), 6, HEAD, TAIL)
        except SlowRow:
            line = PLAN.render_values(list(row), HEAD, TAIL)
        assert line == expected


@given(ROW)
def test_a_line_holds_the_row(row):
    record = json.loads(render_values(COLUMNS, row, HEAD, TAIL))["record"]
    data = record["data"]
    assert len(data) == len(COLUMNS)  # one is not sent, one is the meta column
    assert data["_ab_cdc_lsn"] == 7
    assert data['odd "name" {}\'\\Ã©\n'] == row[1]
    lost = [("amount", "NULLED")] if row[2] == "NaN" else []
    if row[11] is not None and not is_utf8(row[11]):
        lost.append(("raw", "TRUNCATED"))
        assert "\xef\xbf\xbd" in data["raw"]
    changes = [{"field": field, "change": change, "reason": "SOURCE_SERIALIZATION_ERROR"} for field, change in lost]
    assert record.get("meta", {"changes": []})["changes"] == changes
    if row[2] == "NaN":
        assert data["amount"] is None


def is_utf8(text: str) -> bool:
    try:
        return bool(text.encode("latin-1").decode()) or not text
    except UnicodeDecodeError:
        return False


def test_chunks_without_null_are_rendered_alike():
    # No bytea: its values have a backslash.
    columns = [column for column in COLUMNS if column.kind is not Kind.BYTEA]
    more = ["2024-01-02 03:04:05.25+00", "t", "{a,b}", "infinity", "x"]
    rows = [
        ["1", text, "1.5", "x", *more, pairs, "x", "Infinity"] for text, pairs in (("a", ""), ('a "b"', '"a"=>"b"'))
    ]
    for chosen in (rows[:1], rows[1:], rows):
        slow = [render_values(columns, row, HEAD, TAIL) for row in chosen]
        rendered, _ = CopyPlan(columns).render(copy_chunk(chosen), HEAD, TAIL)
        assert rendered.decode("latin-1") == "".join(slow)


def test_an_ordinary_row_goes_the_fast_way():
    row = ["1", "x", "1.50", None, "2024-01-02 03:04:05+00", "t", "{a}", "2024-01-02 03:04:05.25", *[None] * 5]
    line = TuplePlan(COLUMNS, OID).render_new(frames.insert(5, row), 6, HEAD, TAIL)
    assert json.loads(line)["record"]["data"]["at"] == "2024-01-02T03:04:05.000000Z"


def test_an_unchanged_value_is_left_out_and_said_so():
    line = TuplePlan(COLUMNS, OID).render_values(["1", UNCHANGED, None, UNCHANGED, *[None] * 9], HEAD, TAIL)
    record = json.loads(line)["record"]
    assert [change["reason"] for change in record["meta"]["changes"]] == ["SOURCE_RETRIEVAL_ERROR"]
    assert set(record["data"]) == {column.field for column in COLUMNS[4:]} | {"id", "amount", "_ab_cdc_lsn"}


def test_a_table_without_columns_gives_the_meta_columns():
    rendered, count = CopyPlan([]).render(b"\n\n", HEAD, TAIL)
    assert count == 2
    assert [json.loads(line)["record"]["data"] for line in rendered.splitlines()] == [{"_ab_cdc_lsn": 7}] * 2


def test_a_line_with_another_number_of_columns_is_refused():
    whole = b"1\tx\t2\tx\t\\N\tt\t{}\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N"
    assert CopyPlan(COLUMNS).render(whole + b"\n", HEAD, TAIL)[1] == 1
    for chunk in (b"1\tx\n", b"1\t\\N\n", whole + b"\tmore\n"):
        with pytest.raises(ProtocolError):
            CopyPlan(COLUMNS).render(chunk, HEAD, TAIL)


@given(ROW)
def test_a_tuple_cut_anywhere_never_goes_the_fast_way(row):
    frame = frames.insert(5, row)
    for end in range(6, len(frame)):
        with pytest.raises((SlowRow, ProtocolError)):
            PLAN.render_new(frame[:end], 6, HEAD, TAIL)
