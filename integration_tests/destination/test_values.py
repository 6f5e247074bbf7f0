"""Values: whatever we take, the server takes too, and it becomes what the server itself makes of it."""

from __future__ import annotations

import itertools
import json
import random
import resource
from decimal import Decimal
from typing import Any

import pytest

from destination_postgres import values
from destination_postgres.columns import Kind
from integration_tests.destination.writing import one, raw_count, record, status, sync, write
from integration_tests.support.catalogs import stream
from integration_tests.support.databases import Database

NULLED = {"change": "NULLED", "reason": "DESTINATION_TYPECAST_ERROR"}

# What the server says of a text, in the session that our own transactions set up; NULL where it refuses.
TRY = """\
create function public.try(value text, type text) returns text language plpgsql
set timezone = 'UTC' set datestyle = 'ISO, YMD' as $$
declare answer text;
begin
  execute format('select (%L::%s)::text', value, type) into answer;
  return answer;
exception when others then
  return null;
end $$"""

ENDS_OF_TIME = ("4714-11-2", "294276-12-31", "294277-01-01")

_YEARS = (
    "0000 0001 0004 1900 2000 2023 2024 9999 10000 +10000 012023 294275 294276 294277 5874897 5874898 4713 4714 4715"
)
_DAYS = "01-01 02-28 02-29 02-30 04-30 04-31 11-23 11-24 11-25 12-31 13-01 00-10 10-00 10-32"
_CLOCKS = ",T00:00:00,T12:34:56,t12:34, 12:34:56.123456,T12:34:56.1234567,T23:59:59.9999999,T24:00:00,T24:00:01"
_MORE_CLOCKS = "T23:59:60,T23:60:00,T12,T12:34:60.5,T1:02:03,T12:34:56.1111111111111111111111111111111"
_ZONES = ",Z,z,+00,-08,+0530,+05:30,-15:59,+15:59:59,+16:00, UTC, +01,+01:60,+1, Europe/Berlin"
_ERAS = ", BC, AD,BC"


def moments() -> list[str]:
    """A few thousand spellings of moments, right and wrong ones."""
    clocks = [*_CLOCKS.split(","), *_MORE_CLOCKS.split(",")]
    parts = itertools.product(_YEARS.split(), _DAYS.split(), clocks, _ZONES.split(","), _ERAS.split(","))
    spelt = [f"{year}-{day}{clock}{zone}{era}" for year, day, clock, zone, era in parts if clock or not zone]
    odd = ["infinity", "-Infinity", "+infinity", "now", "today", "epoch", "", " 2023-01-01 ", "20230101", "1/2/2023"]
    return [*random.Random(7).sample(spelt, 6000), *odd]


def times() -> list[str]:
    clocks = [clock[1:] for clock in (*_CLOCKS.split(","), *_MORE_CLOCKS.split(",")) if clock]
    return [clock + zone for clock in clocks for zone in _ZONES.split(",")] + ["allballs", "now", "infinity"]


def numbers() -> list[str]:
    wholes = ["", "0", "000", "7", "007", "9223372036854775807", "9223372036854775808", "1" * 50]
    fractions = ["", ".", ".0", ".5", ".00012", "." + "9" * 40]
    exponents = [
        "",
        "e0",
        "e3",
        "E-3",
        "e+2",
        "e400",
        "e131071",
        "e131073",
        "e-16383",
        "e-16384",
        "e999999",
        "e1073741822",
        "e1073741824",
        "e-1073741823",
        "e" + "9" * 10,
    ]
    spelt = ["".join(parts) for parts in itertools.product(["", "-", "+"], wholes, fractions, exponents)]
    limits = ["1" * 131_072, "1" * 131_073, "0." + "1" * 16_383, "0." + "1" * 16_384]
    odd = ["NaN", "Infinity", "-infinity", "inf", "0x10", "1_000", " 5 ", "", "abc", "e5", "--5", "１"]
    return [*spelt, *limits, *odd]


