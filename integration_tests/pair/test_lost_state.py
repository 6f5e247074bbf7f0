"""Rows that were committed while their STATE never came back: what was deleted since must not stay for ever."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.pair.piping import differences, sync
from integration_tests.source.reading import TRANSPORTS, catalog_of, read, slot_of
from integration_tests.support.databases import Database

SHOWN = "id::text, coalesce(note, '-')"


@pytest.fixture
def notes(source_db: Database) -> Database:
    for name in ("notes", "late"):
        source_db.execute(f"create table {name} (id int primary key, note text)")
        source_db.execute(f"insert into {name} select i, 'first' from generate_series(1, 100) i")
    source_db.execute("alter table late replica identity full")
    return source_db


def change(database: Database, table: str) -> None:
    database.execute(f"delete from {table} where id <= 10")
    database.execute(f"insert into {table} values (1, 'came back')")
    database.execute(f"update {table} set note = 'second' where id between 20 and 30")
    database.execute(f"update {table} set id = id + 1000 where id between 40 and 50")
    database.execute(f"begin; delete from {table} where id = 60; insert into {table} values (60, 'again'); commit")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_first_state_is_lost(notes, destination_db, transport):
    catalog = catalog_of(notes)
    assert sync(notes, destination_db, catalog).ok
    change(notes, "notes")
    change(notes, "late")
    again = sync(notes, destination_db, catalog, transport=transport)
    assert again.ok, again.printed[-5:]
    for table in ("notes", "late"):
        assert differences(notes, destination_db, table, SHOWN) == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_first_state_of_an_added_stream_is_lost(notes, destination_db, transport):
    first = sync(notes, destination_db, catalog_of(notes, only=["notes"]))
    both = catalog_of(notes)
    assert sync(notes, destination_db, both, first.states[-1]).ok
    change(notes, "late")
    again = sync(notes, destination_db, both, first.states[-1], transport=transport)
    assert again.ok, again.printed[-5:]
    assert differences(notes, destination_db, "late", SHOWN) == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_slot_that_is_older_than_the_publication(notes, transport):
    """The order of Airbyte's own guide: what is decoded in between finds no publication."""
    notes.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", slot_of(notes))
    change(notes, "notes")
    notes.execute("create publication airbyte_publication for table notes, late")
    change(notes, "late")
    first = read(notes, catalog_of(notes), transport=transport)
    assert first.exit_code == 0, first
    rows: dict[str, Any] = {table: first.records(table) for table in ("notes", "late")}
    for table, found in rows.items():
        assert len([row for row in found if row["_ab_cdc_deleted_at"] is None]) == notes.value(
            f"select count(*) from {table}"
        )
    notes.execute("insert into notes values (7, 'new')")
    second = read(notes, catalog_of(notes), first, transport=transport)
    assert [row["id"] for row in second.records()] == [7]
