"""Indexes and readers that the configuration asks for: made where they are missing, whatever becomes of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from integration_tests.destination.writing import Json, one, record, records, state, status, sync, users, write
from integration_tests.support.catalogs import stream
from integration_tests.support.databases import Database

MODES = ["append", "append_dedup"]
NAMED = {"indexes": [{"tables": "public.users", "columns": ["name", "id"]}]}


@pytest.fixture
def reader(destination_db) -> Iterator[str]:
    """A role that may log in and nothing else; its password is its name."""
    role = f"reader_{destination_db.name}"
    destination_db.execute(f"create role {role} login password '{role}'")
    yield role
    destination_db.execute(f"drop owned by {role}")
    destination_db.execute(f"drop role {role}")


def granted(*roles: str, tables: str = "public.*") -> Json:
    return {"grants": [{"tables": tables, "roles": list(roles)}]}


def indexed(db: Database, table: str = "public.users") -> list[str]:
    """The columns of the indexes that were asked for."""
    query = (
        "select pg_get_indexdef(indexrelid) from pg_index where indrelid = %s::regclass"
        " and indexrelid::regclass::text ~ '_airbyte_pg_index_' and indisvalid order by 1"
    )
    return [definition.partition("(")[2].rstrip(")") for (definition,) in db.rows(query, table)]


def read_as(db: Database, role: str) -> list[tuple[Any, ...]]:
    connection = db.server.connect(db.name, user=role, password=role)
    try:
        with connection.cursor() as cursor:
            cursor.execute("select id, name from public.users order by id")
            return cursor.fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("mode", MODES)
def test_they_are_made_once_also_on_tables_that_are_there(destination_db, reader, mode):
    sync(destination_db, one(destination=mode), record({"id": 1, "name": "a"}))
    assert indexed(destination_db) == []
    for _ in range(2):
        sync(destination_db, one(destination=mode), b"", **NAMED, **granted(reader))
        assert indexed(destination_db) == ["name, id"]
        assert read_as(destination_db, reader) == [(1, "a")]
    # No longer asked for: nothing is taken away.
    sync(destination_db, one(destination=mode), record({"id": 2, "name": "b"}))
    assert indexed(destination_db) == ["name, id"]
    assert read_as(destination_db, reader) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["renamed in", "exchanged"])
def test_a_generation_that_takes_the_place_has_them(destination_db, reader, mode, way):
    options = {**NAMED, **granted(reader)}
    sync(destination_db, one(destination=mode, generation=1), record({"id": 1, "name": "a"}), **options)
    if way == "exchanged":
        destination_db.execute("create view public.ids as select id from public.users")
    before = destination_db.value("select 'public.users'::regclass::oid")
    for generation in (2, 3):
        refresh = one(destination=mode, generation=generation, minimum=generation)
        sync(destination_db, refresh, record({"id": generation, "name": "b"}), **options)
        assert indexed(destination_db) == ["name, id"]
        assert read_as(destination_db, reader) == [(generation, "b")]
        after = destination_db.value("select 'public.users'::regclass::oid")
        assert (after != before) == (way == "renamed in")
        before = after


@pytest.mark.parametrize("mode", MODES)
def test_a_column_that_is_made_anew_keeps_its_index(destination_db, mode):
    def catalog(kind: str, **more: Any) -> Json:
        return one(stream("users", {"id": "integer", "name": kind}, key=["id"]), mode, **more)

    sync(destination_db, catalog("string", generation=1), record({"id": 1, "name": "7"}), **NAMED)
    sync(destination_db, catalog("integer", generation=1), record({"id": 2, "name": 8}), **NAMED)
    assert users(destination_db) == [(1, 7), (2, 8)]
    assert indexed(destination_db) == ["name, id"]
    destination_db.execute("create view public.ids as select id from public.users")
    sync(destination_db, catalog("string", generation=2, minimum=2), record({"id": 3, "name": "x"}), **NAMED)
    assert users(destination_db) == [(3, "x")]
    assert indexed(destination_db) == ["name, id"]


def test_an_index_on_a_column_that_is_not_there_is_left_out(destination_db):
    options = {"indexes": [{"tables": "*.use*", "columns": ["gone"]}, {"tables": "*.users", "columns": ["name"]}]}
    outcome = sync(destination_db, one(), record({"id": 1, "name": "a"}), **options)
    assert indexed(destination_db) == ["name"]
    warned = [log["message"] for log in outcome.logs if log["level"] == "WARN"]
    assert warned == ["no index, as public.users has no column gone"]


def test_only_the_tables_that_are_meant(destination_db, reader):
    options = {"indexes": [{"tables": "public.u", "columns": ["id"]}, {"tables": "publicxusers", "columns": ["id"]}]}
    sync(destination_db, one(), record({"id": 1}), **options, **granted(reader, tables="other.*"))
    assert indexed(destination_db) == []
    assert not destination_db.value(f"select has_table_privilege('{reader}', 'public.users', 'select')")


def test_a_reader_may_enter_the_schema(destination_db, reader):
    of = {**one(), "streams": [{**one()["streams"][0]}]}
    of["streams"][0]["stream"] = {**of["streams"][0]["stream"], "namespace": "fresh"}
    sync(destination_db, of, record({"id": 1}, namespace="fresh"), **granted(reader, tables="fresh.users"))
    assert destination_db.value(f"select has_schema_privilege('{reader}', 'fresh', 'usage')")
    assert destination_db.value(f"select has_table_privilege('{reader}', 'fresh.users', 'select')")
    assert not destination_db.value(f"select has_schema_privilege('{reader}', 'airbyte_internal', 'usage')")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"grants": [{"roles": ["nobody_of_that_name"]}]}, "There is no role nobody_of_that_name."),
        ({"indexes": [{"tables": "public.users", "columns": []}]}, "indexes.0.columns"),
        ({"indexes": [{"columns": ["id"]}]}, "indexes.0.tables"),
        ({"lock_timeout_seconds": -1}, "lock_timeout_seconds"),
        ({"statement_timeout_seconds": 3_000_000}, "statement_timeout_seconds"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(destination_db, options, text):
    outcome = write(destination_db, one(), record({"id": 1}) + state(1) + status(), **options)
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert text in outcome.error["message"]
    assert outcome.states == []


@pytest.mark.parametrize("when", ["they were there", "they come"])
def test_values_too_wide_for_an_index_are_a_matter_of_configuration(destination_db, when):
    wide = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(4000))
    rows = records([{"id": 1, "name": wide}])
    sync(destination_db, one(), rows if when == "they were there" else b"")
    outcome = write(destination_db, one(), rows + state(1) + status(), **NAMED)
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "indexes" in outcome.error["message"]
    assert outcome.states == []


def test_a_grant_that_is_not_ours_to_give_is_shown(destination_db, reader):
    owner = f"owner_{destination_db.name}"
    destination_db.execute(f"create role {owner} login password '{owner}'")
    try:
        destination_db.execute(f"grant create on database {destination_db.name} to {owner}")
        destination_db.execute(f"create schema theirs; grant create, usage on schema theirs to {owner}")
        of = one(stream("users", {"id": "integer"}, key=["id"]) | {"namespace": "theirs"})
        outcome = write(
            destination_db,
            of,
            record({"id": 1}, namespace="theirs") + status(namespace="theirs"),
            username=owner,
            password=owner,
            **granted(reader, tables="theirs.*"),
        )
        assert outcome.error is not None
        assert outcome.error["failure_type"] == "config_error"
        assert f'grant usage on schema "theirs" to "{reader}";' in outcome.error["message"]
    finally:
        destination_db.execute(f"drop owned by {owner}")
        destination_db.execute(f"drop role {owner}")
