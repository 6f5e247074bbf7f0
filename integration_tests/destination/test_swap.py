"""The new generation takes the old one's place: what is the user's stays, and no reader sees anything in between.

A table with nothing of the user's is renamed in (its oid is another one), any other keeps its place and has its rows
exchanged.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from integration_tests.destination.writing import (
    ALL_NEW,
    ALL_OLD,
    EMITTED_AT,
    NEW,
    OLD,
    USERS,
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
from integration_tests.support.databases import Database


def catalog(generation: int, destination: str = "overwrite", of: Any = USERS) -> Any:
    return one(of, destination, sync_mode="full_refresh", generation=generation, minimum=generation)


def oid(db: Database, table: str = "public.users") -> int:
    return int(db.value("select %s::regclass::oid", table))


@pytest.mark.parametrize("destination", ["overwrite", "append", "append_dedup"])
def test_a_table_with_nothing_of_the_users_is_renamed_in(destination_db, destination):
    sync(destination_db, catalog(1, destination), records({"id": number, "name": "x"} for number in range(3000)))
    raw = "airbyte_internal.public_raw__stream_users"
    before = {table: oid(destination_db, table) for table in ("public.users", raw)}
    indexes = "select indexname, indexdef from pg_indexes where tablename = 'users' order by 1"
    found = destination_db.rows(indexes)
    sync(destination_db, catalog(2, destination), records(NEW))
    assert users(destination_db) == ALL_NEW
    assert raw_count(destination_db) == 2
    assert before.items().isdisjoint({table: oid(destination_db, table) for table in before}.items())
    assert destination_db.value("select pg_relation_size('public.users')") == 8192
    assert destination_db.rows(indexes) == found
    assert destination_db.value("select relreplident from pg_class where oid = 'public.users'::regclass") == "d"
    assert own_tables(destination_db) == set()
    # And what comes then is written to it as to any other.
    sync(destination_db, one(USERS, destination, generation=2), record({"id": 3, "name": "newest"}))
    assert (3, "newest") in users(destination_db)


def test_a_table_with_wide_keys_is_renamed_in(destination_db):
    keyed = stream("users", {"id": "string", "name": "string"}, key=["id"])
    wide = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(4000))
    for generation in (1, 2, 3):
        rows = [{"id": wide, "name": "a"}, {"id": "b", "name": "c"}]
        sync(destination_db, catalog(generation, "append_dedup", keyed), records(rows))
    sync(destination_db, one(keyed, "append_dedup", generation=3), record({"id": wide, "name": "d"}))
    assert users(destination_db, "length(id), name") == [(1, "c"), (4000, "d")]
    assert len(destination_db.rows("select from pg_indexes where tablename = 'users'")) == 1


class Own(NamedTuple):
    """Something of the user's on a table: how it is made, and what is true as long as it is there."""

    made: str
    there: str
    unmade: str = ""


