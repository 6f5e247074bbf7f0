"""Generations: what is there stays visible until the new one is complete, and nothing acknowledged is thrown away.

Reference 2.7; for a literal ``overwrite`` the rule of design section 4.
"""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.destination.writing import (
    ALL_NEW,
    ALL_OLD,
    NEW,
    OLD,
    USERS,
    USERS_CDC,
    one,
    own_tables,
    raw_count,
    record,
    records,
    state,
    status,
    sync,
    users,
    write,
)
from integration_tests.support import connector
from integration_tests.support.catalogs import merged, stream
from integration_tests.support.connector import DESTINATION
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until


def catalog(destination: str, generation: int | None, *, minimum: int | None = None, resumable: bool = False) -> Any:
    """A full refresh of users that replaces, unless ``minimum`` says otherwise."""
    wanted = generation if minimum is None else minimum
    users_stream = {**USERS, "is_resumable": resumable}
    return one(users_stream, destination, sync_mode="full_refresh", generation=generation, minimum=wanted)


def broken(db: Database, of: Any, lines: bytes) -> None:
    """A sync that ends without COMPLETE; what it wrote is acknowledged."""
    outcome = write(db, of, lines + state(1))
    assert outcome.exit_code == 1, outcome
    assert len(outcome.states) == 1


@pytest.mark.parametrize("destination", ["overwrite", "append", "append_dedup"])
def test_old_rows_stay_visible_until_the_new_generation_is_complete(destination_db, destination):
    sync(destination_db, catalog(destination, 1), records(OLD))
    config = destination_db.config(schema="public", flush_seconds=0.2)
    with connector.start(DESTINATION, "write", config=config, catalog=catalog(destination, 2)) as running:
        running.write(records(NEW) + state(1))
        running.wait_for(lambda message: message["type"] == "STATE")
        assert users(destination_db) == ALL_OLD
        assert raw_count(destination_db) == 2
        running.write(status())
        assert running.finish().exit_code == 0
    assert users(destination_db) == ALL_NEW
    assert raw_count(destination_db) == 2
    assert own_tables(destination_db) == set()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_a_reader_never_sees_an_empty_or_mixed_table(destination_db, isolation):
    sync(destination_db, catalog("overwrite", 1), records({"id": i, "name": "g1"} for i in range(5000)))
    reader = destination_db.connect()
    reader.autocommit = False
    seen: set[tuple[int, str, str]] = set()
    with reader.cursor() as cursor:
        cursor.execute(f"set transaction isolation level {isolation}")
        query = "select count(*), min(name), max(name) from public.users"
        config = destination_db.config(schema="public")
        with connector.start(DESTINATION, "write", config=config, catalog=catalog("overwrite", 2)) as running:
            running.write(records({"id": i, "name": "g2"} for i in range(5000)) + status())
            running.close_stdin()
            while running.exit_code is None:
                cursor.execute(query)
                seen.add(cursor.fetchone())
            assert running.exit_code == 0
        cursor.execute(query)
        last = cursor.fetchone()
    reader.close()
    assert seen <= {(5000, "g1", "g1"), (5000, "g2", "g2")}
    assert last == ((5000, "g2", "g2") if isolation == "read committed" else (5000, "g1", "g1"))


def test_view_grant_comment_index_and_publication_survive(destination_db):
    sync(destination_db, catalog("overwrite", 1), records(OLD))
    destination_db.execute(
        "create view public.names as select name from public.users;"
        "create role reader_of_users; grant select on public.users to reader_of_users;"
        "comment on table public.users is 'mine'; create index own_index on public.users (name);"
        "alter table public.users replica identity full; create publication p for table public.users"
    )
    try:
        sync(destination_db, catalog("overwrite", 2), records(NEW))
        sync(destination_db, catalog("overwrite", 3), records(NEW))
        assert destination_db.rows("select * from public.names") == [("new",), ("new",)]
        assert destination_db.value("select has_table_privilege('reader_of_users', 'public.users', 'select')")
        assert destination_db.value("select obj_description('public.users'::regclass)") == "mine"
        assert destination_db.value("select count(*) from pg_indexes where indexname = 'own_index'") == 1
        assert destination_db.value("select count(*) from pg_publication_tables where tablename = 'users'") == 1
    finally:
        destination_db.execute("drop owned by reader_of_users; drop role reader_of_users")


