"""What an annoying user, another sync or another catalog does to a refresh: nothing is lost, and nothing doubles."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from integration_tests.destination.writing import (
    ALL_NEW,
    ALL_OLD,
    NEW,
    OLD,
    USERS,
    USERS_CDC,
    is_state,
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
from integration_tests.support.connector import DESTINATION, Outcome
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded, wait_until

RETYPED = stream("users", {"id": "integer", "name": "integer"}, key=["id"])
EXTRA = stream("users", {"id": "integer", "name": "string", "extra": "string"}, key=["id"])


def refresh(generation: int | None, mode: str = "overwrite", of: Any = USERS) -> Any:
    return one(of, mode, sync_mode="full_refresh", generation=generation, minimum=generation)


def expect_config_error(outcome: Outcome, *texts: str) -> None:
    assert outcome.exit_code == 1, outcome
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error", outcome.error
    for text in texts:
        assert text in outcome.error["message"]


def test_an_acknowledged_deletion_of_a_cancelled_refresh_counts_in_append_mode_too(destination_db):
    def of(generation: int, minimum: int, mode: str = "append_dedup") -> Any:
        return one(USERS_CDC, mode, generation=generation, minimum=minimum)

    deletion = {"id": 1, "_ab_cdc_lsn": 6, "_ab_cdc_deleted_at": "2024-01-01T00:00:00Z"}
    sync(destination_db, of(1, 0), record({"id": 1, "name": "old", "_ab_cdc_lsn": 5}))
    assert write(destination_db, of(2, 2), record(deletion) + state(1)).exit_code == 1
    sync(destination_db, of(2, 0, "append"), b"")
    assert own_tables(destination_db) == set()
    sync(destination_db, of(2, 0), b"")
    assert users(destination_db) == []


@pytest.mark.parametrize("destination", ["overwrite", "append"])
def test_an_attempt_that_still_runs_does_not_go_on_with_the_generation_of_the_next_one(destination_db, destination):
    sync(destination_db, refresh(1, destination), records(OLD))
    config = destination_db.config(schema="public", flush_rows=1)
    of = refresh(2, destination)
    with connector.start(DESTINATION, "write", config=config, catalog=of) as first:
        first.write(records(NEW[:1]) + state(1))
        first.wait_for(is_state)
        with connector.start(DESTINATION, "write", config=config, catalog=of) as second:
            second.write(state(0))
            second.wait_for(is_state)
            first.write(records(NEW[1:]) + state(2) + status())
            late = first.finish()
            second.write(records(NEW[1:] if destination == "append" else NEW) + state(2) + status())
            outcome = second.finish()
    assert late.exit_code == 1
    assert late.error is not None
    assert late.error["failure_type"] == "transient_error"
    assert len(late.states) == 1
    assert outcome.exit_code == 0, outcome
    assert users(destination_db) == ALL_NEW


def test_another_generations_sync_leaves_what_a_broken_one_has_acknowledged(destination_db):
    sync(destination_db, refresh(2, "append"), records(OLD))
    broken = record({"id": 9, "name": "acknowledged"}) + state(1)
    assert write(destination_db, refresh(3, "append"), broken).exit_code == 1
    sync(destination_db, refresh(2, "append"), record({"id": 10, "name": "g2"}))
    sync(destination_db, refresh(3, "append"), b"")
    assert users(destination_db) == [(9, "acknowledged")]
    assert own_tables(destination_db) == set()


@pytest.mark.parametrize("action", ["cascade", "set null", "set default"])
def test_rows_of_the_users_other_tables_are_not_deleted(destination_db, action):
    sync(destination_db, refresh(1), records(OLD))
    destination_db.execute(
        "alter table public.users add primary key (id);"
        f"create table public.orders (user_id bigint default null references public.users (id) on delete {action});"
        "insert into public.orders values (2)"
    )
    for of in (refresh(2), one(USERS, "append_dedup", generation=1)):
        outcome = write(destination_db, of, records(OLD) + status())
        expect_config_error(outcome, "orders_user_id_fkey of public.orders")
    sync(destination_db, one(USERS, "append", generation=1), record({"id": 7, "name": "new"}))
    assert destination_db.rows("select user_id from public.orders") == [(2,)]


@pytest.mark.parametrize(
    "kept",
    [
        "create rule r as on delete to public.users do instead nothing",
        "create function public.keep() returns trigger language plpgsql as 'begin return null; end';"
        "create trigger t before delete on public.users for each row execute function public.keep()",
    ],
    ids=["rule", "trigger"],
)
def test_rows_that_cannot_be_deleted_are_not_doubled(destination_db, kept):
    sync(destination_db, refresh(1), records(OLD))
    destination_db.execute(kept)
    expect_config_error(write(destination_db, refresh(2), records(NEW) + status()), "A rule or a trigger")
    assert users(destination_db) == ALL_OLD


def test_a_generation_of_a_catalog_without_ids_is_no_platforms(destination_db):
    sync(destination_db, refresh(None), records(OLD))
    sync(destination_db, refresh(1, "append"), records(NEW))
    assert users(destination_db) == ALL_NEW


def test_two_streams_that_are_one_table_are_refused(destination_db):
    bare = {key: value for key, value in USERS.items() if key != "namespace"}
    expect_config_error(write(destination_db, merged(one(), one(bare)), b""), "one table")


def test_what_goes_with_a_column_that_is_made_anew_is_named(destination_db):
    sync(destination_db, refresh(1), records(OLD))
    destination_db.execute(
        "create index by_name on public.users (name); alter table public.users add constraint pair unique (id, name);"
        "create statistics public.s on id, name from public.users; comment on column public.users.name is 'mine';"
        "alter table public.users add column shout text generated always as (upper(name)) stored;"
        "create role column_reader; grant select (name) on public.users to column_reader"
    )
    lines = record({"id": 1, "name": 7}) + status()
    try:
        outcome = write(destination_db, refresh(2, of=RETYPED), lines)
        texts = ["by_name", "constraint pair", "statistics object public.s", "shout", "privileges on the column (name)"]
        expect_config_error(outcome, *texts)
        assert users(destination_db) == ALL_OLD
        outcome = write(destination_db, refresh(2, of=RETYPED), lines, drop_cascade=True)
        assert outcome.exit_code == 0, outcome
        assert users(destination_db) == [(1, 7)]
        assert (
            destination_db.value(
                "select col_description('public.users'::regclass, attnum) from pg_attribute"
                " where attrelid = 'public.users'::regclass and attname = 'name'"
            )
            == "mine"
        )
    finally:
        destination_db.execute("drop owned by column_reader; drop role column_reader")


def test_a_table_that_is_made_by_a_refresh_has_its_schemas_privileges(destination_db):
    destination_db.execute(
        "create role schema_reader; alter default privileges in schema public grant select on tables to schema_reader"
    )
    try:
        sync(destination_db, refresh(1, "append"), records(OLD))
        destination_db.execute("drop table public.users")
        sync(destination_db, refresh(2, "append"), records(NEW))
        assert users(destination_db) == ALL_NEW
        assert destination_db.value("select has_table_privilege('schema_reader', 'public.users', 'select')")
    finally:
        destination_db.execute("drop owned by schema_reader; drop role schema_reader")


@pytest.mark.parametrize(
    "change",
    [
        "alter table public.users alter name set compression pglz",
        "do $$ begin execute 'alter index public.' || (select indexname from pg_indexes where tablename = 'users')"
        " || ' set (fillfactor = 50)'; end $$",
        "do $$ begin execute 'alter table public.users cluster on ' || (select indexname from pg_indexes"
        " where tablename = 'users'); end $$",
        "alter table public.users rename constraint users__airbyte_raw_id_not_null to mine",
    ],
    ids=["compression", "fill factor of our index", "cluster", "name of a constraint"],
)
def test_small_things_keep_a_table_in_its_place(destination_db, change):
    sync(destination_db, refresh(1, "append_dedup"), records(OLD))
    destination_db.execute(change)
    before = destination_db.value("select 'public.users'::regclass::oid")
    sync(destination_db, refresh(2, "append_dedup"), records(NEW))
    assert users(destination_db) == ALL_NEW
    assert destination_db.value("select 'public.users'::regclass::oid") == before


def test_a_reader_who_idles_keeps_no_other_reader_waiting(destination_db):
    sync(destination_db, refresh(1), records(OLD))
    idle = destination_db.connect()
    idle.autocommit = False
    with idle.cursor() as cursor:
        cursor.execute("select * from public.users")
        config = destination_db.config(schema="public")
        with connector.start(DESTINATION, "write", config=config, catalog=refresh(2, of=EXTRA)) as running:
            running.write(record({"id": 3, "name": "new", "extra": "x"}) + state(1) + status())
            running.close_stdin()
            waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ~ 'add column'"
            wait_until(lambda: destination_db.value(waiting) == 1, 30, "the swap waits for the reader")
            # Others get through between two attempts.
            assert destination_db.value("select count(*) from public.users") == 2
            running.terminate()
            wait_until(lambda: running.exit_code is not None, 10, "the connector has ended")
            assert running.exit_code == 128 + signal.SIGTERM
            wait_until(lambda: destination_db.value(waiting) == 0, 10, "its backend waits no longer")
    idle.rollback()
    idle.close()
    sync(destination_db, refresh(2, "append", of=EXTRA), b"")
    assert users(destination_db) == [(3, "new")]


def test_the_users_column_stays_through_empty_generations_and_ordinary_syncs(destination_db):
    sync(destination_db, refresh(1, "append"), records(OLD))
    destination_db.execute("alter table public.users add column twice bigint generated always as (id * 2) stored")
    for generation, rows in ((2, NEW), (3, []), (4, NEW)):
        sync(destination_db, refresh(generation, "append"), records(rows))
    sync(destination_db, one(USERS, "append", generation=4), record({"id": 4, "name": "x"}))
    assert destination_db.rows("select id, twice from public.users order by 1") == [(2, 4), (3, 6), (4, 8)]


def test_tombstones_of_an_empty_table_are_of_the_new_key(destination_db):
    sync(destination_db, refresh(1, "append_dedup", USERS_CDC), b"")
    by_text = stream("users", {"id": "string", "name": "string"}, key=["id"], cdc=True)
    row = {"id": "x", "name": "a", "_ab_cdc_lsn": 1}
    sync(destination_db, refresh(2, "append_dedup", by_text), record(row))
    assert users(destination_db) == [("x", "a")]


def test_one_swap_that_fails_keeps_no_other_stream_from_its_own(destination_db):
    orders = {**USERS, "name": "orders"}

    def both(generation: int) -> Any:
        return merged(refresh(generation, of=orders), refresh(generation))

    sync(destination_db, both(1), records(OLD) + records(OLD, "orders"))
    destination_db.execute("create unique index own on public.orders (name) where name = 'new'")
    lines = records(NEW) + records(NEW, "orders") + status("orders") + status()
    expect_config_error(write(destination_db, both(2), lines), "own")
    assert users(destination_db) == ALL_NEW
    assert destination_db.rows("select id, name from public.orders order by 1") == ALL_OLD


def test_constraints_that_are_checked_at_the_end_are_no_obstacle_to_new_columns(destination_db):
    sync(destination_db, refresh(1), records(OLD))
    destination_db.execute(
        "alter table public.users add primary key (id); create table public.orders (user_id bigint references"
        " public.users (id) deferrable initially deferred); insert into public.orders values (2)"
    )
    sync(destination_db, refresh(2, of=EXTRA), record({"id": 2, "name": "new", "extra": "x"}))
    assert destination_db.rows("select id, extra from public.users") == [(2, "x")]


@pytest.mark.parametrize(
    "publication",
    ["table public.users where (name <> 'x')", "table public.users (id, name)"],
    ids=["filter", "columns"],
)
def test_publications_that_do_not_let_rows_go_are_named(destination_db, publication):
    sync(destination_db, refresh(1), records(OLD))
    if "where" not in publication:
        destination_db.execute("alter table public.users replica identity full")
    destination_db.execute(f"create publication p for {publication}")
    expect_config_error(write(destination_db, refresh(2), records(NEW) + status()), "publication", "public.users")
    assert users(destination_db) == ALL_OLD


@pytest.mark.parametrize("generation", [1 << 63, -(1 << 63) - 1])
def test_a_generation_beyond_64_bits(destination_db, generation):
    expect_config_error(write(destination_db, one(USERS, generation=generation, minimum=0), b""), "64-bit")


def test_a_generation_whose_tables_somebody_has_dropped(destination_db):
    sync(destination_db, refresh(1, "append"), records(OLD))
    assert write(destination_db, refresh(2, "append"), records(NEW[:1]) + state(1)).exit_code == 1
    (name,) = [table for table in own_tables(destination_db) if "final_aside" in table]
    destination_db.execute(f"drop table airbyte_internal.{name}")
    expect_config_error(write(destination_db, refresh(2, "append"), records(NEW[1:]) + status()), name)
    sync(destination_db, refresh(3, "append"), records(NEW))
    assert users(destination_db) == ALL_NEW
    assert raw_count(destination_db) == 2


def test_an_input_without_a_line_completes_nothing(destination_db):
    sync(destination_db, refresh(1), records(OLD))
    outcome = write(destination_db, refresh(2), b"", require_stream_status=False)
    assert outcome.exit_code == 1
    assert users(destination_db) == ALL_OLD


@pytest.mark.parametrize("feedback", ["off", "on"])
def test_a_reader_of_a_standby_does_not_find_an_empty_table(feedback):
    with (
        Cluster(embedded(18)) as primary,
        primary.standby({"hot_standby_feedback": feedback}) as standby,
        Database(primary) as db,
    ):
        sync(db, refresh(1), records(OLD))

        def caught_up() -> bool:
            with standby.connect() as session, session.cursor() as cursor:
                cursor.execute(
                    "select pg_last_wal_replay_lsn() >= %s::pg_lsn", (db.value("select pg_current_wal_lsn()"),)
                )
                return bool((cursor.fetchone() or [False])[0])

        wait_until(caught_up, 30, "the standby has everything")
        reader = standby.connect(db.name)
        reader.autocommit = False
        with reader.cursor() as cursor:
            cursor.execute("set transaction isolation level repeatable read")
            cursor.execute("select 1")
            sync(db, refresh(2), records(NEW))
            wait_until(caught_up, 30, "the standby has everything")
            cursor.execute("select id, name from public.users order by 1")
            assert cursor.fetchall() == ALL_OLD
        reader.close()