ROLE = "create role reader_of_{schema};"
NO_ROLE = "drop owned by reader_of_{schema}; drop role reader_of_{schema}"
OWN = {
    "view": Own("create view names as select name from users", "select count(*) = 2 from names"),
    "materialised view": Own(
        "create materialized view names as select name from users", "select count(*) = 2 from names"
    ),
    "view of the row": Own("create view v as select u from users u", "select count(*) = 2 from v"),
    "grant": Own(
        ROLE + "grant select on users to reader_of_{schema}",
        "select has_table_privilege('reader_of_{schema}', 'users', 'select')",
        NO_ROLE,
    ),
    "grant on a column": Own(
        ROLE + "grant select (name) on users to reader_of_{schema}",
        "select has_column_privilege('reader_of_{schema}', 'users', 'name', 'select')",
        NO_ROLE,
    ),
    "comment": Own("comment on table users is 'mine'", "select obj_description('users'::regclass) = 'mine'"),
    "comment on a column": Own(
        "comment on column users.name is 'mine'", "select col_description('users'::regclass, 2) = 'mine'"
    ),
    "index": Own(
        "create index own_index on users (name)", "select exists (select from pg_indexes where indexname = 'own_index')"
    ),
    "unique index": Own(
        "create unique index own_index on users (id)",
        "select indisunique from pg_index where indexrelid = 'own_index'::regclass",
    ),
    "index of the connector's with a comment": Own(
        "do $$ begin execute 'comment on index ' || quote_ident((select indexname from pg_indexes where tablename "
        "= 'users' and schemaname = '{schema}')) || ' is ''of an index'''; end $$",
        "select count(*) = 1 from pg_description where description = 'of an index'",
    ),
    "primary key": Own(
        "alter table users add primary key (id)",
        "select exists (select from pg_constraint where contype = 'p' and conrelid = 'users'::regclass)",
    ),
    "check": Own(
        "alter table users add check (id > 0)",
        "select exists (select from pg_constraint where contype = 'c' and conrelid = 'users'::regclass)",
    ),
    "not null": Own(
        "alter table users alter id set not null",
        "select attnotnull from pg_attribute where attrelid = 'users'::regclass and attname = 'id'",
    ),
    "default": Own(
        "alter table users alter name set default 'x'",
        "select exists (select from pg_attrdef where adrelid = 'users'::regclass)",
    ),
    "trigger": Own(
        "create function noop() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger t before insert on users for each row execute function noop()",
        "select exists (select from pg_trigger where tgname = 't')",
    ),
    "rule": Own(
        "create rule r as on update to users do also select 1",
        "select exists (select from pg_rules where rulename = 'r')",
    ),
    "policy": Own("create policy p on users using (true)", "select exists (select from pg_policy)"),
    "row security": Own(
        "alter table users enable row level security",
        "select relrowsecurity from pg_class where oid = 'users'::regclass",
    ),
    "statistics": Own("create statistics s on id, name from users", "select exists (select from pg_statistic_ext)"),
    "statistics target": Own(
        "alter table users alter name set statistics 7",
        "select attstattarget = 7 from pg_attribute where attrelid = 'users'::regclass and attname = 'name'",
    ),
    "storage parameter": Own(
        "alter table users set (fillfactor = 50)",
        "select reloptions is not null from pg_class where oid = 'users'::regclass",
    ),
    "storage parameter of toast": Own(
        "alter table users set (toast.autovacuum_enabled = false)",
        "select exists (select from pg_class where relkind = 't' and reloptions is not null)",
    ),
    "replica identity": Own(
        "alter table users replica identity full",
        "select relreplident = 'f' from pg_class where oid = 'users'::regclass",
    ),
    "publication": Own(
        "alter table users replica identity full; create publication p for table users",
        "select count(*) = 1 from pg_publication_tables where schemaname = '{schema}'",
    ),
    "publication of the schema": Own(
        "alter table users replica identity full; create publication s for tables in schema {schema}",
        "select count(*) = 1 from pg_publication_tables where schemaname = '{schema}'",
    ),
    "row type in a function": Own(
        "create function f(u users) returns text language sql as $$ select u.name $$",
        "select bool_and(f(u) = 'new') from users u",
    ),
    "row type in a table": Own("create table other (u users)", "select count(*) = 0 from other where (u).name = 'x'"),
    "heirs": Own(
        "create table parent (like users); alter table users inherit parent", "select count(*) = 2 from parent"
    ),
    "owner": Own(
        "create role owner_of_users; grant create, usage on schema {schema} to owner_of_users;"
        "alter table users owner to owner_of_users",
        "select pg_get_userbyid(relowner) = 'owner_of_users' from pg_class where oid = 'users'::regclass",
        "reassign owned by owner_of_users to postgres; drop owned by owner_of_users; drop role owner_of_users",
    ),
    "another order of columns": Own(
        "alter table users drop column name; alter table users add column name varchar",
        "select attnum > 4 from pg_attribute where attrelid = 'users'::regclass and attname = 'name'",
    ),
}


