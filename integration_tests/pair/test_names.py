"""Odd names of schemas, tables and columns: discovered, whitelisted, synced, in snapshot and stream."""

from __future__ import annotations

import pytest
from psycopg2 import sql

from integration_tests.pair.piping import sync
from integration_tests.source.reading import config, discovered
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


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_same_everywhere(source_db, destination_db, name):
    here = {
        "s": sql.Identifier(name),
        "t": sql.Identifier(name, name),
        "c": sql.Identifier(name),
        "n": sql.Literal(name),
    }
    for statement in (
        "create schema {s}",
        "create table {t} ({c} text primary key, v text, big text)",
        "alter table {t} alter big set storage external",
        "create table {s}.unwanted (id int primary key)",
    ):
        source_db.execute(sql.SQL(statement).format(**here))
    source_db.execute(sql.SQL("insert into {t} values ({n}, 'old', repeat('x', 9000))").format(**here))
    # Slot names allow little; a publication may be named like anything.
    options = {"tables": f"{quoted(name)}.{quoted(name)}", "schemas": [], "publication": name}
    found = discovered(source_db, **options)
    assert set(found) == {name}
    (stream,) = found.values()
    assert (stream["namespace"], stream["source_defined_primary_key"]) == (name, [[name]])
    assert list(stream["json_schema"]["properties"])[:3] == [name, "v", "big"]
    catalog = configured(found.values(), "incremental")
    method = config(source_db, publication=name)["replication_method"]
    first = sync(source_db, destination_db, catalog, replication_method=method)
    assert first.ok, first.printed[-3:]
    # A value that is not touched is read again, by the odd key.
    source_db.execute(sql.SQL("update {t} set v = 'new'").format(**here))
    source_db.execute(sql.SQL("insert into {t} values ('other', 'new', '')").format(**here))
    second = sync(source_db, destination_db, catalog, first.states[-1], replication_method=method)
    assert second.ok, second.printed[-3:]
    (place,) = destination_db.rows(
        "select format('%I.%I', table_schema, table_name), format('%I', column_name) from information_schema.columns"
        " where ordinal_position = 1 and table_schema not in ('pg_catalog', 'information_schema', 'airbyte_internal')"
    )
    rows = destination_db.rows(f"select {place[1]}, v, length(big) from {place[0]} order by length(big)")
    assert rows == [("other", "new", 0), (name, "new", 9000)]
    assert connector.run(SOURCE, "check", config=config(source_db, **options)).connection_status == {
        "status": "SUCCEEDED"
    }
