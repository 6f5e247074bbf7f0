"""Values that a change did not touch, looked up by keys of every type; what cannot be looked up is said."""

from __future__ import annotations

import contextlib

import psycopg2.errors
import pytest

from integration_tests.source.reading import catalog_of, failure, read

SETUP = """
create schema types;
create type types.mood as enum ('ok', 'so ''so''');
create type types.pair as (a text, b int);
create domain types.code as text check (value <> '');
create domain types.mood_code as types.mood;
"""
# The type of a key, and two values of it; those of extensions as far as the server has them.
KEYS = {
    "int": ("1", "2"),
    "numeric": ("1.0", "2.50"),
    "double precision": ("0.1", "-0"),
    "char(4)": ("a", "b'c"),
    "varchar(3)": ("a\\b", ""),
    "bytea": ("\\x00ff", "\\x"),
    "timestamptz": ("2024-01-01 00:00:00.5+02", "infinity"),
    "bit(3)": ("101", "000"),
    "text[]": ("{a,NULL}", "{}"),
    "int4range": ("[1,5)", "empty"),
    "regclass": ("pg_class", "types.pair"),
    "types.mood": ("ok", "so 'so'"),
    "types.pair": ("(a,1)", "(,)"),
    "types.code": ("a", "b"),
    "types.mood_code": ("ok", "so 'so'"),
    "hstore": ("a=>1", ""),
    "citext": ("Ab", "cd"),
    "ltree": ("a.b", "c"),
    "vector": ("[1,2]", "[3,4]"),
}


@pytest.fixture
def database(source_db):
    source_db.execute(SETUP)
    for extension in ("hstore", "citext", "ltree", "vector"):
        with contextlib.suppress(psycopg2.errors.UndefinedFile, psycopg2.errors.FeatureNotSupported):
            source_db.execute(f"create extension {extension}")
    return source_db


def test_keys_of_every_type(database):
    tables = []
    for at, (kind, values) in enumerate(KEYS.items()):
        for name, columns, key in (
            (f"one_{at}", f"k {kind}", "k"),
            (f"two_{at}", f"k {kind}, n int default 7", "k, n"),
        ):
            try:
                database.execute(f"create table {name} ({columns}, v int, big text, primary key ({key}))")
            except psycopg2.errors.UndefinedObject:
                continue  # an extension that this server has not
            tables.append(name)
            database.execute(f"alter table {name} alter big set storage external")
            for value in values:
                database.execute(
                    f"insert into {name} (k, v, big) values (%s, 0, repeat(%s || 'x', 3000))", value, value
                )
    assert len(tables) >= 2 * 15
    catalog = catalog_of(database)
    first = read(database, catalog)
    for name in tables:
        database.execute(f"update {name} set v = 1")
    second = read(database, catalog, first)
    assert second.exit_code == 0, second
    for name in tables:
        before = {str(row["k"]): row["big"] for row in first.records(name)}
        after = {str(row["k"]): row["big"] for row in second.records(name)}
        assert len(before) == 2
        assert after == before, name
        assert all("meta" not in record for record in second.record_payloads(name))


def test_a_key_that_is_no_value_of_its_type_any_more(database):
    database.execute("create table t (k types.mood primary key, v int, big text)")
    database.execute("alter table t alter big set storage external")
    database.execute("insert into t values ('ok', 0, repeat('x', 9000))")
    catalog = catalog_of(database)
    first = read(database, catalog)
    database.execute("update t set v = 1; alter type types.mood rename value 'ok' to 'well'")
    error = failure(read(database, catalog, first))
    assert error["failure_type"] == "config_error"
    assert "public.t cannot be looked up" in error["message"]
    assert "Refresh the stream" in error["message"]
