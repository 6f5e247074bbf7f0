"""What only the server refuses: NULL with its reason in the final table, a text in raw, and all the rest is loaded."""

from __future__ import annotations

import json
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


def test_200_000_records_with_one_bad_value_each(destination_db):
    """Of three kinds: the client refuses one, the server two, of which it is asked about few."""
    count = 200_001
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
