"""Columns that are new or of another type are filled from the stream's history; what is the user's stays."""

from __future__ import annotations

import contextlib
import random
import subprocess
import threading
from typing import Any

import pytest

from integration_tests.destination.writing import Json, one, record, records, state, status, sync, write
from integration_tests.pair.workload import seeds
from integration_tests.support import connector
from integration_tests.support.catalogs import stream
from integration_tests.support.connector import DESTINATION
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

MODES = ["append", "append_dedup"]


def catalog(columns: dict[str, str], mode: str, **more: Any) -> Json:
    return one(stream("users", {"id": "integer", **columns}, key=["id"]), mode, **more)


def rows(db: Database, columns: str) -> list[tuple[Any, ...]]:
    return db.rows(f"select {columns} from public.users order by id")


def types(db: Database) -> dict[str, str]:
    query = (
        "select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = 'public.users'::regclass"
        " and attnum > 0 and not attisdropped and attname !~ '^_airbyte_(raw|ext|gen|meta)'"
    )
    return dict(db.rows(query))


@pytest.mark.parametrize("mode", MODES)
def test_a_new_column_is_filled_from_what_came_for_it(destination_db, mode):
    given: list[Json] = [
        {"id": 1, "a": "x", "b": 7},
        {"id": 2, "a": "y", "b": "seven"},
        {"id": 3, "a": "z"},
        {"id": 4, "b": None},
    ]
    sync(destination_db, catalog({"a": "string"}, mode), records(given))
    sync(destination_db, catalog({"a": "string", "b": "integer"}, mode), record({"id": 5, "a": "w", "b": 9}))
    assert rows(destination_db, "id, a, b") == [
        (1, "x", 7),
        (2, "y", None),
        (3, "z", None),
        (4, None, None),
        (5, "w", 9),
    ]
    unfit = {"field": "b", "change": "NULLED", "reason": "DESTINATION_TYPECAST_ERROR"}
    metas = [meta["changes"] for (meta,) in rows(destination_db, "_airbyte_meta")]
    assert metas == [[], [unfit], [], [], []]
    assert destination_db.value("select refill from airbyte_internal._airbyte_pg_ledger") is None
    assert destination_db.rows("select 1 from pg_indexes where indexname ~ 'refill'") == []


# (type before, type now, values as they come, what is then read)
RETYPED: list[tuple[str, str, list[Any], list[Any]]] = [
    ("integer", "string", [42, -1, None], ["42", "-1", None]),
    ("string", "integer", ["42", "x", None], [42, None, None]),
    ("integer", "number", [42, 9007199254740993, None], ["42", "9007199254740993", None]),
    ("number", "integer", [42, 42.5, None], [42, None, None]),
    ("string", "timestamptz", ["2024-01-01T10:00:00Z", "no", None], ["2024-01-01 10:00:00+00", None, None]),
    ("string", "object", ['{"a": 1}', "x", None], [None, None, None]),
    ("object", "string", [{"a": [1, 2.50]}, {}, None], ['{"a": [1, 2.5]}', "{}", None]),
    ("boolean", "string", [True, False, None], ["true", "false", None]),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("before", "now", "given", "wanted"), RETYPED, ids=[f"{b}-{n}" for b, n, *_ in RETYPED])
def test_a_column_of_another_type_is_filled_anew(destination_db, mode, before, now, given, wanted):
    destination_db.execute("set timezone = 'UTC'")
    given_rows = [{"id": number, "v": value, "w": "w"} for number, value in enumerate(given)]
    sync(destination_db, catalog({"v": before, "w": "string"}, mode), records(given_rows))
    destination_db.execute(
        "create view public.others as select id, w from public.users; comment on column public.users.v is 'mine'"
    )
    destination_db.execute("create index own_index on public.users (w)")
    oid = destination_db.value("select 'public.users'::regclass::oid")
    sync(destination_db, catalog({"v": now, "w": "string"}, mode), b"")
    shown = [(value,) if value is None or now == "integer" else (str(value),) for value in wanted]
    assert rows(destination_db, "v" if now == "integer" else "v::text") == shown
    assert destination_db.rows("select id, w from public.others order by 1") == [(n, "w") for n in range(3)]
    assert destination_db.value("select 'public.users'::regclass::oid") == oid
    assert destination_db.value("select to_regclass('public.own_index') is not null")
    comment = (
        "select col_description(attrelid, attnum) from pg_attribute"
        " where attrelid = 'public.users'::regclass and attname = 'v'"
    )
    assert destination_db.value(comment) == "mine"
    assert set(types(destination_db)) == {"id", "v", "w"}
    sync(destination_db, catalog({"v": now, "w": "string"}, mode), record({"id": 9, "v": given[0]}))
    assert destination_db.value("select count(*) from public.users") == 4


