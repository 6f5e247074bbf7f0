"""A stream that gains and loses columns between syncs: its table follows, and what is the user's own stays."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.destination.writing import one, record, records, state, status, sync, write
from integration_tests.support.catalogs import stream
from integration_tests.support.databases import Database

MODES = ["append", "append_dedup"]
FIRST = {"id": "integer", "name": "string", "old": "string"}
SECOND = {"id": "integer", "name": "string", "new": "integer"}


def catalog(columns: dict[str, str], mode: str, **more: Any) -> Any:
    return one(stream("users", columns, key=["id"]), mode, **more)


def columns_of(db: Database) -> list[str]:
    query = (
        "select column_name from information_schema.columns where table_schema = 'public' and table_name = 'users'"
        " and column_name !~ '^_airbyte' order by 1"
    )
    return [name for (name,) in db.rows(query)]


@pytest.mark.parametrize("mode", MODES)
def test_columns_come_and_go(destination_db, mode):
    sync(destination_db, catalog(FIRST, mode), record({"id": 1, "name": "a", "old": "x"}))
    destination_db.execute(
        "alter table public.users add column mine text, add column twice bigint generated always as (id * 2) stored;"
        "update public.users set mine = 'kept'; create view public.names as select name from public.users;"
        "create index own_index on public.users (name); comment on table public.users is 'mine'"
    )
    before = destination_db.value("select 'public.users'::regclass::oid")
    for number in (2, 3):
        sync(destination_db, catalog(SECOND, mode), record({"id": number, "name": "b", "new": 7}))
    assert columns_of(destination_db) == ["id", "mine", "name", "new", "twice"]
    assert destination_db.rows("select id, name, new, mine, twice from public.users order by 1") == [
        (1, "a", None, "kept", 2),
        (2, "b", 7, None, 4),
        (3, "b", 7, None, 6),
    ]
    assert destination_db.value("select 'public.users'::regclass::oid") == before
    assert destination_db.value("select to_regclass('public.own_index') is not null")
    # A name that comes back is a column like any new one: filled from what came for it.
    sync(destination_db, catalog(FIRST, mode), record({"id": 4, "name": "c", "old": "y"}))
    assert columns_of(destination_db) == ["id", "mine", "name", "old", "twice"]
    assert destination_db.rows("select id, old from public.users where old is not null order by 1") == [
        (1, "x"),
        (4, "y"),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_what_depends_on_a_column_that_goes_is_named(destination_db, mode):
    sync(destination_db, catalog(FIRST, mode), record({"id": 1, "name": "a", "old": "x"}))
    destination_db.execute("create view public.olds as select old from public.users")
    lines = record({"id": 2, "name": "b", "new": 7}) + state(1) + status()
    outcome = write(destination_db, catalog(SECOND, mode), lines)
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "public.olds (old)" in outcome.error["message"]
    assert outcome.states == []
    assert columns_of(destination_db) == ["id", "name", "old"]
    assert write(destination_db, catalog(SECOND, mode), lines, drop_cascade=True).exit_code == 0
    assert columns_of(destination_db) == ["id", "name", "new"]


@pytest.mark.parametrize("mode", MODES)
def test_without_a_history_a_column_of_another_type_takes_a_refresh(destination_db, mode):
    none: dict[str, Any] = {"raw_retention": "none"}
    sync(destination_db, catalog(FIRST, mode), record({"id": 1, "name": "a", "old": "x"}), **none)
    changed = {**FIRST, "old": "integer"}
    outcome = write(destination_db, catalog(changed, mode), record({"id": 2, "old": 7}) + state(1) + status(), **none)
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "old (character varying instead of bigint)" in outcome.error["message"]
    assert destination_db.rows("select id, old from public.users") == [(1, "x")]
    sync(destination_db, catalog(changed, mode, generation=2, minimum=2), record({"id": 2, "old": 7}), **none)
    assert destination_db.rows("select id, old from public.users") == [(2, 7)]


@pytest.mark.parametrize("mode", MODES)
def test_columns_that_change_while_a_generation_is_built(destination_db, mode):
    def refresh(columns: dict[str, str], **more: Any) -> Any:
        return catalog(columns, mode, generation=2, **more)

    sync(destination_db, catalog(FIRST, mode, generation=1), records([{"id": 1, "name": "a", "old": "x"}]))
    for number, columns in ((2, FIRST), (3, SECOND)):
        row = record({"id": number, "name": "b", "old": "y", "new": 7})
        assert write(destination_db, refresh(columns, minimum=2), row + state(1)).exit_code == 1
        assert destination_db.rows("select id, old from public.users") == [(1, "x")]
    # Cancelled: what was acknowledged comes to what was there.
    sync(destination_db, refresh(SECOND), b"")
    assert columns_of(destination_db) == ["id", "name", "new"]
    assert destination_db.rows("select id, new from public.users order by 1") == [(1, None), (2, None), (3, 7)]
    sync(destination_db, catalog(FIRST, mode, generation=3, minimum=3), record({"id": 4, "old": "z"}))
    assert destination_db.rows("select id, old from public.users") == [(4, "z")]


@pytest.mark.parametrize("mode", MODES)
def test_a_generation_without_rows_is_built_with_other_types(destination_db, mode):
    def refresh(columns: dict[str, str], generation: int, minimum: int = 2) -> Any:
        return catalog(columns, mode, generation=generation, minimum=minimum)

    sync(destination_db, refresh(FIRST, 1, 0), record({"id": 1, "name": "a", "old": "x"}))
    assert write(destination_db, refresh(FIRST, 2), b"").exit_code == 1
    sync(destination_db, refresh({**FIRST, "old": "integer"}, 2), record({"id": 2, "old": 7}))
    assert destination_db.rows("select id, old from public.users") == [(2, 7)]