@pytest.mark.parametrize(
    ("kind", "sql_type", "spellings"),
    [
        (Kind.TIMESTAMPTZ, "timestamptz", moments),
        (Kind.TIMESTAMP, "timestamp", moments),
        (Kind.DATE, "date", moments),
        (Kind.TIME, "time", times),
        (Kind.TIMETZ, "timetz", times),
        (Kind.NUMBER, "numeric", numbers),
        (Kind.DECIMAL, "numeric(38,9)", numbers),
        (Kind.INTEGER, "bigint", numbers),
    ],
)
def test_the_judges_never_take_what_the_server_refuses_or_reads_otherwise(destination_db, kind, sql_type, spellings):
    texts = spellings()
    judged = [values.TEXTS[kind](text) for text in texts]
    destination_db.execute(TRY)
    servers = destination_db.rows(
        "select public.try(given, %s), public.try(taken, %s)"
        " from unnest(%s::text[], %s::text[]) with ordinality as u (given, taken, position) order by position",
        *(sql_type, sql_type, texts, judged),
    )
    taken = 0
    for text, ours, (of_given, of_taken) in zip(texts, judged, servers, strict=True):
        if ours is None:
            # JSON numbers are judged exactly: by the same judge they are looked for in jsonb.
            assert kind is not Kind.NUMBER or not values.is_number(text) or of_given is None, text[:50]
            continue
        taken += 1
        if of_taken is None and "timestamp" in sql_type and ours.startswith(ENDS_OF_TIME):
            # The zone decides there, and the server knows it.
            continue
        if of_taken is None and kind is Kind.NUMBER and "inf" in ours.lower():
            assert destination_db.server.major < 14
            continue
        assert of_taken is not None, f"{text[:50]!r} became {ours[:50]!r}, which the server refuses"
        # Of what the server refuses in this spelling (1e3 as bigint) we may take more than it does.
        assert of_given in (of_taken, None), text[:50]
    assert taken > len(texts) / 20


def table(columns: dict[str, Any]) -> dict[str, Any]:
    return one(stream("t", columns))


def rows(db: Database, columns: str = "*") -> list[tuple[Any, ...]]:
    return db.rows(f"select {columns} from public.t order by _airbyte_raw_id")


def test_ordinary_values_of_every_type(destination_db):
    destination_db.execute(f"alter database {destination_db.name} set timezone = 'Asia/Kathmandu'")
    columns = {kind: kind for kind in ("string", "integer", "number", "boolean", "date", "array", "object")}
    columns |= {"ts": "timestamp", "tstz": "timestamptz", "t": "time", "ttz": "timetz"}
    data = {
        "string": "a\tb\\N\n\r'\"",
        "integer": -9223372036854775808,
        "number": 67.174118,
        "boolean": True,
        "date": "2023-01-23",
        "array": ["foo", {"a": "\\"}],
        "object": {"foo": "bar\n"},
        "ts": "2023-01-23T12:34:56",
        "tstz": "2023-01-23T12:34:56",
        "t": "12:34:56",
        "ttz": "12:34:56",
    }
    sync(destination_db, table(columns), record(data, "t"))
    shown = 'string, integer, number, boolean, date::text, "array", object, ts::text, t::text, ttz::text'
    utc = "to_char(tstz at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')"
    assert rows(destination_db, f"{shown}, {utc}, _airbyte_meta -> 'changes'") == [
        (
            *("a\tb\\N\n\r'\"", -9223372036854775808, Decimal("67.174118"), True, "2023-01-23", ["foo", {"a": "\\"}]),
            *({"foo": "bar\n"}, "2023-01-23 12:34:56", "12:34:56", "12:34:56+00", "2023-01-23 12:34:56", []),
        )
    ]


def test_digits_are_exact(destination_db):
    integer, decimal = "9" * 4301, "0." + "1234567890" * 10
    sync(
        destination_db,
        table({"n": "number", "m": "number", "o": "object", "s": "string"}),
        record(f'{{"n":{integer},"m":{decimal},"o":{{"n":{integer}}},"s":{decimal}}}', "t"),
    )
    assert rows(destination_db, "n::text, m::text, o ->> 'n', s") == [(integer, decimal, integer, decimal)]
    raw = "select _airbyte_data ->> 'n', _airbyte_data ->> 'm' from airbyte_internal.public_raw__stream_t"
    assert destination_db.rows(raw) == [(integer, decimal)]


def test_a_decimal_column_says_what_it_cut_off(destination_db):
    kept = ["0", "1.500000000000", "-0.123456789", "9" * 29, "12e27", "0e-99", "NaN", "1e-9", "99999999.999999999e20"]
    rounded = ["0.1234567891", "-0.00000000049", "1e-10", "123456789012345678901234567.8901234567", "0.99999999999"]
    refused = ["1" * 30, "1e29", "9" * 29 + ".9999999999", "Infinity", "-1e400", "about 5"]
    texts = [*kept, *rounded, *refused]
    lines = b"".join(record({"id": number, "n": text}, "t") for number, text in enumerate(texts))
    catalog = table({"id": "integer", "n": "number"})
    sync(destination_db, catalog, lines, unconstrained_number=False)
    assert destination_db.value("select format_type(atttypid, atttypmod) from pg_attribute where attname = 'n'") == (
        "numeric(38,9)"
    )
    destination_db.execute(TRY)
    changed = "(_airbyte_meta #> '{changes,0}') - 'field'"
    truncated = {"change": "TRUNCATED", "reason": "DESTINATION_FIELD_SIZE_LIMITATION"}
    found = destination_db.rows(f"select n::text, {changed} from public.t order by id")
    for text, (value, change) in zip(texts, found, strict=True):
        wanted = None if text in kept else truncated if text in rounded else NULLED
        assert (text, change) == (text, wanted)
        assert value == (
            None if text in refused else destination_db.value("select public.try(%s, 'numeric(38,9)')", text)
        )


