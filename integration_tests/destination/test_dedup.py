"""Append + dedup: newest by cursor, then time of extraction, then arrival; NULL key parts are equal; deletions stay."""

from __future__ import annotations

import random
from typing import Any

import pytest
from psycopg2 import sql

from destination_postgres.direct import LARGEST_BYTES
from destination_postgres.naming import helper_name
from destination_postgres.sqlgen import Table, claim
from integration_tests.destination.writing import (
    USERS_CDC,
    one,
    own_tables,
    raw_count,
    record,
    records,
    state,
    status,
    sync,
)
from integration_tests.support import connector
from integration_tests.support.catalogs import configured, stream
from integration_tests.support.connector import DESTINATION
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

DELETED = "2024-01-01T00:00:00Z"
WAITING = (
    "select count(*) from pg_stat_activity where application_name = 'destination-postgres' and wait_event_type = 'Lock'"
)


def items(*columns: str, key: tuple[str, ...], cursor: str | None = "_ab_cdc_lsn", cdc: bool = True) -> dict[str, Any]:
    """A catalog of one deduplicated stream ``items``; ``columns`` are written name:type."""
    made = stream("items", dict(column.split(":") for column in columns), key=key, cdc=cdc)
    catalog = configured([made], destination="append_dedup")
    catalog["streams"][0]["cursor_field"] = [cursor] if cursor else []
    return catalog


PLAIN = items("id:integer", "v:string", key=("id",))


def change(lsn: int | None, v: str | None = None, key: int = 1, **more: Any) -> bytes:
    """A change of one item; without ``v`` its deletion."""
    deleted = {} if v is not None else {"_ab_cdc_deleted_at": DELETED}
    return record({"id": key, "v": v, "_ab_cdc_lsn": lsn, **deleted}, "items", **more)


def values(db: Database, columns: str = "id, v") -> list[tuple[Any, ...]]:
    return db.rows(f"select {columns} from public.items order by 1, 2")


# Each story is a list of syncs, each a list of (lsn, value or None for a deletion); what is left of the key.
STORIES: dict[str, tuple[list[list[tuple[int | None, str | None]]], str | None]] = {
    "the last of a batch wins": ([[(1, "a"), (2, "b"), (3, "c")]], "c"),
    "order of arrival does not matter": ([[(3, "c"), (1, "a"), (2, "b")]], "c"),
    "an older row that comes later loses": ([[(3, "c")], [(2, "b")]], "c"),
    "a newer one wins": ([[(2, "b")], [(3, "c")]], "c"),
    "of equal cursors the later arrival wins in a batch": ([[(1, "a"), (1, "b")]], "b"),
    "and across syncs": ([[(1, "a")], [(1, "b")]], "b"),
    "no cursor is oldest": ([[(None, "a"), (1, "b")], [(None, "c")]], "b"),
    "without any cursor the later arrival wins": ([[(None, "a"), (None, "b")], [(None, "c")]], "c"),
    "a deletion in the batch": ([[(1, "a"), (2, None)]], None),
    "a deletion of an earlier sync's row": ([[(1, "a")], [(2, None)]], None),
    "a deletion that is older than the row": ([[(3, "c")], [(2, None)]], "c"),
    "a deletion of nothing": ([[(2, None)]], None),
    "an insert after the deletion": ([[(1, "a"), (2, None), (3, "c")]], "c"),
    "an insert after the deletion, in a later sync": ([[(1, "a"), (2, None)], [(3, "c")]], "c"),
    "an insert that is older than a deletion of an earlier sync": ([[(5, None)], [(4, "a")]], None),
    "and then one that is newer": ([[(5, None)], [(4, "a")], [(6, "b")]], "b"),
    "a deletion that comes after a newer insert": ([[(1, "a")], [(6, "b")], [(5, None)]], "b"),
    "the older of two deletions does not count": ([[(5, None)], [(3, None)], [(4, "a")]], None),
    "the same changes once more": ([[(1, "a"), (2, None), (3, "c")], [(1, "a"), (2, None), (3, "c")]], "c"),
    "a deletion and an insert of one cursor, as they arrive": ([[(5, None)], [(5, "a")]], "a"),
}


