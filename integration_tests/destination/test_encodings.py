"""A database whose encoding lacks characters that records have: nothing ends, and raw keeps what it can, in ASCII."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from integration_tests.destination.writing import one, record, sync
from integration_tests.support.catalogs import stream
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Server

COLUMNS = {"id": "integer", "s": "string", "o": "object", "文": "integer", "é": "string", "文o": "object"}
SERIALIZATION = "DESTINATION_SERIALIZATION_ERROR"


@pytest.fixture
def latin1_db(destination_cluster: Server) -> Iterator[Database]:
    with Database(destination_cluster, encoding="LATIN1") as database:
        yield database


def change(field: str, done: str = "NULLED", reason: str = "DESTINATION_TYPECAST_ERROR") -> dict[str, str]:
    return {"field": field, "change": done, "reason": reason}


def as_text(field: str) -> dict[str, str]:
    return change(field, "TRUNCATED", SERIALIZATION)


def table() -> dict[str, Any]:
    return one(stream("t", COLUMNS))


def final(db: Database) -> list[tuple[Any, ...]]:
    return db.rows("select s, o, _, e, _airbyte_meta -> 'changes' from public.t order by id")


def raw(db: Database) -> list[tuple[Any, ...]]:
    query = "select _airbyte_data - 'id', _airbyte_meta -> 'changes' from airbyte_internal.public_raw__stream_t"
    return db.rows(f"{query} order by _airbyte_data -> 'id'")


def test_characters_that_the_database_lacks(latin1_db):
    data = [
        {"id": 0, "s": "é", "o": {"é": 1}, "é": "ü"},
        {"id": 1, "s": "文", "o": {"é": 1}, "é": "ü"},
        {"id": 2, "s": "é", "o": {"k": ["文\\", "é"]}, "é": "x"},
        {"id": 3, "s": "ü", "undeclared": "😀", "é": "é"},
    ]
    lines = b"".join(record(json.dumps(one, ensure_ascii=False), "t") for one in data)
    sync(latin1_db, table(), lines)
    assert final(latin1_db) == [
        ("é", {"é": 1}, None, "ü", []),
        (None, {"é": 1}, None, "ü", [change("s")]),
        ("é", None, None, "x", [change("o")]),
        ("ü", None, None, "é", []),
    ]
    assert raw(latin1_db) == [
        ({"s": "é", "o": {"é": 1}, "é": "ü"}, []),
        ({"s": '"\\u6587"', "o": {"é": 1}, "é": "ü"}, [as_text("s")]),
        ({"s": "é", "o": '{"k": ["\\u6587\\\\", "\\u00e9"]}', "é": "x"}, [as_text("o")]),
        ({"s": "ü", "undeclared": '"\\ud83d\\ude00"', "é": "é"}, [as_text("undeclared")]),
    ]


def test_escapes_and_names_that_the_database_lacks(latin1_db):
    own = {"field": "文", "change": "NULLED", "reason": "SOURCE_RETRIEVAL_ERROR"}
    lines = (
        record('{"id":0,"s":"\\u6587","o":{"k":1}}', "t")
        + record('{"id":1,"文":"no number","s":"x"}', "t")
        + record('{"id":2,"文":7,"s":"\\u0041"}', "t")
        + record('{"id":3,"文":1e999999,"s":"y"}', "t")
        + record('{"id":4,"s":"z"}', "t", meta={"changes": [own]})
        + record('{"id":5,"s":"o","文o":{"k":1e999999}}', "t")
    )
    sync(latin1_db, table(), lines)
    plain = "\\u6587"
    assert final(latin1_db) == [
        (None, {"k": 1}, None, None, [change("s")]),
        ("x", None, None, None, [change(plain)]),
        ("A", None, 7, None, []),
        ("y", None, None, None, [change(plain)]),
        ("z", None, None, None, [{**own, "field": plain}]),
        ("o", None, None, None, [change(f"{plain}o", reason="DESTINATION_FIELD_SIZE_LIMITATION")]),
    ]
    assert raw(latin1_db) == [
        ({"s": '"\\u6587"', "o": {"k": 1}}, [as_text("s")]),
        ({plain: "no number", "s": "x"}, [as_text(plain)]),
        ({plain: 7, "s": "A"}, [as_text(plain)]),
        ({plain: "1e999999", "s": "y"}, [as_text(plain)]),
        ({"s": "z"}, [{**own, "field": plain}]),
        ({"s": "o", f"{plain}o": '{"k":1e999999}'}, [as_text(f"{plain}o")]),
    ]


def test_values_that_are_refused_for_more_than_one_reason(latin1_db):
    deep = "[" * 100_000 + "]" * 100_000
    lines = (
        record('{"id":0,"o":{"文":1e999999}}', "t")
        + record(f'{{"id":1,"文":{deep}}}', "t")
        + record(f'{{"id":2,"z":["文",{deep}]}}', "t")
        + record('{"id":3,"文":{"文":1e999999}}', "t")
    )
    sync(latin1_db, table(), lines)
    assert [found[:4] for found in final(latin1_db)] == [(None,) * 4] * 4
    plain = "\\u6587"
    data = [data for data, _ in raw(latin1_db)]
    assert data == [
        {"o": f'{{"{plain}":1e999999}}'},
        {plain: deep},
        {"z": f'["{plain}",{deep}]'},
        {plain: f'{{"{plain}":1e999999}}'},
    ]


def test_every_row_has_one(latin1_db):
    """The server tells a wrong line, or none: it converts a whole buffer at a time."""
    lines = b"".join(record(f'{{"id":{number},"s":"{chr(0x4E00 + number)}"}}', "t") for number in range(500))
    good = b"".join(record(f'{{"id":{1000 + number},"s":"é"}}', "t") for number in range(2000))
    sync(latin1_db, table(), good + lines + good)
    assert latin1_db.rows("select id >= 1000, count(*), count(s) from public.t group by 1 order by 1") == [
        (False, 500, 0),
        (True, 4000, 4000),
    ]
    kept = "select count(distinct _airbyte_data ->> 's') from airbyte_internal.public_raw__stream_t"
    assert latin1_db.value(kept) == 501
