"""Values, table-driven: what is taken, in which spelling, and what becomes NULL. The server's view of the same values
is in integration_tests/destination/test_values.py."""

from __future__ import annotations

import pytest
from msgspec import Raw

from airbyte_pg.errors import StreamName
from destination_postgres import values
from destination_postgres.columns import Column, Kind
from destination_postgres.inbox import Record
from destination_postgres.raw_ids import RawIds
from destination_postgres.rowcode import RowEncoder
from destination_postgres.values import from_json

BIG = "1" * 4301
DECIMAL = "0." + "1234567890" * 10

# JSON text -> column text, None where it does not fit.
CASES: dict[Kind, dict[str, str | None]] = {
    Kind.INTEGER: {
        "0": "0",
        "-7": "-7",
        "9223372036854775807": "9223372036854775807",
        "-9223372036854775808": "-9223372036854775808",
        "9223372036854775808": None,
        "-9223372036854775809": None,
        BIG: None,
        "42.0": None,
        "42.5": None,
        "1e3": "1000",
        "1.5e1": "15",
        "1e-1": None,
        "1e30": None,
        '"123"': "123",
        '" +007 "': "7",
        '"\\u0031"': "1",
        '"bar"': None,
        '""': None,
        '"0x10"': None,
        '"1_000"': None,
        '"\u0661"': None,
        "true": None,
        "[]": None,
    },
    Kind.NUMBER: {
        "67.174118": "67.174118",
        BIG: BIG,
        DECIMAL: DECIMAL,
        "1e400": "1e400",
        "-1.50E-3": "-1.50E-3",
        "1e131072": None,
        "1e-16384": None,
        "0.001e131074": "0.001e131074",
        "0e1073741822": "0e1073741822",
        "0e1073741824": None,
        "0.0e-16383": None,
        "1e99999999999999999999": None,
        "1" * 131_072: "1" * 131_072,
        "1" * 131_073: None,
        '"12.5"': "12.5",
        '"NaN"': "NaN",
        '"-Infinity"': "-Infinity",
        '"infinity"': "infinity",
        '"inf"': None,
        '"foo"': None,
        "false": None,
        "{}": None,
    },
    Kind.BOOLEAN: {
        "true": "t",
        "false": "f",
        "1": "t",
        "0": "f",
        '"true"': None,
        '"fizz"': None,
        "2": None,
        "[]": None,
    },
    Kind.STRING: {
        '""': "",
        '"a\\tb"': "a\tb",
        '"\\\\N"': "\\N",
        '"\\ud83d\\ude00"': "😀",
        "3.140": "3.140",
        "true": "true",
        '["I", "am"]': '["I", "am"]',
        '{"I": "am"}': '{"I": "am"}',
        BIG: BIG,
    },
    Kind.OBJECT: {"{}": "{}", '{"a": 1.0}': '{"a": 1.0}', "[]": None, '"{}"': None, "1": None},
    Kind.ARRAY: {"[]": "[]", "{}": None, '"[]"': None, "true": None},
    Kind.UNKNOWN: {"null": "null", "1": "1", '"a"': '"a"', "[1]": "[1]", "{}": "{}"},
    Kind.DATE: {
        '"2023-01-23"': "2023-01-23",
        '"2024-02-29"': "2024-02-29",
        '"2023-02-29"': None,
        '"1900-02-29"': None,
        '"2000-02-29"': "2000-02-29",
        '"2023-04-31"': None,
        '"2023-13-01"': None,
        '"0000-01-01"': None,
        '"0001-01-01 BC"': "0001-01-01 BC",
        '"0001-02-29 BC"': "0001-02-29 BC",
        '"4714-11-23 BC"': None,
        '"-0001-01-01"': None,
        '"+10000-01-01"': "10000-01-01",
        '"5874897-12-31"': "5874897-12-31",
        '"5874898-01-01"': None,
        '"2023-01-23T12:34:56Z"': "2023-01-23",
        '"Infinity"': "Infinity",
        '"-INFINITY"': "-INFINITY",
        '"today"': None,
        '"epoch"': None,
        '"20230101"': None,
        '"1/2/2023"': None,
        '"airbyte"': None,
        "20230101": None,
        "{}": None,
    },
    Kind.TIMESTAMPTZ: {
        '"2023-01-23T12:34:56Z"': "2023-01-23T12:34:56Z",
        '"2023-01-23T12:34:56-08:00"': "2023-01-23T12:34:56-08:00",
        '"2023-01-23T12:34:56-0800"': "2023-01-23 12:34:56-0800",
        '"2023-01-23T12:34:56-08"': "2023-01-23 12:34:56-08",
        '"2023-01-23 12:34:56.123456789"': "2023-01-23 12:34:56.123456789",
        '"2023-01-23"': "2023-01-23",
        '"2023-01-23T24:00:00Z"': "2023-01-23 24:00:00Z",
        '"2023-01-23T24:00:01Z"': None,
        '"2023-01-23T12"': None,
        '"2023-01-23T12:34:56+16:00"': None,
        '"2023-02-30T12:34:56Z"': None,
        '"0044-03-15T12:00:00Z BC"': "0044-03-15 12:00:00Z BC",
        '"12024-01-01T00:00:00Z"': "12024-01-01 00:00:00Z",
        '"294277-01-01T00:00:00+01"': "294277-01-01 00:00:00+01",
        '"294277-01-02T00:00:00Z"': None,
        '"4714-11-23T23:00:00-02 BC"': "4714-11-23 23:00:00-02 BC",
        '"4714-11-22 BC"': None,
        '"4715-12-31 BC"': None,
        '"2023-01-23T12:34:56Z\\u0000"': None,
        '"infinity"': "infinity",
        '"now"': None,
        "{}": None,
    },
    Kind.TIMESTAMP: {
        '"2023-01-23T12:34:56"': "2023-01-23T12:34:56",
        '"2023-01-23T12:34:56+05:00"': "2023-01-23T12:34:56+05:00",
        '"tomorrow"': None,
    },
    Kind.TIME: {
        '"12:34:56"': "12:34:56",
        '"12:34:56.123Z"': "12:34:56.123",
        '"12:34"': "12:34",
        '"23:59:60"': "23:59:60",
        '"24:00:00"': "24:00:00",
        '"24:00:01"': None,
        '"25:00:00"': None,
        '"allballs"': None,
        '"infinity"': None,
        "123456": None,
    },
    Kind.TIMETZ: {
        '"12:34:56Z"': "12:34:56Z",
        '"12:34:56-08"': "12:34:56-08",
        '"12:34:56"': "12:34:56",
        '"12:34:56+99"': None,
    },
}