def test_stories_of_one_key(destination_db):
    """Each story is told of a key of its own; all of them in the same syncs."""
    keys = dict(enumerate(STORIES, start=1))
    for number in range(max(len(syncs) for syncs, _ in STORIES.values())):
        changes = [
            (key, lsn, v) for key, name in keys.items() for lsn, v in dict(enumerate(STORIES[name][0])).get(number, [])
        ]
        sync(destination_db, PLAIN, b"".join(change(lsn, v, key=key) for key, lsn, v in changes))
    found = dict(values(destination_db))
    assert {name: found.get(key) for key, name in keys.items()} == {name: left for name, (_, left) in STORIES.items()}
    assert len(found) == destination_db.value("select count(*) from public.items")
    changes_told = sum(len(changes) for syncs, _ in STORIES.values() for changes in syncs)
    assert raw_count(destination_db, "public_raw__stream_items") == changes_told


def test_of_equal_cursors_the_later_extraction_wins(destination_db):
    sync(destination_db, PLAIN, change(1, "new", emitted_at=2000) + change(1, "old", emitted_at=1000))
    assert values(destination_db) == [(1, "new")]
    sync(destination_db, PLAIN, change(1, "older", emitted_at=1500))
    assert values(destination_db) == [(1, "new")]


def test_without_a_cursor_the_time_of_extraction_decides(destination_db):
    catalog = items("id:integer", "v:string", key=("id",), cursor=None, cdc=False)
    rows = [record({"id": 1, "v": v}, "items", emitted_at=ms) for ms, v in ((2000, "b"), (1000, "a"), (2000, "c"))]
    sync(destination_db, catalog, b"".join(rows))
    assert values(destination_db) == [(1, "c")]
    sync(destination_db, catalog, rows[1])
    assert values(destination_db) == [(1, "c")]


def test_null_key_parts_are_equal(destination_db):
    catalog = items("a:integer", "b:string", "v:string", key=("a", "b"))
    keys: list[tuple[int | None, str | None]] = [(1, "x"), (1, None), (None, "x"), (None, None), (1, "")]
    for number in range(3):
        rows = [{"a": a, "b": b, "v": f"v{number}", "_ab_cdc_lsn": number} for a, b in keys]
        sync(destination_db, catalog, records(rows + rows[::-1], "items"))
    found = destination_db.rows("select a, b, v from public.items")
    assert sorted(found, key=repr) == sorted([(a, b, "v2") for a, b in keys], key=repr)
    deletions = [{"a": a, "b": b, "_ab_cdc_lsn": 9, "_ab_cdc_deleted_at": DELETED} for a, b in keys if b is None]
    sync(destination_db, catalog, records(deletions, "items"))
    late = [{"a": a, "b": b, "v": "late", "_ab_cdc_lsn": 8} for a, b in keys]
    sync(destination_db, catalog, records(late, "items"))
    found = destination_db.rows("select a, b, v from public.items")
    assert sorted(found, key=repr) == sorted([(a, b, "late") for a, b in keys if b is not None], key=repr)


@pytest.mark.parametrize(
    ("kind", "one_spelling", "another"),
    [
        ("number", "1.50", "15e-1"),
        ("timestamptz", '"2024-01-01T00:00:00Z"', '"2024-01-01T05:00:00+05:00"'),
        ("date", '"2024-01-01"', '"2024-01-01T12:00:00Z"'),
        ("integer", "7", '"7"'),
        ("object", '{"a":1,"b":2}', '{"b":2,"a":1.0}'),
    ],
)
def test_keys_are_compared_by_value_not_by_spelling(destination_db, kind, one_spelling, another):
    catalog = items(f"id:{kind}", "v:string", key=("id",))
    for number, spelling in enumerate((one_spelling, another)):
        sync(destination_db, catalog, record(f'{{"id":{spelling},"v":"{number}","_ab_cdc_lsn":{number}}}', "items"))
    assert values(destination_db, "v, 1") == [("1", 1)]