def test_a_view_on_the_column_is_named_and_nothing_is_changed(destination_db):
    before, now = catalog({"v": "string"}, "append"), catalog({"v": "integer", "new": "string"}, "append")
    sync(destination_db, before, record({"id": 1, "v": "7", "new": "n"}))
    destination_db.execute("create view public.shown as select v from public.users")
    outcome = write(destination_db, now, record({"id": 2, "v": 8}) + state(1) + status())
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "public.shown (v)" in outcome.error["message"]
    assert types(destination_db) == {"id": "bigint", "v": "character varying"}
    destination_db.execute("drop view public.shown")
    sync(destination_db, now, record({"id": 2, "v": 8}))
    assert rows(destination_db, "id, v, new") == [(1, 7, "n"), (2, 8, None)]


@pytest.mark.parametrize("retention", ["none", "typed"])
def test_without_a_history_values_are_kept_where_nothing_is_lost(destination_db, retention):
    options = {"raw_retention": retention}
    sync(destination_db, catalog({"v": "integer"}, "append"), records([{"id": 1, "v": 42}, {"id": 2}]), **options)
    sync(destination_db, catalog({"v": "string", "new": "string"}, "append"), record({"id": 3, "v": "x"}), **options)
    assert rows(destination_db, "id, v, new") == [(1, "42", None), (2, None, None), (3, "x", None)]


@pytest.mark.parametrize(
    ("ddl", "text"),
    [
        ("create publication p for table public.users", "replica identity full"),
        (
            "create function public.refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$;"
            "create trigger refuse before update on public.users for each row execute procedure public.refuse()",
            "A trigger or an index of public.users",
        ),
    ],
    ids=["publication", "trigger"],
)
def test_what_keeps_values_from_being_converted_is_named(destination_db, ddl, text):
    sync(destination_db, catalog({"v": "integer"}, "append"), record({"id": 1, "v": 42}))
    destination_db.execute(ddl)
    outcome = write(destination_db, catalog({"v": "string"}, "append"), record({"id": 2, "v": "x"}) + status())
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert text in outcome.error["message"]
    assert rows(destination_db, "id, v") == [(1, 42)]


def test_a_key_of_another_type_makes_rows_equal(destination_db):
    of = stream("users", {"id": "string", "v": "string"}, key=["id"])
    sync(
        destination_db, one(of, "append_dedup"), records([{"id": "1", "v": "a"}, {"id": "1e0", "v": "b"}, {"id": "2"}])
    )
    now = stream("users", {"id": "number", "v": "string"}, key=["id"])
    sync(destination_db, one(now, "append_dedup"), record({"id": 2, "v": "c"}))
    assert destination_db.rows("select id::text, v from public.users order by 1") == [("1", "b"), ("2", "c")]


@pytest.mark.parametrize("mode", MODES)
def test_values_whose_raw_rows_somebody_deleted_are_not_lost(destination_db, mode):
    before, now = (catalog({"v": kind, "w": "string"}, mode) for kind in ("string", "integer"))
    sync(destination_db, before, records([{"id": 1, "v": "7"}, {"id": 2, "w": "no v"}]))
    destination_db.execute("delete from airbyte_internal.public_raw__stream_users")
    sync(destination_db, before, record({"id": 3, "v": "8"}))
    outcome = write(destination_db, now, record({"id": 4, "v": 9}) + state(1) + status())
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "v (character varying instead of bigint)" in outcome.error["message"]
    assert rows(destination_db, "id, v") == [(1, "7"), (2, None), (3, "8")]
    destination_db.execute("update public.users set v = null where id = 1")
    sync(destination_db, now, record({"id": 4, "v": 9}))
    assert rows(destination_db, "id, v") == [(1, None), (2, None), (3, 8), (4, 9)]


@pytest.mark.parametrize("retention", ["keep", "none"])
@pytest.mark.parametrize("mode", MODES)
def test_a_table_without_rows_takes_any_column(destination_db, mode, retention):
    sync(destination_db, catalog({"v": "string"}, mode), b"", raw_retention=retention)
    sync(destination_db, catalog({"v": "integer"}, mode), record({"id": 1, "v": 7}), raw_retention=retention)
    assert rows(destination_db, "id, v") == [(1, 7)]


def test_a_column_that_somebody_added_is_not_made_anew(destination_db):
    sync(destination_db, catalog({"v": "string"}, "append"), record({"id": 1, "v": "7", "note": "the stream's"}))
    destination_db.execute("alter table public.users add column note text; update public.users set note = 'mine'")
    now = catalog({"v": "string", "note": "string"}, "append")
    outcome = write(destination_db, now, record({"id": 2}) + state(1) + status())
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "note (text instead of character varying)" in outcome.error["message"]
    destination_db.execute("alter table public.users rename note to mine")
    sync(destination_db, now, record({"id": 2}))
    assert rows(destination_db, "id, note, mine") == [(1, "the stream's", "mine"), (2, None, None)]