def test_a_table_whose_deletions_cannot_be_published_is_left_as_it_is(destination_db):
    sync(destination_db, catalog("overwrite", 1), records(OLD))
    destination_db.execute("create publication p for table public.users")
    outcome = write(destination_db, catalog("overwrite", 2), records(NEW) + status())
    assert outcome.exit_code == 1
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert 'alter table "public"."users" replica identity full;' in outcome.error["message"]
    assert users(destination_db) == ALL_OLD


def test_a_publication_of_all_tables_asks_nothing_of_the_connectors_own(destination_db):
    destination_db.execute("create publication p for all tables")
    row = {"id": 1, "name": "a", "_ab_cdc_lsn": 1}
    deletion = {"id": 1, "_ab_cdc_lsn": 2, "_ab_cdc_deleted_at": "2024-01-01T00:00:00Z"}

    def refresh(generation: int, minimum: int) -> Any:
        return one(USERS_CDC, "append_dedup", generation=generation, minimum=minimum)

    sync(destination_db, refresh(1, 0), record(row))
    for table in ("public.users", "airbyte_internal.public_raw__stream_users"):
        outcome = write(destination_db, refresh(2, 2), record(row) + status())
        assert outcome.error is not None
        assert outcome.error["failure_type"] == "config_error"
        named = ".".join(f'"{part}"' for part in table.split("."))
        assert f"alter table {named} replica identity full;" in outcome.error["message"]
        destination_db.execute(f"alter table {table} replica identity full")
    for lsn in (2, 3):
        sync(destination_db, refresh(1, 0), record({**deletion, "_ab_cdc_lsn": lsn}))
    for generation in (2, 3):
        # The same key twice, in a flush each: rows are deleted from what is built aside, too.
        lines = record(row) + state(1) + record({**row, "_ab_cdc_lsn": 2}) + state(2) + record({**deletion, "id": 2})
        sync(destination_db, refresh(generation, generation), lines, flush_bytes=1)
    assert users(destination_db) == [(1, "a")]


@pytest.mark.parametrize("destination", ["overwrite", "append", "append_dedup"])
def test_a_broken_refresh_leaves_the_old_generation_and_a_later_one_replaces_it(destination_db, destination):
    sync(destination_db, catalog(destination, 1), records(OLD))
    broken(destination_db, catalog(destination, 2), record({"id": 9, "name": "broken"}))
    assert users(destination_db) == ALL_OLD
    sync(destination_db, catalog(destination, 3), records(NEW))
    assert users(destination_db) == ALL_NEW
    assert raw_count(destination_db) == 2
    assert own_tables(destination_db) == set()


@pytest.mark.parametrize(
    ("destination", "resumable"), [("append", False), ("append_dedup", False), ("overwrite", True)]
)
def test_a_resumed_refresh_keeps_what_it_had_acknowledged(destination_db, destination, resumable):
    sync(destination_db, catalog(destination, 1, resumable=resumable), records(OLD))
    broken(destination_db, catalog(destination, 2, resumable=resumable), records(NEW[:1]))
    assert users(destination_db) == ALL_OLD
    sync(destination_db, catalog(destination, 2, resumable=resumable), records(NEW[1:]))
    assert users(destination_db) == ALL_NEW
    assert raw_count(destination_db) == 2


@pytest.mark.parametrize("prior", [OLD, []])
@pytest.mark.parametrize(
    ("resumable", "said"), [(False, state(1)), (True, state(1, None)), (True, state(1, "others")), (True, b"")]
)
def test_an_overwrite_that_cannot_be_resumed_begins_anew(destination_db, prior, resumable, said):
    # Either it says so itself, or no STATE told how far it was: its source has nothing to go on from.
    def of(generation: int) -> Any:
        return merged(catalog("overwrite", generation, resumable=resumable), one(stream("others", {"id": "integer"})))

    done = status() + status("others")
    write(destination_db, of(1), records(prior) + done)
    outcome = write(destination_db, of(2), record({"id": 9, "name": "broken"}) + said)
    assert outcome.exit_code == 1, outcome
    assert write(destination_db, of(2), records(NEW) + done).exit_code == 0
    assert users(destination_db) == ALL_NEW
    assert raw_count(destination_db) == 2