def test_a_decimal_column_of_2x_is_widened(destination_db):
    catalog = table({"n": "number", "m": "number"})
    sync(destination_db, catalog, record({"n": 1.5, "m": 2}, "t"), unconstrained_number=False)
    destination_db.execute("create view public.v as select n from public.t")
    refused = write(destination_db, catalog, record({"n": 1e40, "m": 1}, "t") + status("t"))
    assert refused.exit_code == 1
    assert refused.error is not None
    assert refused.error["failure_type"] == "config_error"
    assert "unconstrained_number" in refused.error["message"]
    destination_db.execute("drop view public.v")
    sync(destination_db, catalog, record('{"n":1e40,"m":0.12345678901}', "t"))
    assert rows(destination_db, "n::text, m::text") == [
        ("1.500000000", "2.000000000"),
        ("1" + "0" * 40, "0.12345678901"),
    ]


def test_infinities(destination_db):
    columns = {"n": "number", "m": "number", "d": "date", "ts": "timestamptz"}
    sync(
        destination_db, table(columns), record({"n": "NaN", "m": "-Infinity", "d": "infinity", "ts": "-infinity"}, "t")
    )
    found = rows(destination_db, "n::text, m::text, d::text, ts::text")
    # numeric knows the infinities since 14.
    number = "-Infinity" if destination_db.server.major >= 14 else None
    assert found == [("NaN", number, "infinity", "-infinity")]


def test_a_value_that_does_not_fit_is_null_with_its_reason_and_the_original_stays_in_raw(destination_db):
    wrong = {
        "integer": "bar",
        "number": "foo",
        "boolean": "fizz",
        "date": "today",
        "timestamp": {},
        "timestamptz": "now",
        "time": "25:00:00",
        "timetz": [],
        "array": {},
        "object": [],
    }
    catalog = table({**{kind: kind for kind in wrong}, "string": "string"})
    own = {"field": "z", "change": "TRUNCATED", "reason": "SOURCE_FIELD_SIZE_LIMITATION"}
    sync(destination_db, catalog, record({**wrong, "string": [1, "x"]}, "t", meta={"changes": [own]}))
    found = rows(destination_db, "string, _airbyte_meta, num_nulls(" + ", ".join(f'"{kind}"' for kind in wrong) + ")")
    changes = [{"field": kind, **NULLED} for kind in wrong]
    assert found == [('[1, "x"]', {"changes": [*changes, own], "sync_id": 1}, len(wrong))]
    raw = "select _airbyte_data, _airbyte_meta from airbyte_internal.public_raw__stream_t"
    assert destination_db.rows(raw) == [
        ({**wrong, "string": [1, "x"]}, {"changes": [own], "sync_id": 1}),
    ]


def test_what_postgresql_cannot_store_is_repaired_everywhere(destination_db):
    data = (
        '{"s":"a\\u0000b\\ud800c","a":["\\u0000",{"k\\u0000":"\\udc00"}],"o":{"\\u0000":"\\\\u0000"},'
        '"u":"\\ud83d\\ude00","undeclared\\u0000":"\\ud800"}'
    )
    catalog = table({"s": "string", "a": "array", "o": "object", "u": "string"})
    sync(destination_db, catalog, record(data, "t") + record({"s": "next"}, "t"))
    repaired = {"s": "ab\ufffdc", "a": ["", {"k": "\ufffd"}], "o": {"": "\\u0000"}, "u": "😀"}
    assert rows(destination_db, "s, a, o, u") == [(*repaired.values(),), ("next", None, None, None)]
    found = destination_db.rows("select _airbyte_data from airbyte_internal.public_raw__stream_t")
    assert found == [({**repaired, "undeclared": "\ufffd"},), ({"s": "next"},)]


@pytest.mark.parametrize("kind", ["string", "object"])
def test_a_row_of_20_mb(destination_db, kind):
    text = "line\nébreak\\" * 1_700_000
    value: Any = text if kind == "string" else {"text": text}
    lines = record({"v": "small"}, "t") + record({"v": value}, "t") + record({"v": "small"}, "t")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    sync(destination_db, table({"v": kind}), lines)
    size = "octet_length(v)" if kind == "string" else "octet_length(v ->> 'text')"
    assert rows(destination_db, size)[1] == (len(text.encode()),)
    assert raw_count(destination_db, "public_raw__stream_t") == 3
    # Kilobytes; the budget is 200 MB and five times the largest row. Other children may have been larger.
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert largest == before or largest < 200_000 + 5 * len(json.dumps(text)) // 1000
