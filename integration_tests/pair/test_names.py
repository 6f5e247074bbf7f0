"""Odd names of schemas, tables and columns: discovered, whitelisted, synced, in snapshot and stream."""

from __future__ import annotations

import pytest
from psycopg2 import sql

from integration_tests.pair.piping import sync
from integration_tests.source.reading import TRANSPORTS, catalog_of, config, discovered, read
from integration_tests.support import connector
from integration_tests.support.catalogs import configured
from integration_tests.support.connector import SOURCE

NAMES = [
    "with.dot",
    'with "quotes"',
    "UPPER Case",
    "with space ",
    "emoji 🐘",
    "comma, and 'apostrophe'",
    "back\\slash",
    "per%cent %s {brace}",
    "line\nbreak\tand tab",
    "*",
    "select",
    "größe" + "x" * 56,  # 63 bytes
    "é" * 31,
    "$1",
]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def test_odd_names_are_discovered_whitelisted_and_synced(source_db, destination_db):
    for name in NAMES:
        for statement in (
            "create schema {s}",
            "create table {t} ({s} text primary key, v text, big text)",
            "alter table {t} alter big set storage external",
            "create table {s}.unwanted (id int primary key)",
            "insert into {t} values ({n}, 'old', repeat('x', 9000))",
        ):
            source_db.execute(composed(statement, name))
    whitelist = ", ".join(f"{quoted(name)}.{quoted(name)}" for name in NAMES)
    options = {"tables": whitelist, "schemas": []}
    found = discovered(source_db, **options)
    assert set(found) == set(NAMES)
    for name, stream in found.items():
        assert (stream["namespace"], stream["source_defined_primary_key"]) == (name, [[name]])
        assert list(stream["json_schema"]["properties"])[:3] == [name, "v", "big"]
    catalog = configured(found.values(), "incremental")
    first = sync(source_db, destination_db, catalog)
    assert first.ok, first.printed[-3:]
    for name in NAMES:
        # A value that is not touched is read again, by the odd key.
        source_db.execute(composed("update {t} set v = 'new'", name))
        source_db.execute(composed("insert into {t} values ('other', 'new', '')", name))
    second = sync(source_db, destination_db, catalog, first.states[-1])
    assert second.ok, second.printed[-3:]
    places = destination_db.rows(
        "select l.name, format('%I.%I', table_schema, table_name), format('%I', column_name)"
        " from airbyte_internal._airbyte_pg_ledger l"
        " join information_schema.columns c on (table_schema, table_name) = (final_schema, final_table)"
        " where ordinal_position = 1"
    )
    assert len(places) == len(NAMES)
    for name, table, key in places:
        rows = destination_db.rows(f"select {key}, v, length(big) from {table} order by length(big)")
        assert rows == [("other", "new", 0), (name, "new", 9000)]
    status = connector.run(SOURCE, "check", config=config(source_db, **options)).connection_status
    assert status == {"status": "SUCCEEDED"}


@pytest.mark.parametrize("name", ["a, b", "Q\"uote's", "é" * 31])
def test_a_publication_may_be_named_like_anything(source_db, name):
    source_db.execute("create table t (id int primary key)")
    catalog = catalog_of(source_db, publication=name)
    first = read(source_db, catalog, publication=name)
    source_db.execute("insert into t values (1)")
    for transport in TRANSPORTS:
        second = read(source_db, catalog, first, publication=name, transport=transport)
        assert [row["id"] for row in second.records("t")] == [1]


def composed(statement: str, name: str) -> sql.Composed:
    """``statement`` with the name of a schema, a table in it, and a literal."""
    return sql.SQL(statement).format(s=sql.Identifier(name), t=sql.Identifier(name, name), n=sql.Literal(name))
