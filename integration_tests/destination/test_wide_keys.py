"""Keys that no B-tree takes: found by their hashes, and the sync goes on. Random digits, which do not compress."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from integration_tests.destination.writing import record, records, state, status, sync, write
from integration_tests.support.catalogs import configured, stream
from integration_tests.support.databases import Database

RND = random.Random(20240101)
DELETED = "2024-01-01T00:00:00Z"
INDEXES = "select indexdef from pg_indexes where tablename = 'items' order by indexname"


def digits(count: int, alphabet: str = "0123456789abcdef") -> str:
    return "".join(RND.choices(alphabet, k=count))


def catalog(
    kind: str, *, key: tuple[str, ...] = ("id",), destination: str = "append_dedup", **more: Any
) -> dict[str, Any]:
    made = stream("items", {"id": kind, "part": "integer", "v": "string"}, key=key, cdc=True)
    return configured([made], destination=destination, **more)


def change(key: str, lsn: int, v: str | None) -> bytes:
    """A change of the item with this key, as JSON; without ``v`` its deletion."""
    deleted = "null" if v is not None else json.dumps(DELETED)
    marks = f'"_ab_cdc_lsn":{lsn},"_ab_cdc_deleted_at":{deleted}'
    return record(f'{{"id":{key},"v":{json.dumps(v)},{marks}}}', "items")


def values(db: Database) -> list[str]:
    return [v for (v,) in db.rows("select v from public.items order by 1")]


def is_hashed(db: Database) -> list[bool]:
    """Of each index on the table, whether it is over hashes."""
    return ["hash" in definition for (definition,) in db.rows(INDEXES)]


KEYS: dict[str, tuple[str, Callable[[], str]]] = {
    "3 kB of text": ("string", lambda: json.dumps(digits(3_000 * 2))),
    "1 MB of text": ("string", lambda: json.dumps(digits(1 << 20))),
    "an object": ("object", lambda: json.dumps({"a": digits(5_000), "b": 1})),
    "a number": ("number", lambda: "7" + digits(20_000, "0123456789")),
}


@pytest.mark.parametrize("key", [("id",), ("part", "id")], ids=["alone", "part of it"])
@pytest.mark.parametrize("name", list(KEYS))
def test_a_wide_key_does_not_fail_a_sync(destination_db, name, key):
    kind, make = KEYS[name]
    wanted = catalog(kind, key=key)
    narrow = {"string": '"n"', "object": '{"n":1}', "number": "1"}[kind]
    equal = {"string": '"n"', "object": '{"n":1.0}', "number": "1.0"}[kind]
    wide, buried = make(), make()
    sync(destination_db, wanted, change(narrow, 1, "narrow"))
    assert is_hashed(destination_db) == [False]
    # Another STATE: the rows behind it come in a flush, and meet the index as it is by then.
    lines = change(wide, 1, "wide") + state(1, "items") + change(wide, 3, "wider") + change(narrow, 3, "narrower")
    sync(destination_db, wanted, lines, flush_bytes=1)
    assert is_hashed(destination_db) == [True]
    assert values(destination_db) == ["narrower", "wider"]
    sync(destination_db, wanted, change(buried, 5, None) + change(wide, 2, "late") + change(equal, 4, "equal"))
    assert values(destination_db) == ["equal", "wider"]
    sync(destination_db, wanted, change(buried, 4, "late") + change(wide, 4, None))
    assert values(destination_db) == ["equal"]
    assert is_hashed(destination_db) == [True]


def test_wide_keys_with_null_parts(destination_db):
    wide = digits(5_000)
    wanted = catalog("string", key=("id", "part"))
    rows: list[tuple[str | None, int | None]] = [(wide, None), (wide, 1), (None, 1), (None, None)]
    for lsn in (1, 2):
        rows_of = [{"id": key, "part": part, "v": f"v{lsn}", "_ab_cdc_lsn": lsn} for key, part in rows]
        sync(destination_db, wanted, records(rows_of, "items"))
        found = destination_db.rows("select id, part, v from public.items")
        assert sorted(found, key=repr) == sorted([(*row, f"v{lsn}") for row in rows], key=repr)
    deletions = [{"id": key, "part": part, "_ab_cdc_lsn": 4, "_ab_cdc_deleted_at": DELETED} for key, part in rows]
    sync(destination_db, wanted, records(deletions, "items"))
    late = [{"id": key, "part": part, "v": "late", "_ab_cdc_lsn": 3} for key, part in rows]
    sync(destination_db, wanted, records(late, "items"))
    assert values(destination_db) == []


def test_an_index_is_made_over_wide_rows_that_are_there(destination_db):
    """Appended until now; and the deletions among them become tombstones."""
    wide, deleted = (json.dumps(digits(5_000)) for _ in range(2))
    lines = change(wide, 1, "a") + change(wide, 2, "b") + change(deleted, 1, "c") + change(deleted, 2, None)
    sync(destination_db, catalog("string", destination="append"), lines)
    sync(destination_db, catalog("string"), change(deleted, 1, "late") + change('"n"', 1, "n"))
    assert values(destination_db) == ["b", "n"]
    assert is_hashed(destination_db) == [True]


def test_deletions_of_wide_keys_in_a_refresh_that_is_broken_off(destination_db):
    def refresh(generation: int, minimum: int) -> dict[str, Any]:
        wanted = catalog("string")
        wanted["streams"][0] |= {"generation_id": generation, "minimum_generation_id": minimum}
        return wanted

    wide, deleted = (json.dumps(digits(5_000)) for _ in range(2))
    sync(destination_db, refresh(1, 0), change('"n"', 1, "narrow"))
    lines = change(wide, 1, "wide") + change(deleted, 1, "a") + change(deleted, 5, None)
    assert write(destination_db, refresh(2, 2), lines + state(1, "items")).exit_code == 1
    sync(destination_db, refresh(2, 0), change(deleted, 4, "late"))
    assert values(destination_db) == ["narrow", "wide"]


def test_an_index_of_2x_gives_way(destination_db):
    sync(destination_db, catalog("string"), change('"n"', 1, "n"))
    (own,) = destination_db.rows("select indexname from pg_indexes where tablename = 'items'")
    destination_db.execute(f'drop index public."{own[0]}"')
    destination_db.execute("create index on public.items (id, _ab_cdc_lsn, _airbyte_extracted_at)")
    destination_db.execute("create index on public.items (_airbyte_extracted_at)")
    wide = json.dumps(digits(5_000))
    sync(destination_db, catalog("string"), change(wide, 1, "wide") + change('"n"', 2, "m"))
    assert values(destination_db) == ["m", "wide"]
    assert sorted(is_hashed(destination_db)) == [False, True]


@pytest.mark.parametrize("kind", ["string", "integer"])
@pytest.mark.parametrize("size", [5_000, 1 << 20])
def test_an_index_of_the_users_own_is_named(destination_db, kind, size):
    sync(destination_db, catalog(kind), change("1", 1, "n"))
    destination_db.execute('create unique index "by v" on public.items (v)')
    text = digits(size)
    outcome = write(destination_db, catalog(kind), change("1", 2, text) + state(1, "items"))
    assert outcome.states == []
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    # Of an entry beyond 8 kB the server says neither its index nor its table.
    assert ("by v" if size < 8_000 else "an index of public.items") in outcome.error["message"]
    assert text[:100] not in outcome.stderr + b"".join(outcome.lines).decode()
    assert values(destination_db) == ["n"]


@pytest.mark.parametrize("is_completed", [True, False])
def test_a_refresh_brings_wide_keys(destination_db, is_completed):
    """They are kept aside first; complete, they replace the rows that are there, and broken off they are added."""
    sync(destination_db, catalog("string", generation=1), change('"n"', 1, "n"))
    wide, buried = (json.dumps(digits(5_000)) for _ in range(2))
    ends = status("items") if is_completed else b""
    lines = change(wide, 1, "wide") + change(buried, 5, None)
    outcome = write(destination_db, catalog("string", generation=2, minimum=2), lines + ends)
    assert outcome.exit_code == (0 if is_completed else 1)
    sync(destination_db, catalog("string", generation=2), change(buried, 4, "late"))
    assert values(destination_db) == (["wide"] if is_completed else ["n", "wide"])
    assert is_hashed(destination_db) == [True]
