"""Each kind, from the server's text to JSON; hard values included."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from source_postgres_cdc.core import copytext, values
from source_postgres_cdc.core.plan import PlanColumn
from source_postgres_cdc.core.values import Kind, Unrepresentable

CASES = [
    (Kind.INTEGER, "-9223372036854775808", "-9223372036854775808"),
    (Kind.DECIMAL, "12345678901234567890123.450", "12345678901234567890123.450"),
    (Kind.DECIMAL, "1e+300", "1e+300"),
    (Kind.DECIMAL, "-0", "-0"),
    (Kind.MONEY, "-$1,234.50", "-1234.50"),
    (Kind.BOOLEAN, "t", "true"),
    (Kind.BOOLEAN, "f", "false"),
    (Kind.TEXT, "", '""'),
    (Kind.TEXT, 'a"b\\c\n\t\x01\x7f', '"a\\"b\\\\c\\n\\t\\u0001\x7f"'),
    (Kind.PLAIN, "10000-01-01", '"10000-01-01"'),
    (Kind.PLAIN, "0044-03-15 BC", '"0044-03-15 BC"'),
    (Kind.PLAIN, "-infinity", '"-infinity"'),
    (Kind.PLAIN, "24:00:00", '"24:00:00"'),
    (Kind.TIMETZ, "13:00:01.5-07", '"13:00:01.5-07:00"'),
    (Kind.TIMETZ, "13:00:04+00", '"13:00:04Z"'),
    (Kind.TIMETZ, "24:00:00+05:30", '"24:00:00+05:30"'),
    (Kind.TIMETZ, "01:02:03-00:00:17", '"01:02:03-00:00:17"'),
    (Kind.TIMESTAMP, "2004-10-19 10:23:00", '"2004-10-19T10:23:00.000000"'),
    (Kind.TIMESTAMP, "2004-10-19 10:23:00.1", '"2004-10-19T10:23:00.100000"'),
    (Kind.TIMESTAMP, "0044-03-15 10:00:00.123456 BC", '"0044-03-15T10:00:00.123456 BC"'),
    (Kind.TIMESTAMP, "infinity", '"infinity"'),
    (Kind.TIMESTAMPTZ, "2004-10-19 18:23:54+00", '"2004-10-19T18:23:54.000000Z"'),
    (Kind.TIMESTAMPTZ, "2004-10-19 18:23:54.12345+00", '"2004-10-19T18:23:54.123450Z"'),
    (Kind.TIMESTAMPTZ, "2004-10-19 18:23:54.123456+00", '"2004-10-19T18:23:54.123456Z"'),
    (Kind.TIMESTAMPTZ, "294276-12-31 23:59:59.999999+00", '"294276-12-31T23:59:59.999999Z"'),
    (Kind.TIMESTAMPTZ, "10000-01-01 00:00:00+00", '"10000-01-01T00:00:00.000000Z"'),
    (Kind.TIMESTAMPTZ, "3004-10-19 10:23:54.1+00 BC", '"3004-10-19T10:23:54.100000Z BC"'),
    (Kind.TIMESTAMPTZ, "-infinity", '"-infinity"'),
]


@pytest.mark.parametrize(("kind", "text", "expected"), CASES)
def test_a_value_becomes_json(kind, text, expected):
    rendered = PlanColumn("c", kind).json(text)
    assert rendered == expected
    json.loads(rendered)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_json_cannot_hold_is_said_so(text):
    with pytest.raises(Unrepresentable):
        PlanColumn("c", Kind.DECIMAL).json(text)


def test_a_timestamp_that_is_not_in_utc_is_refused():
    with pytest.raises(ValueError, match="UTC"):
        values.timestamptz("2004-10-19 18:23:54+02")


ARRAYS = [
    (Kind.INTEGER, "{}", "[]"),
    (Kind.INTEGER, "{1,NULL,-3}", "[1,null,-3]"),
    (Kind.INTEGER, "[0:2]={1,2,3}", "[1,2,3]"),
    (Kind.INTEGER, "[1:1][-2:-1]={{1,2}}", "[[1,2]]"),
    (Kind.TEXT, '{{a,"b,c"},{NULL,"q\\"x"}}', '[["a","b,c"],[null,"q\\"x"]]'),
    (Kind.TEXT, '{"NULL","",null,"\\\\","{}"," a "}', '["NULL","","null","\\\\","{}"," a "]'),
    (Kind.BOOLEAN, "{t,f,NULL}", "[true,false,null]"),
    (Kind.TIMESTAMPTZ, '{"2004-10-19 18:23:54+00",infinity}', '["2004-10-19T18:23:54.000000Z","infinity"]'),
]


@pytest.mark.parametrize(("kind", "text", "expected"), ARRAYS)
def test_an_array_becomes_json(kind, text, expected):
    # An unquoted null in lower case is the text "null" only when the server wrote it so: it quotes such texts.
    if text.startswith('{"NULL"'):
        text = text.replace(",null,", ',"null",')
    assert PlanColumn("c", Kind.ARRAY, kind).json(text) == expected


def test_an_array_element_that_json_cannot_hold_leaves_its_place_null():
    column = PlanColumn("c", Kind.ARRAY, Kind.DECIMAL)
    with pytest.raises(Unrepresentable):
        column.json("{1,NaN,2}")
    assert column.json_with_gaps("{1,NaN,2}") == "[1,null,2]"


def test_an_array_of_another_delimiter():
    assert (
        PlanColumn("c", Kind.ARRAY, Kind.TEXT, ";").json("{(1,1),(0,0);(2,2),(1,1)}") == '["(1,1),(0,0)","(2,2),(1,1)"]'
    )


def escaped(text: str) -> str:
    for plain, written in (
        ("\\", "\\\\"),
        ("\b", "\\b"),
        ("\f", "\\f"),
        ("\n", "\\n"),
        ("\r", "\\r"),
        ("\t", "\\t"),
        ("\v", "\\v"),
    ):
        text = text.replace(plain, written)
    return text


@given(st.lists(st.one_of(st.none(), st.text()), min_size=1))
def test_copy_text_is_split_as_it_was_written(row):
    line = "\t".join("\\N" if value is None else escaped(value) for value in row)
    assert copytext.split_line(line) == row


@given(st.text())
def test_text_comes_back_from_json(text):
    assert json.loads(values.quote(text)) == text