def test_what_is_the_users_survives(destination_db):
    """Each thing on a table of its own, all of them in each sync: full refresh | overwrite, then a truncate refresh."""
    schemas = {f"s{number}": own for number, own in enumerate(OWN.values())}

    def sync_all(generation: int, destination: str, rows: Sequence[Mapping[str, Any]]) -> None:
        catalogs = [catalog(generation, destination, {**USERS, "namespace": schema}) for schema in schemas]
        lines = b"".join(records(rows, namespace=schema) for schema in schemas)
        sync(destination_db, merged(*catalogs), lines)

    sync_all(1, "append_dedup", OLD)
    before = {schema: oid(destination_db, f"{schema}.users") for schema in schemas}
    try:
        for schema, own in schemas.items():
            destination_db.execute(f"set search_path = {schema}")
            destination_db.execute(own.made.replace("{schema}", schema))
        for generation, destination in ((2, "overwrite"), (3, "append_dedup")):
            sync_all(generation, destination, NEW)
            for schema, own in schemas.items():
                destination_db.execute(f"set search_path = {schema}")
                if "materialized" in own.made:
                    destination_db.execute("refresh materialized view names")
                assert destination_db.rows("select id, name from users order by 1") == ALL_NEW, own
                assert destination_db.value(own.there.replace("{schema}", schema)) is True, own
                assert oid(destination_db, "users") == before[schema], own
        assert own_tables(destination_db) == set()
    finally:
        for schema, own in schemas.items():
            if own.unmade:
                destination_db.execute(own.unmade.replace("{schema}", schema))


def test_who_decodes_without_a_publication_is_sent_the_rows_that_change(destination_db):
    sync(destination_db, catalog(1), records(OLD))
    before = oid(destination_db)
    destination_db.execute("select pg_create_logical_replication_slot('own_slot', 'pgoutput')")
    sync(destination_db, catalog(2), records(NEW))
    assert users(destination_db) == ALL_NEW
    assert oid(destination_db) == before


@pytest.mark.parametrize("holder", ["an open transaction", "an old snapshot", "somebody who waits for nobody"])
def test_whoever_reads_keeps_seeing_the_old_rows(destination_db, holder):
    sync(destination_db, catalog(1), records(OLD))
    before = oid(destination_db)
    reader = destination_db.connect()
    reader.autocommit = False
    query = "select id, name from public.users order by 1"
    with reader.cursor() as cursor:
        if holder != "somebody who waits for nobody":
            cursor.execute("set transaction isolation level repeatable read")
            # The snapshot is taken here; the table is first looked at behind the swap.
            cursor.execute(query if holder == "an open transaction" else "select 1")
        sync(destination_db, catalog(2), records(NEW))
        cursor.execute(query)
        seen = cursor.fetchall()
    reader.close()
    is_free = holder == "somebody who waits for nobody"
    assert seen == (ALL_NEW if is_free else ALL_OLD)
    assert (oid(destination_db) != before) == is_free
    assert users(destination_db) == ALL_NEW


def test_the_swap_waits_for_no_reader_and_keeps_none_waiting(destination_db):
    sync(destination_db, catalog(1), records(OLD))
    with destination_db.connect() as reader, reader.cursor() as cursor:
        cursor.execute("begin; lock table public.users in row exclusive mode")
        sync(destination_db, catalog(2), records(NEW))
        cursor.execute("rollback")
    assert users(destination_db) == ALL_NEW


CHANGED = stream("users", {"id": "integer", "name": "integer", "extra": "string"}, key=["id"])
CHANGED_ROWS = [(1, 7, "x")]


def change_columns(db: Database, **options: Any) -> connector.Outcome:
    lines = record({"id": 1, "name": 7, "extra": "x"}) + status()
    return write(db, catalog(2, of=CHANGED), lines, **options)