def test_composite_keys_against_a_reference_in_python(destination_db):
    """Many keys, many syncs, everything out of order; a dictionary says what must be left."""
    rnd = random.Random(20240101)
    catalog = items("a:integer", "b:string", "v:string", key=("a", "b"))
    newest: dict[tuple[int, str | None], tuple[int, str | None]] = {}
    for _ in range(5):
        rows = []
        for _ in range(3000):
            key = (rnd.randrange(40), rnd.choice([None, "x", "y", "z"]))
            lsn = rnd.randrange(10**6)
            v = None if rnd.random() < 0.3 else f"v{lsn}"
            deleted = {"_ab_cdc_deleted_at": DELETED} if v is None else {}
            rows.append({"a": key[0], "b": key[1], "v": v, "_ab_cdc_lsn": lsn, **deleted})
            if key not in newest or newest[key][0] <= lsn:
                newest[key] = (lsn, v)
        sync(destination_db, catalog, records(rows, "items"))
        expected = [(a, b, v, lsn) for (a, b), (lsn, v) in newest.items() if v is not None]
        found = destination_db.rows("select a, b, v, _ab_cdc_lsn::bigint from public.items")
        assert sorted(found, key=repr) == sorted(expected, key=repr)


# Few bytes go with a statement, many through a staging table.
SMALL_OR_LARGE = pytest.mark.parametrize("length", [1, LARGEST_BYTES], ids=["small batch", "large batch"])


@SMALL_OR_LARGE
def test_rows_that_were_there_twice_become_one(destination_db, length):
    """Duplicates that another version has left are healed when their key is touched."""
    sync(destination_db, PLAIN, change(1, "a") + change(1, "b", key=2))
    destination_db.execute("insert into public.items select * from public.items")
    sync(destination_db, PLAIN, change(2, "c" * length))
    assert values(destination_db) == [(1, "c" * length), (2, "b"), (2, "b")]


def test_a_few_changes_touch_only_their_keys(destination_db):
    """1,000 changes against 200,000 rows that nothing has analyzed: the target is not read from end to end."""
    sync(destination_db, PLAIN, change(1, "seed", key=0))
    destination_db.execute(
        "insert into public.items (id, v, _ab_cdc_lsn, _airbyte_raw_id, _airbyte_extracted_at, _airbyte_meta)"
        " select i, 'v', 1, i, to_timestamp(0), '{}' from generate_series(1, 200000) i"
    )
    reads = "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relname = 'items'"
    before = destination_db.value(reads)
    sync(destination_db, PLAIN, b"".join(change(2, "new", key=number * 190) for number in range(1000)))
    after = destination_db.value(reads)
    assert destination_db.value("select count(*) from public.items where v = 'new'") == 1000
    assert destination_db.value("select count(*) from public.items") == 200_001
    # Those that are looked up and those that are deleted, and one to see whether the table has any.
    assert after - before < 5_000


@SMALL_OR_LARGE
def test_a_staging_table_of_another_shape_is_not_in_the_way(destination_db, length):
    """A killed sync has left it, and the stream's columns have changed since."""
    sync(destination_db, PLAIN, change(1, "a"))
    staging = helper_name("staging", "public", "items")
    destination_db.execute(f"create unlogged table airbyte_internal.{staging} (something_else int)")
    sync(destination_db, PLAIN, change(2, "b" * length))
    assert values(destination_db) == [(1, "b" * length)]


def test_deletions_stay_known_when_numbers_lose_their_limits(destination_db):
    first = change(1, "a", key=2) + change(5)
    sync(destination_db, PLAIN, first, unconstrained_number=False)
    for unconstrained in (True, False):
        sync(destination_db, PLAIN, change(4, "late") + change(6, "b", key=3), unconstrained_number=unconstrained)
        assert values(destination_db) == [(2, "a"), (3, "b")]


@pytest.mark.parametrize("between", [[], ["append"]], ids=["at once", "while rows are added"])
def test_a_key_of_another_type_after_a_deletion(destination_db, between):
    def of(kind: str, mode: str) -> dict[str, Any]:
        return one(stream("items", {"id": kind, "v": "string"}, key=["id"], cdc=True), mode)

    sync(destination_db, of("string", "append_dedup"), change(1, "a") + change(2))
    for lsn, mode in enumerate([*between, "append_dedup"], start=3):
        sync(destination_db, of("integer", mode), change(lsn, mode, key=3))
    assert values(destination_db) == [(3, "append_dedup")]