@pytest.mark.parametrize("mode", MODES)
def test_a_generation_that_is_told_again_and_again_is_filled_like_any(destination_db, mode):
    """PyAirbyte says 1/1 in every sync."""
    again: dict[str, Any] = {"generation": 1, "minimum": 1}
    sync(destination_db, catalog({"v": "string"}, mode, **again), record({"id": 1, "v": "7", "new": "n"}))
    sync(destination_db, catalog({"v": "integer", "new": "string"}, mode, **again), record({"id": 2, "v": 8}))
    assert rows(destination_db, "id, v, new") == [(1, 7, "n"), (2, 8, None)]


def test_a_first_load_that_goes_on_with_other_columns_is_filled(destination_db):
    first: dict[str, Any] = {"generation": 1, "minimum": 1}
    line = record({"id": 1, "v": "7", "new": "n"}) + state(1)
    assert write(destination_db, catalog({"v": "string"}, "append", **first), line).exit_code == 1
    sync(destination_db, catalog({"v": "integer", "new": "string"}, "append", **first), record({"id": 2, "v": 8}))
    assert rows(destination_db, "id, v, new") == [(1, 7, "n"), (2, 8, None)]


def test_a_new_column_that_was_begun_may_get_another_type(destination_db):
    sync(destination_db, catalog({}, "append"), record({"id": 1, "new": "7"}))
    destination_db.execute(
        "alter table public.users add column new bigint; update airbyte_internal._airbyte_pg_ledger set refill ="
        """ '{"columns": {"new": "new"}, "is_converted": true, "place": null, "file": null}'"""
    )
    sync(destination_db, catalog({"new": "string"}, "append"), record({"id": 2, "new": "x"}))
    assert rows(destination_db, "id, new") == [(1, "7"), (2, "x")]


def test_a_refresh_in_the_middle_of_a_refill_takes_what_was_begun_away(destination_db):
    sync(destination_db, catalog({"v": "string"}, "append"), record({"id": 1, "v": "7"}))
    destination_db.execute(
        "alter table public.users add column _airbyte_pg_column_x bigint;"
        " update airbyte_internal._airbyte_pg_ledger set refill ="
        """ '{"columns": {"v": "_airbyte_pg_column_x"}, "place": null, "file": null}'"""
    )
    sync(destination_db, catalog({"v": "integer"}, "append", generation=2, minimum=2), record({"id": 2, "v": 8}))
    assert types(destination_db) == {"id": "bigint", "v": "bigint"}
    assert rows(destination_db, "id, v") == [(2, 8)]
    assert destination_db.value("select refill from airbyte_internal._airbyte_pg_ledger") is None


@pytest.mark.parametrize("seed", seeds(10))
def test_killed_while_columns_are_filled_it_goes_on(destination_db, seed):
    """SIGKILL of the process, or the end of its sessions, at a random moment of ALTER, refill and swap."""
    draw = random.Random(seed)
    mode = MODES[seed % 2]
    count = 12_000
    given = b"".join(record({"id": n, "v": str(n), "new": n, "pad": "x" * 1500}) for n in range(count))
    sync(destination_db, catalog({"v": "string"}, mode), given)
    now = catalog({"v": "integer", "new": "integer"}, mode)
    config = destination_db.config(schema="public")
    seen: list[tuple[Any, ...]] = []
    over = threading.Event()

    def watch() -> None:
        with contextlib.closing(destination_db.connect()) as session, session.cursor() as cursor:
            while not over.wait(0.05):
                cursor.execute("select count(*), count(distinct id), count(v) from public.users")
                seen.append(cursor.fetchone() or ())

    reader = threading.Thread(target=watch)
    reader.start()
    try:
        for _ in range(3):
            with connector.start(DESTINATION, "write", config=config, catalog=now, stdin=subprocess.PIPE) as running:
                over.wait(draw.uniform(0.3, 2.0))
                if draw.random() < 0.5:
                    destination_db.rows(
                        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                        " and application_name = 'destination-postgres'"
                    )
                running.kill()
        sync(destination_db, now, record({"id": count, "v": count, "new": count}))
    finally:
        over.set()
        reader.join(30)
    assert {row[:2] for row in seen} <= {(count, count), (count + 1, count + 1)}
    # Never without values: the old ones until the new ones are all there.
    assert all(row[2] == row[0] for row in seen)
    assert rows(destination_db, "id, v, new") == [(n, n, n) for n in range(count + 1)]
    assert set(types(destination_db)) == {"id", "v", "new"}
    wait_until(
        lambda: destination_db.value("select count(*) from pg_indexes where indexname ~ 'refill'") == 0, 5, "no index"
    )