def test_a_replaced_table_gets_the_streams_columns_and_keeps_what_does_not_depend_on_the_old(destination_db):
    gone = stream("users", {"id": "integer", "name": "string", "gone": "string"}, key=["id"])
    sync(destination_db, catalog(1, of=gone), records(OLD))
    destination_db.execute(
        "create view public.ids as select id from public.users; comment on table public.users is 'mine';"
        "alter table public.users add column twice bigint generated always as (id * 2) stored;"
        "create index own_index on public.users (id)"
    )
    before = oid(destination_db)
    reader = destination_db.connect()
    reader.autocommit = False
    with reader.cursor() as cursor:
        cursor.execute("set transaction isolation level repeatable read")
        cursor.execute("select 1")
        outcome = change_columns(destination_db)
        assert outcome.exit_code == 0, outcome
        cursor.execute("select id from public.users order by 1")
        assert cursor.fetchall() == [(1,), (2,)]
    reader.close()
    assert destination_db.rows("select id, name, extra from public.users") == CHANGED_ROWS
    assert destination_db.rows("select twice, name + 1 from public.users") == [(2, 8)]
    assert destination_db.rows("select id from public.ids") == [(1,)]
    assert oid(destination_db) == before
    columns = "select column_name from information_schema.columns where table_name = 'users'"
    assert ("gone",) not in destination_db.rows(columns)
    assert destination_db.value("select obj_description('public.users'::regclass)") == "mine"
    assert destination_db.value("select to_regclass('public.own_index') is not null")


def test_a_plain_table_with_other_columns_is_replaced(destination_db):
    sync(destination_db, catalog(1), records(OLD))
    assert change_columns(destination_db).exit_code == 0
    assert destination_db.rows("select id, name, extra from public.users") == CHANGED_ROWS


def test_an_empty_table_gets_the_streams_columns(destination_db):
    sync(destination_db, catalog(1), b"")
    assert change_columns(destination_db).exit_code == 0
    assert destination_db.rows("select id, name, extra from public.users") == CHANGED_ROWS


@pytest.mark.parametrize("rows", [OLD, []], ids=["rows", "empty"])
def test_what_depends_on_a_column_that_must_go_is_named_before_anything_is_loaded(destination_db, rows):
    sync(destination_db, catalog(1), records(rows))
    destination_db.execute(
        "create view public.names as select name from public.users; create materialized view public.more as"
        " select name || 'x' as named from public.users; create view public.above as select * from public.names"
    )
    outcome = change_columns(destination_db)
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "public.more (name), public.names (name)" in outcome.error["message"]
    assert "drop_cascade" in outcome.error["message"]
    assert outcome.states == []
    assert users(destination_db) == (ALL_OLD if rows else [])
    outcome = change_columns(destination_db, drop_cascade=True)
    assert outcome.exit_code == 0, outcome
    assert destination_db.rows("select id, name, extra from public.users") == CHANGED_ROWS
    assert destination_db.value("select to_regclass('public.above') is null")


def test_numbers_that_a_view_keeps_from_being_widened(destination_db):
    numbers = stream("users", {"id": "integer", "n": "number"}, key=["id"])
    sync(destination_db, catalog(1, of=numbers), record({"id": 1, "n": 1}), unconstrained_number=False)
    destination_db.execute("create view public.sums as select n from public.users")
    for of in (one(numbers), catalog(2, of=numbers)):
        outcome = write(destination_db, of, record({"id": 1, "n": 0.12345678901}) + status())
        assert outcome.error is not None
        assert outcome.error["failure_type"] == "config_error"
        assert "public.sums (n)" in outcome.error["message"]
    destination_db.execute("drop view public.sums; create index own_index on public.users (n)")
    sync(destination_db, catalog(2, of=numbers), record({"id": 1, "n": 0.12345678901}))
    assert str(destination_db.value("select n from public.users")) == "0.12345678901"
    assert destination_db.value("select to_regclass('public.own_index') is not null")


