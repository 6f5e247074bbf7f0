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
    (Kind.MONEY_WHOLE, "$12.34", "1234"),
    (Kind.MONEY_WHOLE, "-$1,234.50", "-123450"),
    (Kind.MONEY_WHOLE, "$0.00", "0"),
    (Kind.MONEY_WHOLE, "-$0.05", "-5"),
    (Kind.MONEY_MILLE, "$12,340.00", "1234.000"),
    (Kind.MONEY_MILLE, "-$0.05", "-0.005"),
    (Kind.MONEY_MILLE, "$0.00", "0.000"),
    (Kind.BOOLEAN, "t", "true"),
    (Kind.BOOLEAN, "f", "false"),
    (Kind.TEXT, "", '""'),
    (Kind.TEXT, 'a"b\\c\n\t\x01\x7f', '"a\\"b\\\\c\\n\\t\\u0001\x7f"'),
    (Kind.PLAIN, "10000-01-01", '"10000-01-01"'),
    (Kind.PLAIN, "0044-03-15 BC", '"0044-03-15 BC"'),
    (Kind.PLAIN, "-infinity", '"-infinity"'),
    (Kind.PLAIN, "24:00:00", '"24:00:00"'),
    (Kind.PLAIN, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    (Kind.DECIMAL_OR_TEXT, "12.50", "12.50"),
    (Kind.DECIMAL_OR_TEXT, "-Infinity", '"-Infinity"'),
    (Kind.BIT, "1", "true"),
    (Kind.BIT, "0", "false"),
    (Kind.BYTEA, "\\xdeadbeef00", '"\\\\xdeadbeef00"'),
    (Kind.BYTEA, "\\x", '"\\\\x"'),
    (Kind.BASE64, "\\xdeadbeef00", '"3q2+7wA="'),
    (Kind.BASE64, "\\x", '""'),
    (Kind.HSTORE, "", '"{}"'),
    (Kind.HSTORE, '"k"=>"v", "n"=>NULL', '"{\\"k\\":\\"v\\",\\"n\\":null}"'),
    (Kind.HSTORE, '"a\\"=>\\\\"=>"NULL", ""=>""', '"{\\"a\\\\\\"=>\\\\\\\\\\":\\"NULL\\",\\"\\":\\"\\"}"'),
    (Kind.HSTORE, '"tab\t"=>"line\n"', '"{\\"tab\\\\t\\":\\"line\\\\n\\"}"'),
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
    (Kind.INTEGER, "{{1,NULL},{3,4}}", "[[1,null],[3,4]]"),
    (Kind.DECIMAL, "[5:6]={1.50,1e+30}", "[1.50,1e+30]"),
    (Kind.DECIMAL, "{NULL,-0.001}", "[null,-0.001]"),
    (Kind.DECIMAL_OR_TEXT, "{1.5,NaN,NULL,-Infinity}", '[1.5,"NaN",null,"-Infinity"]'),
    (Kind.MONEY, '{$1.00,"-$1,234.50"}', "[1.00,-1234.50]"),
    (Kind.BOOLEAN, "[0:1][1:1]={{t},{f}}", "[[true],[false]]"),
    (Kind.BIT, "{1,0,NULL}", "[true,false,null]"),
    (Kind.TEXT, "{a,b'c,\x01}", '["a","b\'c","\\u0001"]'),
    (Kind.TEXT, "{a,NULL}", '["a",null]'),
    (Kind.TEXT, "{{a},{b}}", '[["a"],["b"]]'),
    (Kind.TEXT, "[-1:0]={a,b}", '["a","b"]'),
    (Kind.PLAIN, "{10.0.0.1,::1}", '["10.0.0.1","::1"]'),
    (Kind.BASE64, '{"\\\\xff00","\\\\x",NULL}', '["/wA=","",null]'),
    (Kind.HSTORE, '{"\\"a\\"=>\\"1\\"",""}', '["{\\"a\\":\\"1\\"}","{}"]'),
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
    assert column.json_with_gaps("{1,NaN,2}") == ("[1,null,2]", "TRUNCATED")
    assert PlanColumn("c", Kind.DECIMAL).json_with_gaps("NaN") == ("null", "NULLED")


def test_bytes_that_are_no_utf_8_are_replaced_and_said_so():
    for column, text, repaired in (
        (PlanColumn("c", Kind.TEXT, is_raw=True), 'a\xff"\xe9', '"a�\\"�"'),
        (PlanColumn("c", Kind.ARRAY, Kind.TEXT, is_raw=True), "{a,\xe9}", '["a","�"]'),
        (PlanColumn("c", Kind.HSTORE, is_raw=True), '"\xe9"=>NULL', '"{\\"�\\":null}"'),
    ):
        with pytest.raises(Unrepresentable):
            column.json(text)
        sent, change = column.json_with_gaps(text)
        assert (sent.encode("latin-1").decode(), change) == (repaired, "TRUNCATED")
    assert PlanColumn("c", is_raw=True).json("é".encode().decode("latin-1")) == '"Ã©"'


def test_an_array_of_another_delimiter():
    assert (
        PlanColumn("c", Kind.ARRAY, Kind.TEXT, ";").json("{(1,1),(0,0);(2,2),(1,1)}") == '["(1,1),(0,0)","(2,2),(1,1)"]'
    )
    # PostGIS has a colon.
    assert PlanColumn("c", Kind.ARRAY, Kind.TEXT, ":").json('{0101:NULL:"a:b"}') == '["0101",null,"a:b"]'


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


ITEMS = {
    Kind.INTEGER: st.integers().map(str),
    Kind.DECIMAL: st.sampled_from(["1.5", "-0.00", "1e+30", "NaN", "Infinity"]),
    Kind.BOOLEAN: st.sampled_from("tf"),
    Kind.TEXT: st.text(st.characters(max_codepoint=255, exclude_characters="\x00")),
}
ITEMS_OF_KIND = st.sampled_from(list(ITEMS)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(st.none() | ITEMS[kind], max_size=4))
)


@given(ITEMS_OF_KIND, st.booleans())
def test_the_quick_way_through_an_array_gives_what_the_slow_one_does(given_items, is_nested):
    kind, items = given_items
    text = "{" + ",".join(map(written, items)) + "}"
    if is_nested and items:
        text = f"[2:3][1:{len(items)}]={{{text},{text}}}"
    column = PlanColumn("c", Kind.ARRAY, kind)
    gaps, _ = column.json_with_gaps(text)
    try:
        assert column.json(text) == gaps
    except Unrepresentable:
        assert "null" in gaps
    one = [None if item is None else parsed(item, kind) for item in items]
    assert json.loads(gaps, parse_int=str, parse_float=str) == ([one, one] if is_nested and items else one)


def parsed(item: str, kind: Kind) -> str | bool | None:
    if kind is Kind.BOOLEAN:
        return item == "t"
    return None if kind is Kind.DECIMAL and item in ("NaN", "Infinity") else item


def written(item: str | None) -> str:
    """As array_out writes an element."""
    if item is None:
        return "NULL"
    if item == "" or item.upper() == "NULL" or set(item) & set('"\\{}, \t\n\r\v\f'):
        return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return item