def test_a_first_load_is_visible_while_it_goes_on_and_is_resumed_in_place(destination_db):
    broken(destination_db, catalog("append", 1), records(NEW[:1]))
    assert users(destination_db) == [(2, "new")]
    sync(destination_db, catalog("append", 1), records(NEW[1:]))
    assert users(destination_db) == ALL_NEW


@pytest.mark.parametrize("generation", [2, 3])
def test_a_cancelled_refresh_followed_by_a_normal_sync_loses_nothing(destination_db, generation):
    sync(destination_db, catalog("append", 1), records(OLD))
    broken(destination_db, catalog("append", 2), records(NEW[:1]))
    sync(destination_db, catalog("append", generation, minimum=0), records(NEW[1:]))
    assert users(destination_db) == sorted([*ALL_OLD, *ALL_NEW])
    assert raw_count(destination_db) == 4
    assert own_tables(destination_db) == set()


def test_a_cancelled_refresh_of_a_deduplicated_stream_loses_nothing_either(destination_db):
    def cdc(generation: int, minimum: int) -> Any:
        return one(USERS_CDC, "append_dedup", generation=generation, minimum=minimum)

    def change(number: int, lsn: int, name: str | None) -> bytes:
        deleted = {"_ab_cdc_deleted_at": "2024-01-01T00:00:00Z"} if name is None else {}
        return record({"id": number, "name": name, "_ab_cdc_lsn": lsn, **deleted})

    old = b"".join(change(number, 10, "old") for number in range(5)) + change(5, 50, "kept") + change(6, 5, None)
    sync(destination_db, cdc(1, 0), old)
    # Of the refresh: a newer row, an older one, a deletion, a deletion that is too old, a row under an old deletion.
    aside = [
        change(1, 20, "new"),
        change(5, 20, "late"),
        change(2, 20, None),
        change(5, 21, None),
        change(6, 4, "late"),
    ]
    broken(destination_db, cdc(2, 2), b"".join(aside))
    assert users(destination_db)[1:3] == [(1, "old"), (2, "old")]
    # The deletion of the refresh still counts against what comes late now.
    sync(destination_db, cdc(2, 0), change(3, 30, "newest") + change(2, 15, "late"))
    assert users(destination_db) == [(0, "old"), (1, "new"), (3, "newest"), (4, "old"), (5, "kept")]
    assert own_tables(destination_db) == set()


def test_the_same_generation_that_is_complete(destination_db):
    """PyAirbyte says 1/1 in every sync: append keeps and adds, overwrite replaces."""
    for _ in range(2):
        sync(destination_db, catalog("append", 1), records(OLD[:1]))
    assert users(destination_db) == [(1, "old")] * 2
    for _ in range(2):
        sync(destination_db, catalog("overwrite", 1), records(NEW))
    assert users(destination_db) == ALL_NEW


def test_tombstones_of_the_replaced_generation_do_not_reach_into_the_new_one(destination_db):
    deletion = {"id": 1, "_ab_cdc_lsn": 100, "_ab_cdc_deleted_at": "2024-01-01T00:00:00Z"}
    row = {"id": 1, "name": "a", "_ab_cdc_lsn": 1}
    sync(destination_db, one(USERS_CDC, "append_dedup", generation=1, minimum=0), record(deletion))
    # The source began anew (another server, another count of LSNs).
    sync(destination_db, one(USERS_CDC, "append_dedup", generation=2, minimum=2), record(row))
    assert users(destination_db) == [(1, "a")]
    sync(destination_db, one(USERS_CDC, "append_dedup", generation=2, minimum=0), record({**row, "id": 2}))
    assert users(destination_db) == [(1, "a"), (2, "a")]


