"""What only the server refuses: NULL with its reason in the final table, a text in raw, and all the rest is loaded."""

from __future__ import annotations

import json
import os
import random
import resource
import string
from typing import Any

import pytest

from integration_tests.destination.writing import one, raw_count, record, sync
from integration_tests.support.catalogs import stream
from integration_tests.support.databases import Database

UNFIT = "DESTINATION_TYPECAST_ERROR"
FIELD_SIZE = "DESTINATION_FIELD_SIZE_LIMITATION"
RECORD_SIZE = "DESTINATION_RECORD_SIZE_LIMITATION"
SERIALIZATION = "DESTINATION_SERIALIZATION_ERROR"

COLUMNS = {"id": "integer", "o": "object", "a": "array", "u": {}, "n": "number", "i": "integer", "s": "string"}
HUGE = "1e999999"


def change(field: str, reason: str, done: str = "NULLED") -> dict[str, str]:
    return {"field": field, "change": done, "reason": reason}


def table(columns: dict[str, Any]) -> dict[str, Any]:
    return one(stream("t", columns))


def final(db: Database, columns: str) -> list[tuple[Any, ...]]:
    return db.rows(f"select {columns}, _airbyte_meta -> 'changes' from public.t order by id")


def raw(db: Database) -> list[tuple[Any, ...]]:
    """Data without the id, its numbers as text, and changes; in the order of the ids."""
    rows = db.rows(
        "select (_airbyte_data - 'id')::text, _airbyte_meta -> 'changes'"
        " from airbyte_internal.public_raw__stream_t order by _airbyte_data -> 'id'"
    )
    return [(json.loads(data, parse_int=str, parse_float=str), changes) for data, changes in rows]


def numbered(*texts: str) -> bytes:
    return b"".join(record(f'{{"id":{number},{text[1:]}', "t") for number, text in enumerate(texts))


# JSON text of a field, whether raw keeps it as a text, and whether the final column becomes NULL, with which reason.
NUMBERS = [
    ("o", '{"k":1e999999}', True, FIELD_SIZE),
    ("a", f'[1,"\\"{HUGE}",{HUGE}]', True, FIELD_SIZE),
    ("a", f'["{HUGE}"]', False, None),
    ("u", "-1e-20000", True, FIELD_SIZE),
    ("u", "1" * 131_073, True, FIELD_SIZE),
    ("u", "1" * 131_072, False, None),
    ("n", HUGE, True, FIELD_SIZE),
    ("n", "0." + "1" * 16_384, True, FIELD_SIZE),
    ("n", f'"{HUGE}"', False, FIELD_SIZE),
    ("i", HUGE, True, UNFIT),
    ("s", HUGE, True, None),
    ("not declared", f'{{"é\\t\\\\":{HUGE}}}', True, None),
    ("o", "{}", False, None),
]


@pytest.mark.parametrize("order", [1, -1])
def test_numbers_that_jsonb_cannot_hold(destination_db, order):
    """Among others, first, last, and next to each other."""
    cases = NUMBERS[::order]
    sync(destination_db, table(COLUMNS), numbered(*(f'{{"{field}":{text}}}' for field, text, *_ in cases)))
    found = final(destination_db, "num_nulls(o, a, u, n, i, s)")
    for (field, text, is_text, reason), (nulls, changes), (data, raw_changes) in zip(
        cases, found, raw(destination_db), strict=True
    ):
        assert nulls == (6 if reason or field not in COLUMNS else 5), text[:50]
        assert changes == ([change(field, reason)] if reason else []), text[:50]
        assert raw_changes == ([change(field, SERIALIZATION, "TRUNCATED")] if is_text else []), text[:50]
        if is_text:
            assert data == {field: text}
    assert destination_db.value("select s from public.t where s is not null") == HUGE


