"""What decides which row is left may change between syncs: mode, key, cursor, what a deletion does."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.destination.writing import record, records, status, sync, write
from integration_tests.support.catalogs import configured, stream
from integration_tests.support.connector import Outcome
from integration_tests.support.databases import Database

DELETED = "2024-01-01T00:00:00Z"
SOFT = {"cdc_deletion_mode": "Soft delete"}
HARD = {"cdc_deletion_mode": "Hard delete"}


def catalog(
    destination: str = "append_dedup",
    *,
    key: tuple[str, ...] = ("id",),
    cursor: str | None = "_ab_cdc_lsn",
    **more: Any,
) -> dict[str, Any]:
    made = stream("items", {"id": "integer", "part": "integer", "v": "string"}, key=key, cdc=True)
    return configured([made | {"default_cursor_field": [cursor] if cursor else []}], destination=destination, **more)


def change(lsn: int, v: str | None, key: int | None = 1, **more: Any) -> bytes:
    """A change of one item; without ``v`` its deletion."""
    deleted = {} if v is not None else {"_ab_cdc_deleted_at": DELETED}
    return record({"id": key, "v": v, "_ab_cdc_lsn": lsn, **deleted, **more}, "items")


def rows(db: Database, columns: str = "id, v") -> list[tuple[Any, ...]]:
    return db.rows(f"select {columns} from public.items order by 1, 2")


def graves(db: Database) -> int:
    (found,) = db.rows("select tablename from pg_tables where tablename ~ '_tombstones_'")
    return int(db.value(f"select count(*) from airbyte_internal.{found[0]}"))


def settled(outcome: Outcome) -> list[str]:
    """What the log says of rows that were brought under another rule."""
    return [log["message"] for log in outcome.logs if log["message"].startswith("deduplicated")]


# Each story: syncs of (lsn, value or None for a deletion); what is left: lsn, value, whether marked as deleted.
STORIES: dict[str, tuple[list[list[tuple[int, str | None]]], tuple[int, str | None, bool] | None]] = {
    "a deletion marks the row": ([[(1, "a")], [(2, None)]], (2, None, True)),
    "in one batch, too": ([[(1, "a"), (2, None)]], (2, None, True)),
    "a deletion of nothing is a row": ([[(2, None)]], (2, None, True)),
    "an older deletion loses": ([[(3, "c")], [(2, None)]], (3, "c", False)),
    "a later insert brings it back": ([[(1, "a"), (2, None)], [(3, "c")]], (3, "c", False)),
    "a late older insert loses": ([[(5, None)], [(4, "d")]], (5, None, True)),
    "of two deletions the newer stays": ([[(5, None)], [(3, None)], [(4, "d")]], (5, None, True)),
}


def test_soft_deletes(destination_db):
    keys = dict(enumerate(STORIES, start=1))
    for number in range(max(len(syncs) for syncs, _ in STORIES.values())):
        told = [(key, one) for key, name in keys.items() for one in dict(enumerate(STORIES[name][0])).get(number, [])]
        sync(destination_db, catalog(), b"".join(change(lsn, v, key) for key, (lsn, v) in told), **SOFT)
    columns = "id, _ab_cdc_lsn::int, v, _ab_cdc_deleted_at is not null"
    found = {key: tuple(left) for key, *left in rows(destination_db, columns)}
    assert {name: found.get(key) for key, name in keys.items()} == {name: left for name, (_, left) in STORIES.items()}
    assert len(found) == len(STORIES)


def test_soft_after_hard_respects_the_tombstones(destination_db):
    sync(destination_db, catalog(), change(5, None) + change(5, None, 2), **HARD)
    sync(destination_db, catalog(), change(4, "late") + change(6, "new", 2), **SOFT)
    assert rows(destination_db) == [(2, "new")]


def test_hard_after_soft_removes_what_is_marked_once(destination_db):
    sync(destination_db, catalog(), change(5, None) + change(1, "b", 2) + change(7, None, None), **SOFT)
    assert len(rows(destination_db)) == 3
    assert settled(sync(destination_db, catalog(), b"", **HARD)) == [
        "deduplicated stream=public.items outranked=0 deletions=2"
    ]
    assert rows(destination_db) == [(2, "b")]
    late = sync(destination_db, catalog(), change(4, "late") + change(6, "late", None), **HARD)
    assert settled(late) == []
    assert rows(destination_db) == [(2, "b")]
    # And there and back again: one tombstone per key.
    for options in (SOFT, HARD):
        sync(destination_db, catalog(), change(8, None) + change(8, None, None), **options)
    assert graves(destination_db) == 2


def test_append_keeps_deletions_and_dedup_applies_them(destination_db):
    lines = change(1, "a") + change(3, None) + change(2, "b") + change(2, "x", 2) + change(1, "w", 2)
    sync(destination_db, catalog("append"), lines + change(1, "n", None) + change(2, "m", None))
    assert len(rows(destination_db)) == 7
    outcome = sync(destination_db, catalog(), change(2, "late"))
    assert settled(outcome) == ["deduplicated stream=public.items outranked=4 deletions=1"]
    assert rows(destination_db) == [(2, "x"), (None, "m")]
    assert settled(sync(destination_db, catalog(), b"")) == []


def test_append_in_between(destination_db):
    """The tombstones of before still hold for what was appended meanwhile."""
    sync(destination_db, catalog(), change(5, None) + change(5, "a", 2))
    sync(destination_db, catalog("append"), change(4, "late") + change(4, "late", 2) + change(6, "b", 3))
    assert len(rows(destination_db)) == 4
    sync(destination_db, catalog(), b"")
    assert rows(destination_db) == [(2, "a"), (3, "b")]


def test_another_key(destination_db):
    lines = [{"id": n // 2, "part": n % 2, "v": f"v{n}", "_ab_cdc_lsn": n} for n in range(6)]
    sync(destination_db, catalog(key=("id", "part")), records(lines, "items") + change(9, None, 7, part=1))
    assert (len(rows(destination_db)), graves(destination_db)) == (6, 1)
    outcome = sync(destination_db, catalog(), change(9, "new", 0))
    assert settled(outcome) == ["deduplicated stream=public.items outranked=3 deletions=0"]
    assert rows(destination_db) == [(0, "new"), (1, "v3"), (2, "v5")]
    indexes = destination_db.rows("select indexdef from pg_indexes where tablename = 'items'")
    assert [text.partition(" USING ")[2] for (text,) in indexes] == ["btree (id)"]
    # And back: nothing is left to be ranked, and both parts tell rows apart again.
    sync(destination_db, catalog(key=("id", "part")), change(1, "other", 1, part=5))
    assert rows(destination_db) == [(0, "new"), (1, "other"), (1, "v3"), (2, "v5")]


@pytest.mark.parametrize(("cursor", "left"), [("part", "late"), (None, "last"), ("_ab_cdc_lsn", "high")])
def test_another_cursor(destination_db, cursor, left):
    """The rows of another version, which left no word on its rule, or an append stream's."""
    told = [("high", 3, None), ("late", 1, 8), ("last", 2, 7)]
    lines = b"".join(change(lsn, v, part=part) for v, lsn, part in told)
    sync(destination_db, catalog("append"), lines)
    destination_db.execute("delete from airbyte_internal._airbyte_pg_ledger")
    sync(destination_db, catalog(cursor=cursor), b"")
    assert [v for _, v in rows(destination_db)] == [left]
    # A later sync by another cursor does not bring back what is gone, and compares by the new one.
    sync(destination_db, catalog(cursor="part"), change(0, "newest", part=9))
    assert [v for _, v in rows(destination_db)] == ["newest"]


def test_a_ledger_of_an_earlier_version(destination_db):
    sync(destination_db, catalog(), change(1, "a"))
    destination_db.execute("alter table airbyte_internal._airbyte_pg_ledger drop column dedup_rule")
    destination_db.execute("insert into public.items select * from public.items")
    outcome = sync(destination_db, catalog(), b"")
    assert settled(outcome) == ["deduplicated stream=public.items outranked=1 deletions=0"]
    assert rows(destination_db) == [(1, "a")]


def test_a_refresh_that_goes_on_under_another_rule(destination_db):
    """What it has built aside is brought under the rule, too."""
    sync(destination_db, catalog(generation=1), change(1, "old"))
    refresh: dict[str, Any] = {"generation": 2, "minimum": 2}
    broken = write(destination_db, catalog("append", **refresh), change(1, "a") + change(2, "b") + change(3, None, 2))
    assert broken.exit_code == 1
    broken = write(destination_db, catalog(**refresh), status(value="STARTED", name="items"))
    assert broken.exit_code == 1
    assert rows(destination_db) == [(1, "old")]
    sync(destination_db, catalog(**refresh), change(2, "late", 2))
    assert rows(destination_db) == [(1, "b")]