def test_tombstones_alone_are_something_to_replace(destination_db):
    deletion = {"id": 1, "_ab_cdc_lsn": 100, "_ab_cdc_deleted_at": "2024-01-01T00:00:00Z"}
    sync(destination_db, one(USERS_CDC, "append_dedup", generation=1, minimum=0), record(deletion))
    destination_db.execute("truncate airbyte_internal.public_raw__stream_users")
    row = {"id": 1, "name": "a", "_ab_cdc_lsn": 1}
    sync(destination_db, one(USERS_CDC, "append_dedup", generation=2, minimum=2), record(row))
    sync(destination_db, one(USERS_CDC, "append_dedup", generation=2, minimum=0), record(row))
    assert users(destination_db) == [(1, "a")]


@pytest.mark.parametrize("has_row", [True, False], ids=["rows", "tombstones alone"])
def test_tombstones_go_with_their_rows_when_the_mode_changes(destination_db, has_row):
    deletion = {"id": 1, "_ab_cdc_lsn": 100, "_ab_cdc_deleted_at": "2024-01-01T00:00:00Z"}
    row = {"id": 1, "name": "a", "_ab_cdc_lsn": 1}
    first = [deletion, *([{**row, "id": 2}] if has_row else [])]
    sync(destination_db, one(USERS_CDC, "append_dedup", generation=1), records(first), raw_retention="none")
    sync(destination_db, one(USERS_CDC, "append", generation=2, minimum=2), record(row), raw_retention="none")
    sync(destination_db, one(USERS_CDC, "append_dedup", generation=2), b"", raw_retention="none")
    assert users(destination_db) == [(1, "a")]


def test_tables_that_the_ledger_knows_nothing_of_do_not_get_into_a_new_generation(destination_db):
    """Somebody has dropped the ledger in the middle of a refresh."""
    sync(destination_db, catalog("append", 1), records(OLD))
    broken(destination_db, catalog("append", 2), record({"id": 9, "name": "broken"}))
    destination_db.execute("drop table airbyte_internal._airbyte_pg_ledger")
    sync(destination_db, catalog("append", 2), records(NEW))
    assert users(destination_db) == ALL_NEW


def test_streams_are_completed_each_by_itself(destination_db):
    orders = {**USERS, "name": "orders"}

    def both(generation: int) -> Any:
        streams = [
            one(of, "overwrite", generation=generation, minimum=generation)["streams"][0] for of in (USERS, orders)
        ]
        return {"streams": streams}

    sync(destination_db, both(1), records(OLD) + records(OLD, "orders"))
    lines = records(NEW) + records(NEW, "orders") + state(1, None) + status("users")
    outcome = write(destination_db, both(2), lines)
    assert outcome.exit_code == 1
    assert users(destination_db) == ALL_NEW
    assert destination_db.rows("select id, name from public.orders order by 1") == ALL_OLD


def test_a_killed_swap_leaves_the_old_generation(destination_db):
    sync(destination_db, catalog("append", 1), records(OLD))
    blocker = destination_db.connect()
    blocker.autocommit = False
    with (
        connector.start(
            DESTINATION,
            "write",
            config=destination_db.config(schema="public", flush_seconds=0.2),
            catalog=catalog("append", 2),
        ) as running,
        blocker.cursor() as cursor,
    ):
        running.write(records(NEW) + state(1))
        running.wait_for(lambda message: message["type"] == "STATE")
        # Readers are not in the way of the swap; this lock is.
        cursor.execute("lock table public.users in share mode")
        running.write(status())
        running.close_stdin()
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ~ 'delete from'"
        wait_until(lambda: destination_db.value(waiting) == 1, 30, "the swap waits for the lock")
        running.kill()
        blocker.rollback()
    blocker.close()
    assert users(destination_db) == ALL_OLD
    # The platform resumes it with the same ids; the source has nothing more to send.
    sync(destination_db, catalog("append", 2), b"")
    assert users(destination_db) == ALL_NEW