def test_two_bad_columns_in_one_row_and_the_order_of_changes(destination_db):
    own = {"field": "o", "change": "TRUNCATED", "reason": "SOURCE_FIELD_SIZE_LIMITATION", "é": "\\"}
    data = f'{{"id":1,"u":{{"x":{HUGE}}},"n":"foo","i":"bar","s":"\\\\t\\t","a":[{HUGE}],"z":{HUGE}}}'
    sync(destination_db, table(COLUMNS), record(data, "t", meta={"changes": [own]}) + record('{"id":2}', "t"))
    ours = [change("a", FIELD_SIZE), change("u", FIELD_SIZE), change("n", UNFIT), change("i", UNFIT)]
    assert final(destination_db, "a, u, n, i, s") == [
        (None, None, None, None, "\\t\t", [*ours, own]),
        (None, None, None, None, None, []),
    ]
    ((data, changes), _) = raw(destination_db)
    assert data == {
        "u": f'{{"x":{HUGE}}}',
        "n": "foo",
        "i": "bar",
        "s": "\\t\t",
        "a": f"[{HUGE}]",
        "z": HUGE,
    }
    assert changes == [*(change(field, SERIALIZATION, "TRUNCATED") for field in "uaz"), own]


def test_changes_of_the_source_that_jsonb_cannot_hold(destination_db):
    """What the protocol knows of them is kept."""
    own = change("s", "SOURCE_RETRIEVAL_ERROR")
    lines = [
        record('{"id":1,"i":"bar"}', "t", meta={"changes": [own, {**own, "size": 5}]}),
        record('{"id":2,"i":"bar"}', "t", meta={"changes": [own, {**own, "size": "HUGE"}]}),
        record(f'{{"id":3,"z":{HUGE}}}', "t", meta={"changes": [own, {**own, "size": "HUGE"}, "no object"]}),
    ]
    sync(destination_db, table(COLUMNS), b"".join(lines).replace(b'"HUGE"', HUGE.encode()))
    assert final(destination_db, "i, s") == [
        (None, None, [change("i", UNFIT), own, {**own, "size": 5}]),
        (None, None, [change("i", UNFIT), own, own]),
        (None, None, [own, own, change("", "", "")]),
    ]
    assert raw(destination_db) == [
        ({"i": "bar"}, [own, {**own, "size": 5}]),
        ({"i": "bar"}, [own, own]),
        ({"z": HUGE}, [change("z", SERIALIZATION, "TRUNCATED"), own, own, change("", "", "")]),
    ]


def test_no_text_of_a_value_misleads_the_search(destination_db):
    """What the server shows of a value in its context looks like another place."""
    texts = ["x\nCOPY t, line 1, column s: ", 'COPY t, line 2, column id: "', "\\N", "\\.", "\t", "line 3, column x:"]
    columns = {**COLUMNS, "line 3, column x: ": "string", "s: ": "string"}
    rows = [
        json.dumps({"s": text, "s: ": text, "line 3, column x: ": text, "o": {text: "HUGE"}, "a": [text]})
        for text in texts
    ]
    rows = [row.replace('"HUGE"', HUGE if number % 2 else "1") for number, row in enumerate(rows)]
    sync(destination_db, table(columns), numbered(*rows))
    found = final(destination_db, "s, s__, line_3__column_x__, a, o is null")
    assert found == [
        (text, text, text, [text], bool(number % 2), [change("o", FIELD_SIZE)] * (number % 2))
        for number, text in enumerate(texts)
    ]
    assert [data["s: "] for data, _ in raw(destination_db)] == texts


def test_any_depth(destination_db):
    texts = {depth: "[" * depth + "]" * depth for depth in (900, 5_000, 100_000)}
    lines = numbered(*(f'{{"a":{text},"s":"x","z":{text}}}' for text in texts.values()), '{"s":"y"}')
    sync(destination_db, table({"id": "integer", "a": "array", "s": "string"}), lines)
    assert final(destination_db, "length(a::text), s") == [
        (1_800, "x", []),
        (10_000, "x", []),
        (None, "x", [change("a", FIELD_SIZE)]),
        (None, "y", []),
    ]
    of_raw = destination_db.rows(
        "select jsonb_typeof(_airbyte_data -> 'a'), length(_airbyte_data ->> 'z'), _airbyte_meta -> 'changes'"
        " from airbyte_internal.public_raw__stream_t order by _airbyte_data -> 'id'"
    )
    as_text = [change(field, RECORD_SIZE, "TRUNCATED") for field in "az"]
    assert of_raw[:2] == [("array", 1_800, []), ("array", 10_000, [])]
    assert of_raw[2:] == [("string", 200_000, as_text), (None, None, [])]


