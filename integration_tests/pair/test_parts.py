"""A large table in parts: killed behind one of them, changed, and gone on with; the destination ends equal."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.pair.piping import Passed, differences, sync
from integration_tests.source.reading import catalog_of
from integration_tests.source.test_parts import needs_parts
from integration_tests.support.databases import Database

ITEMS = "id::text, v, md5(coalesce(big, '-'))"
ROWS = 6000
# About 70 rows of 100 bytes a page.
PART_PAGES = 5


@pytest.fixture
def items(source_db):
    needs_parts(source_db)
    source_db.execute("create table items (id int primary key, v text, big text) with (autovacuum_enabled = off)")
    source_db.execute("alter table items alter big set storage external")
    source_db.execute(f"insert into items select i, rpad(i::text, 70, '.') from generate_series(1, {ROWS}) i")
    source_db.execute("update items set big = repeat(md5(id::text), 100) where id % 500 = 0")
    return source_db


def killed_within(items: Database, destination: Database, catalog: dict[str, Any], **options: Any) -> Passed:
    """A first sync that dies behind about half of the rows, with a state that says some pages are done."""
    options = {"destination_options": {"flush_bytes": 20_000}, "snapshot_part_pages": PART_PAGES, **options}
    passed = sync(items, destination, catalog, kill=("source", ROWS // 2), **options)
    assert not passed.ok
    progress = progress_of(passed)
    assert progress["complete"] is False
    # Of two connections, one may be slow to begin: its part is then not done when the sync dies.
    assert progress["page"] >= PART_PAGES or options.get("max_db_connections") == 2
    return passed


def progress_of(passed: Passed) -> dict[str, Any]:
    """What the last state that came back says of the only stream."""
    progress: dict[str, Any] = passed.states[-1]["global"]["stream_states"][0]["stream_state"]["cdc"]
    return progress


def records(passed: Passed) -> float:
    """How many records the states that came back cover."""
    return sum(float(state["sourceStats"]["recordCount"]) for state in passed.states)


def move_rows(items: Database) -> None:
    """Deletes and moves in read and unread pages: rows from the table's end go to room in its first pages."""
    items.execute(f"delete from items where id < {ROWS // 3} and id % 3 > 0")
    items.execute("vacuum items")
    before = items.rows("select id from items where ctid < '(20,0)'")
    items.execute(f"update items set v = 'moved ' || id where id > {ROWS - 400}")
    items.execute(f"update items set id = -id where id between {ROWS - 1200} and {ROWS - 1100}")
    items.execute(f"delete from items where id between {ROWS - 1000} and {ROWS - 900}")
    items.execute("update items set v = 'again ' || id where id % 500 = 0")
    items.execute("update items set big = repeat('x', 9000) where id % 1000 = 0")
    after = items.rows("select id from items where ctid < '(20,0)'")
    assert any(key > ROWS - 400 for (key,) in set(after) - set(before))
    assert any(key < 0 for (key,) in after)


@pytest.mark.parametrize("connections", [1, 2])
def test_rows_that_moved_between_the_parts_arrive(items, destination_db, connections):
    catalog = catalog_of(items)
    options = {"snapshot_part_pages": PART_PAGES, "max_db_connections": connections}
    first = killed_within(items, destination_db, catalog, **options)
    move_rows(items)
    second = sync(items, destination_db, catalog, first.states[-1], **options)
    assert second.ok, second.printed[-5:]
    assert differences(items, destination_db, "items", ITEMS) == []
    assert "page" not in progress_of(second)


def test_a_table_that_was_rewritten_is_read_from_its_first_page(items, destination_db):
    catalog = catalog_of(items)
    first = killed_within(items, destination_db, catalog)
    move_rows(items)
    items.execute("vacuum full items")
    items.execute("update items set v = 'once more' where id % 7 = 0")
    count = items.value("select count(*) from items")
    second = sync(items, destination_db, catalog, first.states[-1], snapshot_part_pages=PART_PAGES)
    assert second.ok, second.printed[-5:]
    # All rows, and the changes on top.
    assert records(second) > count
    assert differences(items, destination_db, "items", ITEMS) == []