def test_a_replaced_stream_may_change_its_key(destination_db):
    sync(destination_db, catalog(1, "append_dedup"), records(OLD))
    by_name = stream("users", {"id": "integer", "name": "string"}, key=["name"])
    destination_db.execute("comment on table public.users is 'mine'")
    lines = records(NEW) + state(1)
    outcome = write(destination_db, catalog(2, "append_dedup", by_name), lines)
    assert outcome.exit_code == 1
    # Not before it is complete: the rows that are seen are still those of the old rule.
    assert users(destination_db) == ALL_OLD
    sync(destination_db, catalog(2, "append_dedup", by_name), b"")
    assert users(destination_db) == [(3, "new")]
    sync(destination_db, one(by_name, "append_dedup", generation=2), record({"id": 9, "name": "new"}))
    assert users(destination_db) == [(9, "new")]
    assert len(destination_db.rows("select from pg_indexes where tablename = 'users'")) == 1


def test_a_cancelled_refresh_with_another_key_is_brought_under_the_rule_of_the_sync_that_follows(destination_db):
    old = [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]
    sync(destination_db, catalog(1, "append_dedup"), records(old))
    by_name = stream("users", {"id": "integer", "name": "string"}, key=["name"])
    lines = records([{"id": 1, "name": "b"}, {"id": 1, "name": "c"}], emitted_at=EMITTED_AT + 1) + state(1)
    assert write(destination_db, catalog(2, "append_dedup", by_name), lines).exit_code == 1
    sync(destination_db, one(by_name, "append_dedup", generation=2), b"")
    assert [name for _, name in users(destination_db)] in (["a", "b", "c"], ["b", "c", "a"])
    assert len(users(destination_db)) == 3


class Step(NamedTuple):
    """One sync of a story: ids, rows, whether it is completed; what is visible behind it, and before its own rows."""

    generation: int | None
    minimum: int | None
    rows: list[dict[str, Any]]
    visible: list[tuple[Any, ...]]
    complete: bool = True
    at_first: list[tuple[Any, ...]] | None = None


def _rows(generation: str, *ids: int) -> list[dict[str, Any]]:
    return [{"id": number, "name": generation} for number in ids]


def _seen(generation: str, *ids: int) -> list[tuple[Any, ...]]:
    return [(number, generation) for number in ids]


FIRST = Step(1, 0, _rows("g1", 1, 2), _seen("g1", 1, 2))
BROKEN = Step(2, 2, _rows("g2", 3, 4), FIRST.visible, complete=False)
# Acknowledged rows of a broken refresh come to those that it was to replace.
ADOPTED = _seen("g1", 1, 2) + _seen("g2", 3, 4)
# Reference 2.7, line by line. No key comes twice, so that the append modes and append_dedup tell one story.
STORIES: dict[str, list[Step]] = {
    "normal": [FIRST, Step(1, 0, _rows("g1", 3), _seen("g1", 1, 2, 3))],
    "merge refresh": [FIRST, Step(2, 0, _rows("g2", 3, 4), _seen("g1", 1, 2) + _seen("g2", 3, 4))],
    "truncate refresh": [FIRST, Step(2, 2, _rows("g2", 3, 4), _seen("g2", 3, 4))],
    "clear": [FIRST, Step(2, 2, [], [])],
    "resumed": [FIRST, BROKEN, Step(2, 2, _rows("g2", 5), _seen("g2", 3, 4, 5))],
    "resumed with nothing more": [FIRST, BROKEN, Step(2, 2, [], _seen("g2", 3, 4))],
    "broken twice": [
        FIRST,
        BROKEN,
        BROKEN._replace(rows=_rows("g2", 5)),
        Step(2, 2, _rows("g2", 6), _seen("g2", 3, 4, 5, 6)),
    ],
    "cancelled": [
        FIRST,
        BROKEN,
        Step(2, 0, _rows("g2", 5), _seen("g1", 1, 2) + _seen("g2", 3, 4, 5), at_first=ADOPTED),
    ],
    "cancelled and refreshed": [
        FIRST,
        BROKEN,
        Step(2, 0, [], _seen("g1", 1, 2) + _seen("g2", 3, 4)),
        Step(3, 3, _rows("g3", 5), _seen("g3", 5)),
    ],
    "superseded": [FIRST, BROKEN, Step(3, 3, _rows("g3", 5, 6), _seen("g3", 5, 6))],
    "superseded by a merge": [
        FIRST,
        BROKEN,
        Step(3, 0, _rows("g3", 5), [*ADOPTED, (5, "g3")], at_first=ADOPTED),
    ],
    "first load in parts": [
        Step(1, 1, _rows("g1", 1), _seen("g1", 1), complete=False),
        Step(1, 1, _rows("g1", 2), _seen("g1", 1, 2)),
        Step(2, 2, _rows("g2", 3), _seen("g2", 3)),
    ],
    "no ids": [Step(None, None, _rows("g", 1), _seen("g", 1)), Step(None, None, _rows("g", 2), _seen("g", 1, 2))],
}