# Column type, its last values that fit, and the first that do not.
BOUNDS: dict[str, tuple[list[str], list[str]]] = {
    "integer": (
        ["9223372036854775807", "-9223372036854775808"],
        ["9223372036854775808", "-9223372036854775809", "9" * 10_000],
    ),
    "number": (["9" * 131_072, "0." + "9" * 16_383, "NaN", "-1e-16383"], []),
    "date": (["4714-11-24 BC", "5874897-12-31", "infinity"], ["4714-11-23 BC", "5874898-01-01", "2023-02-29"]),
    "timestamp": (
        ["4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999", "-infinity"],
        ["4714-11-23 23:59:59 BC", "294277-01-01 00:00:00", "294276-12-31 23:59:59.9999999"],
    ),
    "timestamptz": (
        ["4714-11-23 22:00:00-02 BC", "294277-01-01 01:00:00+02", "infinity"],
        ["4714-11-24 00:00:00+01 BC", "294276-12-31 23:59:59-01"],
    ),
    "time": (["24:00:00", "23:59:60"], ["24:00:01", "23:60:00"]),
    "timetz": (["12:00:00+15:59", "24:00:00-15:59"], ["12:00:00+16:00"]),
}


@pytest.mark.parametrize("kind", BOUNDS)
def test_bounds_of_a_type(destination_db, kind):
    fitting, others = BOUNDS[kind]
    lines = numbered(*(json.dumps({"v": text}) for text in [*fitting, *others]))
    sync(destination_db, table({"id": "integer", "v": kind}), lines)
    sql_type = destination_db.value("select format_type(atttypid, null) from pg_attribute where attname = 'v'")
    # As the server itself reads them, in the session that we set up.
    destination_db.execute("set timezone = 'UTC'; set datestyle = 'ISO, YMD'")
    wanted = [destination_db.value(f"select %s::{sql_type}::text", text) for text in fitting]
    assert final(destination_db, "v::text") == [
        *((text, []) for text in wanted),
        *((None, [change("v", UNFIT)]) for _ in others),
    ]
    assert [data for data, _ in raw(destination_db)] == [{"v": text} for text in [*fitting, *others]]


def test_digits_are_exact_everywhere(destination_db):
    integer, decimal = "7" * 10_000, "0." + "1234567890" * 1_000
    text = f'{{"n":{integer},"m":{decimal},"q":"{decimal}","o":{{"a":[{integer}]}},"a":[{decimal}],"z":{decimal}}}'
    columns = {"id": "integer", "n": "number", "m": "number", "q": "number", "o": "object", "a": "array"}
    # Once with the fast way through the encoder, and once value by value and through the search for what is refused.
    sync(destination_db, table(columns), numbered(text, text[:-1] + ',"y":1e999999,"x":"\\u0000"}'))
    found = final(destination_db, "n::text, m::text, q::text, o #>> '{a,0}', a ->> 0")
    assert found == [(integer, decimal, decimal, integer, decimal, [])] * 2
    of_raw = [{name: data[name] for name in ("n", "m", "o", "z")} for data, _ in raw(destination_db)]
    assert of_raw == [{"n": integer, "m": decimal, "o": {"a": [integer]}, "z": decimal}] * 2


def test_nul_and_lone_surrogates_everywhere(destination_db):
    columns = {
        "id": "integer",
        "s": "string",
        "o": "object",
        "a": "array",
        "u": {},
        "k\0ey": "integer",
        "l\ud800": "integer",
    }
    bad = "a\\u0000\\ud800"
    text = (
        f'{{"s":"{bad}","o":{{"{bad}":{{"{bad}":"{bad}"}}}},"a":[["{bad}"],"{bad}"],"u":"{bad}",'
        f'"k\\u0000ey":"no number","l\\ud800":7,"{bad}":{{"{bad}":["{bad}"]}}}}'
    )
    good = "a\ufffd"
    sync(destination_db, table(columns), numbered('{"s":"before"}', text, '{"s":"behind"}'))
    empty = (None, None, None, None, None)
    assert final(destination_db, "s, o, a, u, k_ey, l_") == [
        ("before", *empty, []),
        (good, {good: {good: good}}, [[good], good], good, None, 7, [change("key", UNFIT)]),
        ("behind", *empty, []),
    ]
    assert raw(destination_db)[1] == (
        {
            "s": good,
            "o": {good: {good: good}},
            "a": [[good], good],
            "u": good,
            "key": "no number",
            "l\ufffd": "7",
            good: {good: [good]},
        },
        [],
    )