all_cases = pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [
        pytest.param(kind, given, wanted, id=f"{kind.name}-{given[:40]}")
        for kind, cases in CASES.items()
        for given, wanted in cases.items()
    ],
)


@all_cases
def test_values(kind: Kind, given: str, wanted: str | None):
    assert from_json(kind, given) == wanted
    # Once more: the calendar's memory must not change an answer.
    assert from_json(kind, given) == wanted


@all_cases
def test_rows_hold_the_same_values(kind: Kind, given: str, wanted: str | None):
    encoder = RowEncoder(StreamName(None, "s"), [Column("v", "v", kind)], RawIds(), generation_id=None, sync_id=None)
    record = Record("s", Raw(f'{{"v":{given}}}'.encode()), 0)
    (cell, *_, meta) = encoder.encode([record], 0).final.decode()[:-1].split("\t")
    shown = (wanted or "").replace("\\", "\\\\").replace("\t", "\\t") if wanted is not None else "\\N"
    # NUL is removed before a value is judged.
    if "\\u0000" not in given:
        assert cell == shown
        assert ("NULLED" in meta) == (wanted is None)


@all_cases
def test_without_judgement_the_spelling_alone_decides(kind: Kind, given: str, wanted: str | None):
    taken = from_json(kind, given, judged=False)
    assert taken == (taken if wanted is None else wanted)
    # A word that the server would make a moment of never gets there.
    if wanted is None and taken is not None:
        assert taken.lstrip("-")[:1].isdigit()


def test_without_judgement_there_are_days_that_do_not_exist():
    assert values.date_text("2023-02-30", judged=False) == "2023-02-30"
    assert values.timestamp_text("2023-13-01T25", judged=False) is None
    assert values.integer_text("9223372036854775808", judged=False) == "9223372036854775808"
    assert values.number_text("1e999999", judged=False) == "1e999999"


def test_a_moment_is_spelt_alike_whether_its_date_has_been_seen_or_not():
    for text in ("1931-07-19T22:41:18.042000Z", "1931-07-20 22:41:18+05", "1931-07-21", "1931-07-22T24:00"):
        first = values.timestamp_text(text)
        assert text[:10] in values.KNOWN_DATES
        assert values.timestamp_text(text) == first