# Each story is told in four tables at once: what is renamed in, and what is not, in both modes.
KINDS = [(f"{mode}_{kind}", mode, kind) for mode in ("append", "append_dedup") for kind in ("plain", "viewed")]


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_readers_see_one_generation_or_the_next_one_whole(destination_db, story):
    play(destination_db, story[0])
    for schema, _, kind in KINDS:
        if kind == "viewed":
            destination_db.execute(f"create view {schema}.names as select name from {schema}.users")
    with watched(destination_db) as seen:
        for step in story[1:]:
            play(destination_db, step)
    allowed = [step.visible for step in story] + [step.at_first for step in story if step.at_first is not None]
    for schema, _, _ in KINDS:
        assert seen[schema] <= set(map(tuple, allowed))
        assert tuple(story[-1].visible) in seen[schema]
    assert own_tables(destination_db) == set()


def play(db: Database, step: Step) -> None:
    ids: dict[str, Any] = {"generation": step.generation, "minimum": step.minimum}
    of = merged(*(one({**USERS, "namespace": schema}, mode, **ids) for schema, mode, _ in KINDS))
    lines = b"".join(records(step.rows, namespace=schema) + state(1, namespace=schema) for schema, _, _ in KINDS)
    ends = b"".join(status(namespace=schema) for schema, _, _ in KINDS)
    outcome = write(db, of, lines + (ends if step.complete else b""))
    assert outcome.exit_code == (0 if step.complete else 1), outcome
    assert len(outcome.states) == len(KINDS)
    for schema, _, _ in KINDS:
        assert db.rows(f"select id, name from {schema}.users order by 1, 2") == step.visible


@contextlib.contextmanager
def watched(db: Database) -> Iterator[dict[str, set[tuple[Any, ...]]]]:
    """What two readers see of each of the tables as long as the body runs, and once behind it."""
    seen: dict[str, set[tuple[Any, ...]]] = {schema: set() for schema, _, _ in KINDS}
    over = threading.Event()
    failures: list[BaseException] = []

    def watch(isolation: str) -> None:
        try:
            with contextlib.closing(db.connect()) as connection, connection.cursor() as cursor:
                last = False
                while not last:
                    last = over.is_set()
                    cursor.execute(f"begin isolation level {isolation}")
                    # The tables are looked at one after the other, so with an older and older snapshot.
                    cursor.execute("select 1")
                    for schema, rows in seen.items():
                        cursor.execute(f"select id, name from {schema}.users order by 1, 2")
                        rows.add(tuple(cursor.fetchall()))
                    cursor.execute("commit")
        except BaseException as failure:  # noqa: BLE001 - raised where the test is
            failures.append(failure)

    readers = [threading.Thread(target=watch, args=(level,)) for level in ("read committed", "repeatable read")]
    for reader in readers:
        reader.start()
    try:
        yield seen
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert not failures
