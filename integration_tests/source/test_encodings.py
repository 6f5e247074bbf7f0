"""Databases in other encodings, and in none: every line is UTF-8, and what is not is said so."""

from __future__ import annotations

import json

import pytest

from integration_tests.pair.test_types import raw_rows
from integration_tests.source.reading import TRANSPORTS, catalog_of, failure, read
from integration_tests.support.databases import Database

LOST = {"change": "TRUNCATED", "reason": "SOURCE_SERIALIZATION_ERROR"}


@pytest.fixture
def database(source_cluster, request):
    with Database(source_cluster, encoding=request.param) as made:
        yield made


@pytest.mark.parametrize(
    ("database", "transport"),
    [("LATIN1", "stream"), ("EUC_JP", "bulk"), ("SQL_ASCII", "stream")],
    indirect=["database"],
)
def test_text_is_utf_8_whatever_the_database_s_encoding(database, transport):
    text, name = ("日本", "名") if database.value("show server_encoding") == "EUC_JP" else ("Zürich", "Größe")
    database.execute(f'create table "{name}" (id int primary key, "{name}" text, list text[])')
    database.execute(f'insert into "{name}" values (1, %s, array[%s])', text, text)
    catalog = catalog_of(database)
    first = read(database, catalog)
    database.execute(f'update "{name}" set id = id')
    second = read(database, catalog, first, transport=transport)
    for outcome in (first, second):
        (row,) = outcome.records(name)
        assert (row[name], row["list"]) == (text, [text])
    assert raw_rows(first) == raw_rows(second)


@pytest.mark.parametrize("database", ["SQL_ASCII"], indirect=True)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_bytes_that_are_no_utf_8_are_replaced_and_said_so(database, transport):
    database.execute(
        "create table t (id int primary key, v text, list text[], good text, big text, moment timestamptz)"
    )
    database.execute("alter table t alter big set storage external")
    database.execute(
        "insert into t values (1, E'a\\xe9b', array[E'\\xff', 'x'], 'é', repeat(E'\\xe9', 9000), '2024-01-01'),"
        " (2, 'plain', '{}', '', '', null)"
    )
    catalog = catalog_of(database)
    first = read(database, catalog)
    # The large value is not touched: it is read again, by key.
    database.execute("update t set good = good")
    second = read(database, catalog, first, transport=transport)
    whole = read(database, catalog_of(database, "full_refresh"))
    for outcome in (first, second, whole):
        assert outcome.exit_code == 0, outcome
        rows = {record["data"]["id"]: record for record in outcome.record_payloads("t")}
        assert rows[1]["data"]["v"] == "a�b"
        assert rows[1]["data"]["list"] == ["�", "x"]
        assert rows[1]["data"]["good"] == "é"
        assert rows[1]["data"]["big"] == "�" * 9000
        assert rows[1]["meta"]["changes"] == [{"field": field, **LOST} for field in ("v", "list", "big")]
        assert "meta" not in rows[2]
        for line in outcome.lines:
            json.loads(line.decode("utf-8"))


@pytest.mark.parametrize("database", ["SQL_ASCII"], indirect=True)
def test_a_key_that_is_no_utf_8_is_an_error(database):
    # Two such keys would become one.
    database.execute("create table t (id text primary key, big text)")
    catalog = catalog_of(database)
    first = read(database, catalog)
    database.execute("insert into t values (E'\\xe9', 'x'), (E'\\xe8', 'x')")
    for state, words in ((None, "snapshot"), (first, "stream")):
        error = failure(read(database, catalog, state))
        assert error["failure_type"] == "config_error", words
        assert "key column id" in error["message"]


@pytest.mark.parametrize("database", ["WIN1252"], indirect=True)
def test_a_byte_that_stands_for_nothing_is_an_error_that_says_where(database):
    database.execute("create table t (id int primary key, v text)")
    catalog = catalog_of(database)
    first = read(database, catalog)
    database.execute("insert into t values (1, E'a\\x81b')")
    for state, words in ((None, "public.t cannot be read"), (first, "cannot be converted")):
        error = failure(read(database, catalog, state))
        assert error["failure_type"] == "config_error"
        assert words in error["message"]
        assert "cannot be converted between UTF-8 and the database's encoding" in error["message"]


def test_a_single_byte_above_127_is_sent_as_utf_8(source_db):
    # "char" is one byte, which servers before 16 print as it is.
    source_db.execute('create type one as (c "char", t text)')
    source_db.execute('create table t (id int primary key, v "char", one one)')
    catalog = catalog_of(source_db)
    first = read(source_db, catalog)
    source_db.execute(
        "insert into t values (1, 'A'), (2, chr(200)::\"char\"), (3, '\\200'::\"char\");"
        " insert into t values (4, 'B', row(chr(200)::\"char\", 'x'))"
    )
    for state in (None, first):
        outcome = read(source_db, catalog, state)
        assert outcome.exit_code == 0, outcome
        assert {row["id"]: row["v"] for row in outcome.records("t")}[1] == "A"
        for line in outcome.lines:
            json.loads(line.decode("utf-8"))