def test_a_row_that_is_too_wide_loses_its_largest_cells(destination_db):
    """A value moved out of its row leaves 18 bytes there: 1,000 of them are more than a page has."""
    columns = {f"c{number}": "string" for number in range(1_000)}
    scrambled = random.Random(1)
    wide = {column: "".join(scrambled.choices(string.ascii_letters, k=2_000)) for column in columns}
    wide["c7"] = "x" * 3_000
    lines = numbered('{"c1":"a"}', json.dumps(wide), '{"c1":"b"}')
    sync(destination_db, table({"id": "integer", **columns}), lines)
    (_, none), (kept, changes), (_, none_either) = final(
        destination_db, f"cardinality(array_remove(array[{','.join(columns)}], null))"
    )
    assert none == none_either == []
    assert 400 < kept < 460
    assert changes.pop(7) == change("c7", FIELD_SIZE)
    assert len(changes) == 999 - kept
    assert [one["field"] for one in changes] == sorted(
        (one["field"] for one in changes), key=lambda name: int(name[1:])
    )
    assert raw_count(destination_db, "public_raw__stream_t") == 3
    ((data, raw_changes),) = raw(destination_db)[1:2]
    assert (data, raw_changes) == (wide, [])


def test_a_string_that_jsonb_cannot_hold(destination_db):
    text = "é" * 134_300_000
    lines = b"".join(
        [
            record('{"id":1}', "t"),
            b'{"type":"RECORD","record":{"stream":"t","namespace":"public","emitted_at":1,"data":{"id":2,"s":"',
            text.encode(),
            b'","o":{"a":1}}}}\n',
            record('{"id":3}', "t"),
        ]
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    sync(destination_db, table({"id": "integer", "s": "string", "o": "object"}), lines)
    # Kilobytes; the budget is 200 MB and five times the largest row. Other children may have been larger.
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert largest == before or largest < 200_000 + 5 * len(lines) // 1000
    assert final(destination_db, "length(s), o") == [(None, None, []), (len(text), {"a": 1}, []), (None, None, [])]
    assert raw(destination_db) == [
        ({}, []),
        ({"s": None, "o": {"a": "1"}}, [change("s", RECORD_SIZE)]),
        ({}, []),
    ]


def test_many_records_with_one_bad_value_each(destination_db):
    """Of three kinds: the client refuses one, the server two, of which it is asked about few. Nightly 200,001."""
    count = 200_001 if "WORKLOAD_SEEDS" in os.environ else 60_000
    rows = ('{"id":%d,"i":"bar","s":"a"}', '{"id":%d,"o":{"a":[1e999999]},"s":"b"}', '{"id":%d,"z":1e999999,"s":"c"}')
    lines = b"".join(record(rows[number % 3] % number, "t") for number in range(count))
    sync(destination_db, table(COLUMNS), lines)
    found = destination_db.rows(
        "select s, count(*), count(distinct id), num_nulls(i, o), _airbyte_meta -> 'changes' from public.t"
        " group by s, num_nulls(i, o), _airbyte_meta -> 'changes' order by s"
    )
    assert found == [
        ("a", count // 3, count // 3, 2, [change("i", UNFIT)]),
        ("b", count // 3, count // 3, 2, [change("o", FIELD_SIZE)]),
        ("c", count // 3, count // 3, 2, []),
    ]
    of_raw = destination_db.rows(
        "select _airbyte_data - 'id', count(*), count(distinct _airbyte_data -> 'id'), _airbyte_meta -> 'changes'"
        " from airbyte_internal.public_raw__stream_t group by 1, 4 order by min(_airbyte_data ->> 's')"
    )
    assert of_raw == [
        ({"i": "bar", "s": "a"}, count // 3, count // 3, []),
        ({"o": '{"a":[1e999999]}', "s": "b"}, count // 3, count // 3, [change("o", SERIALIZATION, "TRUNCATED")]),
        ({"z": "1e999999", "s": "c"}, count // 3, count // 3, [change("z", SERIALIZATION, "TRUNCATED")]),
    ]