def test_an_index_of_2x_is_used_and_no_second_one_made(destination_db):
    sync(destination_db, one(USERS_CDC, "append_dedup"), b"")
    indexes = "select count(*) from pg_indexes where schemaname = 'public' and tablename = 'users'"
    assert destination_db.value(indexes) == 1
    destination_db.execute("drop table public.users")
    columns = "id bigint, name varchar, _ab_cdc_lsn numeric, _ab_cdc_updated_at varchar, _ab_cdc_deleted_at varchar"
    destination_db.execute(
        f"create table public.users ({columns}, _airbyte_raw_id varchar(36) not null,"
        " _airbyte_extracted_at timestamptz not null, _airbyte_generation_id bigint, _airbyte_meta jsonb not null);"
        "create index on public.users (id, _ab_cdc_lsn, _airbyte_extracted_at)"
    )
    sync(destination_db, one(USERS_CDC, "append_dedup"), record({"id": 1, "name": "a", "_ab_cdc_lsn": 1}))
    assert destination_db.value(indexes) == 1


def test_two_syncs_of_a_stream_at_once(destination_db):
    """One flush at a time; the sync that ends first does not take the other's staging table with it."""
    config = destination_db.config(schema="public", flush_bytes=1)
    # As many rows as fill several flushes each, over the same keys.
    lines = [
        b"".join(change(lsn, f"v{lsn}", key=lsn % 7) + state(lsn, None) for lsn in range(first, 120, 2))
        for first in (0, 1)
    ]
    with (
        connector.start(DESTINATION, "write", config=config, catalog=PLAIN) as one_sync,
        connector.start(DESTINATION, "write", config=config, catalog=PLAIN) as another,
    ):
        for running in (one_sync, another):
            running.write(state(0, None))
            running.wait_for(lambda message: bool(message["type"] == "STATE"))
        one_sync.write(lines[0] + status("items"))
        another.write(lines[1])
        assert one_sync.finish().exit_code == 0
        another.write(change(200, "last", key=8) + state(200, None) + status("items"))
        assert another.finish().exit_code == 0
    newest = {lsn % 7: f"v{lsn}" for lsn in range(120)}
    assert values(destination_db) == [*sorted(newest.items()), (8, "last")]
    assert own_tables(destination_db) == set()


@SMALL_OR_LARGE
def test_a_batch_sees_what_another_connection_wrote_before_it(destination_db, length):
    """It waits until the table is not claimed any more, and only then looks for its keys."""
    sync(destination_db, PLAIN, b"")
    other = destination_db.connect()
    other.autocommit = False
    config = destination_db.config(schema="public")
    with connector.start(DESTINATION, "write", config=config, catalog=PLAIN) as running, other.cursor() as cursor:
        cursor.execute(claim(Table("public", "items")))
        running.write(change(1, "old" * length) + state(1, None))
        wait_until(lambda: destination_db.value(WAITING) == 1, 30, "the flush waits for the claim")
        cursor.execute(
            "insert into public.items (id, v, _ab_cdc_lsn, _airbyte_raw_id, _airbyte_extracted_at, _airbyte_meta)"
            " values (1, 'new', 2, 'other', now(), '{}')"
        )
        other.commit()
        running.wait_for(lambda message: bool(message["type"] == "STATE"))
        running.write(status("items"))
        assert running.finish().exit_code == 0
    other.close()
    assert values(destination_db) == [(1, "new")]


def test_a_dump_of_the_database_does_not_hold_a_sync_up(destination_db):
    """pg_dump locks every table that it finds, against changes of their shape, until it has ended."""
    config = destination_db.config(schema="public", flush_seconds=0.2)
    dump = destination_db.connect()
    dump.autocommit = False
    with connector.start(DESTINATION, "write", config=config, catalog=PLAIN) as running, dump.cursor() as cursor:
        running.write(change(1, "a") + state(1, None))
        running.wait_for(lambda message: bool(message["type"] == "STATE"))
        cursor.execute("select schemaname, tablename from pg_tables where schemaname in ('public', 'airbyte_internal')")
        for table in cursor.fetchall():
            cursor.execute(sql.SQL("lock table {} in access share mode").format(sql.Identifier(*table)))
        running.write(change(2, "b") + state(2, None))
        running.wait_for(lambda message: bool(message["type"] == "STATE"), count=2)
        running.write(status("items"))
        assert running.finish().exit_code == 0
    dump.close()
    assert values(destination_db) == [(1, "b")]
