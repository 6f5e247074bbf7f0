"""The rules of typing, one case each: a JSON value in, what the column holds, and whether a change is noted.

Rules: reference 3.5; all cases of all types go through one sync.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from integration_tests.destination.writing import record, sync
from integration_tests.support.catalogs import configured, stream
from integration_tests.support.databases import Database

# A case: the value as JSON text (None: the field is missing), and what the server shows of the column.
Case = tuple[str | None, str | None]
NOTHING: list[Case] = [(None, None), ("null", None)]
NUMERIC_INFINITY_VERSION = 14

# What is given, and kept.
KEPT: dict[str, list[Case]] = {
    "string": [
        ('"text"', "text"),
        ('""', ""),
        ('"null"', "null"),
        ('" a\\tb\\\\N\\n "', " a\tb\\N\n "),
        ('"\\u00e9\\ud83d\\ude00"', "é😀"),
        ('"2023-01-01"', "2023-01-01"),
        ("3.14", "3.14"),
        ("12345678901234567890.10", "12345678901234567890.10"),
        ("true", "true"),
        ('["I", "am"]', '["I", "am"]'),
        ('{"I": "am"}', '{"I": "am"}'),
    ],
    "boolean": [("true", "true"), ("false", "false"), ("1", "true"), ("0", "false")],
    "integer": [
        ("0", "0"),
        ("-0", "0"),
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775808", "-9223372036854775808"),
        ('"42"', "42"),
        ('" -42 "', "-42"),
        ('"007"', "7"),
        ("1e3", "1000"),
        ("1.5e1", "15"),
    ],
    "number": [
        ("67.174118", "67.174118"),
        ("-0.10", "-0.10"),
        ("1e3", "1000"),
        ("1E-5", "0.00001"),
        ("0." + "1234567890" * 9, "0." + "1234567890" * 9),
        ("9" * 400, "9" * 400),
        ('"1.50"', "1.50"),
        ('"NaN"', "NaN"),
    ],
    "date": [
        ('"2023-01-23"', "2023-01-23"),
        ('"2024-02-29"', "2024-02-29"),
        ('"0001-01-01 BC"', "0001-01-01 BC"),
        ('"10000-01-01"', "10000-01-01"),
        ('"2023-01-23T23:59:59-08:00"', "2023-01-23"),
        ('"infinity"', "infinity"),
    ],
    "time": [
        ('"12:34:56"', "12:34:56"),
        ('"12:34"', "12:34:00"),
        ('"12:34:56.1234567"', "12:34:56.123457"),
        ('"12:34:56Z"', "12:34:56"),
        ('"12:34:56+05:30"', "12:34:56"),
        ('"24:00:00"', "24:00:00"),
        ('"23:59:60"', "24:00:00"),
    ],
    "timetz": [
        ('"12:34:56Z"', "12:34:56+00"),
        ('"12:34:56-08:00"', "12:34:56-08"),
        ('"12:34:56-0800"', "12:34:56-08"),
        ('"12:34:56+05:30"', "12:34:56+05:30"),
        ('"12:34:56-08"', "12:34:56-08"),
        ('"12:34:56"', "12:34:56+00"),
    ],
    "timestamp": [
        ('"2023-01-23T12:34:56"', "2023-01-23 12:34:56"),
        ('"2023-01-23 12:34:56.123456789"', "2023-01-23 12:34:56.123457"),
        ('"9999-12-31T23:59:59.9999999"', "10000-01-01 00:00:00"),
        ('"2023-01-23T12:34:56+05:00"', "2023-01-23 12:34:56"),
        ('"2023-01-23"', "2023-01-23 00:00:00"),
        ('"-infinity"', "-infinity"),
    ],
    "timestamptz": [
        ('"2023-01-23T12:34:56Z"', "2023-01-23 12:34:56+00"),
        ('"2023-01-23T12:34:56-08:00"', "2023-01-23 20:34:56+00"),
        ('"2023-01-23T12:34:56-0800"', "2023-01-23 20:34:56+00"),
        ('"2023-01-23T12:34:56-08"', "2023-01-23 20:34:56+00"),
        ('"2023-01-23T12:34:56"', "2023-01-23 12:34:56+00"),
        ('"0001-01-01T00:00:00Z BC"', "0001-01-01 00:00:00+00 BC"),
        # ISO 8601's sign of a longer year, which the server takes for a zone.
        ('"+10000-01-01T00:00:00Z"', "10000-01-01 00:00:00+00"),
    ],
    "array": [("[]", "[]"), ('[1.10,"x",null]', '[1.10, "x", null]'), ("[[{}]]", "[[{}]]")],
    "object": [("{}", "{}"), ('{"b":1,"a":[2]}', '{"a": [2], "b": 1}'), ('{"a":1,"a":2}', '{"a": 2}')],
    "unknown": [
        ('"null"', '"null"'),
        ("1e3", "1000"),
        ("false", "false"),
        ("[null]", "[null]"),
        ("{}", "{}"),
        ('"\\\\N"', '"\\\\N"'),
    ],
}

# What is refused: NULL, with a change.
REFUSED: dict[str, list[str]] = {
    "boolean": ['"true"', '"1"', '"yes"', "2", "1.0", "[]", "{}"],
    "integer": [
        *("9223372036854775808", "-9223372036854775809", "42.0", "42.5", '"bar"', '""', '"1.0"', "true", "[1]"),
        *('"0x10"', '"1_000"', "1e400", "{}"),
    ],
    "number": ['"foo"', '""', '"1,5"', '"１"', "true", "[1.5]", "{}"],
    "date": [
        *('"2023-02-29"', '"0000-01-01"', '"-0001-01-01"', '"2023-13-01"', '"1/2/2023"', '"20230101"', "20230101"),
        *('"today"', '"now"', '"tomorrow"', '"yesterday"', '"epoch"', '""', "true", "[]", "{}"),
    ],
    "time": ['"25:00:00"', '"12:60"', '"now"', '"allballs"', '"12"', "12", "{}"],
    "timetz": ['"25:00:00Z"', '"12:34:56+16:00"', '"now"', '"allballs"', "true", "[]"],
    "timestamp": ['"2023-01-23T12"', '"2023-02-30T00:00:00"', '"now"', '"epoch"', "1700000000", "{}"],
    "timestamptz": ['"2023-01-23T25:00:00Z"', '"today"', "1700000000", "[]"],
    "array": ["{}", '"[]"', "1", "true"],
    "object": ["[]", '"{}"', "1", "false"],
}


class Found(NamedTuple):
    value: str | None
    raw_is_same: bool
    changes: list[dict[str, str]]


def cases_of(kind: str, major: int) -> list[tuple[str | None, str | None, bool]]:
    """(given, shown, whether a change is noted) of a kind."""
    # A JSON null is a value of a column that can hold it, and not the same as nothing.
    nothing: list[Case] = [(None, None), ("null", "null")] if kind == "unknown" else NOTHING
    infinities = [('"Infinity"', "Infinity"), ('"-infinity"', "-Infinity")] if kind == "number" else []
    refused = list(REFUSED.get(kind, []))
    if major < NUMERIC_INFINITY_VERSION:
        refused += [given for given, _ in infinities]
        infinities = []
    kept = [(given, shown, False) for given, shown in (*nothing, *KEPT[kind], *infinities)]
    return [*kept, *((given, None, True) for given in refused)]


@pytest.fixture(scope="module")
def found(destination_cluster) -> Iterator[dict[str, list[Found]]]:
    """What one sync of every case of every kind has left, in the order of the cases."""
    major = destination_cluster.major
    schema: dict[str, str | dict[str, Any]] = {kind: kind for kind in KEPT} | {"unknown": {}}
    streams = [stream(f"of_{kind}", {"v": schema[kind]}) for kind in KEPT]
    lines = []
    for kind in KEPT:
        for position, (given, _, _) in enumerate(cases_of(kind, major)):
            text = '{"other":1}' if given is None else f'{{"v":{given}}}'
            lines.append(record(text, f"of_{kind}", emitted_at=position))
    with Database(destination_cluster) as database:
        sync(database, configured(streams, destination="append"), b"".join(lines))
        database.execute("set timezone = 'UTC'")
        database.execute("set datestyle = 'ISO, YMD'")
        yield {kind: rows_of(database, kind, cases_of(kind, major)) for kind in KEPT}


def rows_of(database: Database, kind: str, cases: list[tuple[str | None, str | None, bool]]) -> list[Found]:
    given = [text for text, _, _ in cases]
    rows = database.rows(
        "select f.v::text, r._airbyte_data -> 'v' is not distinct from g.given::jsonb, f._airbyte_meta -> 'changes'"
        f" from unnest(%s::text[]) with ordinality g (given, position) join public.of_{kind} f"
        " on f._airbyte_extracted_at = to_timestamp((position - 1) / 1000.0)"
        f" join airbyte_internal.public_raw__stream_of_{kind} r using (_airbyte_raw_id) order by position",
        given,
    )
    return [Found(*row) for row in rows]


@pytest.mark.parametrize("kind", KEPT)
def test_every_rule_of_a_type(found, destination_cluster, kind):
    cases = cases_of(kind, destination_cluster.major)
    nulled = {"field": "v", "change": "NULLED", "reason": "DESTINATION_TYPECAST_ERROR"}
    wanted = [(given, Found(shown, True, [nulled] if changed else [])) for given, shown, changed in cases]
    assert list(zip([given for given, _, _ in cases], found[kind], strict=True)) == wanted
