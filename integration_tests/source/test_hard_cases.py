"""What pgoutput sends of rows that are hard to send (reference section 6), case by case."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.pair.piping import differences, sync
from integration_tests.source.reading import TRANSPORTS, catalog_of, discovered, failure, read
from integration_tests.support.connector import Outcome
from integration_tests.support.databases import Database

LARGE = "repeat(md5({}::text), 250)"
IDENTITIES = ["default", "full", "using index other_key"]
SHOWN = "id::text, other::text, v, md5(body)"


@pytest.fixture(params=IDENTITIES, ids=["default", "full", "index"])
def table(request: pytest.FixtureRequest, source_db: Database) -> Database:
    source_db.execute("create table t (id int primary key, other int not null, v text, body text)")
    source_db.execute("create unique index other_key on t (other); alter table t alter body set storage external")
    source_db.execute(f"insert into t select i, i + 100, 'old', {LARGE.format('i')} from generate_series(1, 9) i")
    source_db.execute(f"alter table t replica identity {request.param}")
    return source_db


def key_of(database: Database) -> str:
    return "other" if database.value("select relreplident from pg_class where oid = 't'::regclass") == "i" else "id"


def rows(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.exit_code == 0, outcome
    return outcome.records("t")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_large_values_that_an_update_does_not_touch(table, destination_db, transport):
    catalog = catalog_of(table)
    key = key_of(table)
    assert discovered(table)["t"]["source_defined_primary_key"] == [[key]]
    passed = sync(table, destination_db, catalog)
    # In turn: another column, the key, the other key, back again, within a transaction, then gone.
    for script in (
        "update t set v = 'new' where id = 1",
        "update t set id = id + 1000 where id in (2, 3); update t set other = other + 1000 where id in (4, 5)",
        "begin; update t set id = 6000, other = 6000 where id = 6; update t set v = 'x' where id = 6000;"
        "update t set id = 6, other = 106 where id = 6000; commit",
        "update t set v = 'gone' where id = 7; delete from t where id = 7;"
        "insert into t values (7, 107, 'again', 'small')",
        "begin; update t set v = 'y' where id = 8; update t set body = 'small' where id = 8; commit",
        "update t set id = 9000 where id = 9; delete from t where id = 9000",
    ):
        table.execute(script)
        passed = sync(table, destination_db, catalog, passed.states[-1], transport=transport)
        assert passed.ok, passed.printed[-5:]
        assert differences(table, destination_db, "t", SHOWN) == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_delete_has_its_key(table, transport):
    first = read(table, catalog_of(table))
    key = key_of(table)
    is_full = table.value("select relreplident from pg_class where oid = 't'::regclass") == "f"
    table.execute("delete from t where id = 1; update t set id = 50, other = 50 where id = 2")
    gone, moved, new = rows(read(table, catalog_of(table), first, transport=transport))
    assert [bool(row["_ab_cdc_deleted_at"]) for row in (gone, moved, new)] == [True, True, False]
    assert [row[key] for row in (gone, moved, new)] == ([101, 102, 50] if key == "other" else [1, 2, 50])
    assert len(new["body"]) == 8000
    # A full identity has all of the row, another one the key alone.
    assert gone["v"] == ("old" if is_full else None)
    assert gone["_ab_cdc_lsn"] < moved["_ab_cdc_lsn"] == new["_ab_cdc_lsn"]


def test_a_row_that_is_gone_leaves_its_large_value_out(source_db):
    """It was changed and deleted before anybody could look; a placeholder would be taken for a value."""
    source_db.execute(
        "create table t (id int primary key, v text, body text); alter table t alter body set storage external"
    )
    source_db.execute(f"insert into t values (1, 'old', {LARGE.format(1)})")
    first = read(source_db, catalog_of(source_db))
    source_db.execute("update t set v = 'new' where id = 1; delete from t where id = 1")
    outcome = read(source_db, catalog_of(source_db), first)
    changed, gone = outcome.record_payloads("t")
    assert "body" not in changed["data"]
    assert changed["meta"]["changes"] == [{"field": "body", "change": "NULLED", "reason": "SOURCE_RETRIEVAL_ERROR"}]
    assert gone["data"]["_ab_cdc_deleted_at"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_rows_that_enter_and_leave_a_row_filter(source_db, destination_db, transport):
    if source_db.server.major < 15:
        pytest.skip("row filters came with 15")
    source_db.execute("create table t (id int primary key, v text); alter table t replica identity full")
    source_db.execute(
        "insert into t select i, case when i % 2 = 0 then 'in' else 'out' end from generate_series(1, 6) i"
    )
    source_db.execute("create publication airbyte_publication for table t where (v = 'in')")
    catalog = catalog_of(source_db)
    passed = sync(source_db, destination_db, catalog)
    source_db.execute(
        "update t set v = 'in' where id = 1; update t set v = 'out' where id = 2; update t set v = 'in' where id = 4"
    )
    source_db.execute(
        "insert into t values (7, 'in'), (8, 'out'); delete from t where id in (3, 6);update t set id = 40 where id = 4"
    )
    passed = sync(source_db, destination_db, catalog, passed.states[-1], transport=transport)
    assert passed.ok, passed.printed[-5:]
    found = destination_db.rows("select id, v from public.t order by 1")
    assert (
        found == source_db.rows("select id, v from t where v = 'in' order by 1") == [(1, "in"), (7, "in"), (40, "in")]
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_is_no_row_is_nothing(source_db, transport):
    """Messages, empty and rolled back transactions, changes of other tables, savepoints, DDL."""
    source_db.execute("create table t (id int primary key, v text); create table other (id int primary key)")
    catalog = catalog_of(source_db, only=["t"])
    first = read(source_db, catalog)
    source_db.execute("select pg_logical_emit_message(true, 'a', 'x'); select pg_logical_emit_message(false, 'a', 'x')")
    source_db.execute(
        "begin; select pg_logical_emit_message(true, 'b', repeat('x', 100000)); insert into t values (1, 'a'); commit"
    )
    source_db.execute("begin; insert into other values (1); commit; begin; create table more (id int); commit")
    source_db.execute("begin; insert into t values (2, 'b'); rollback; begin; select txid_current(); commit")
    source_db.execute(
        "begin; savepoint a; insert into t values (3, 'c'); savepoint b; insert into t values (4, 'd'); rollback to a;"
        "insert into t values (5, 'e'); savepoint c; update t set v = 'f' where id = 5; release c; commit"
    )
    outcome = read(source_db, catalog, first, transport=transport)
    assert outcome.exit_code == 0, outcome
    assert [(row["id"], row["v"]) for row in outcome.records()] == [(1, "a"), (5, "e"), (5, "f")]


@pytest.mark.parametrize("left_out", ["insert", "update", "delete"])
def test_a_publication_of_some_operations_is_refused(source_db, left_out):
    source_db.execute("create table t (id int primary key)")
    catalog = catalog_of(source_db)
    kept = ", ".join(each for each in ("insert", "update", "delete") if each != left_out)
    source_db.execute(f"create publication airbyte_publication for table t with (publish = '{kept}')")
    error = failure(read(source_db, catalog))
    assert error["failure_type"] == "config_error"
    assert left_out in error["message"]
    assert "ALTER PUBLICATION" in error["message"]


def test_an_identity_that_changes_is_told(source_db):
    source_db.execute("create table t (id int primary key, other int not null unique); insert into t values (1, 10)")
    catalog = catalog_of(source_db)
    first = read(source_db, catalog)
    source_db.execute("alter table t replica identity using index t_other_key")
    error = failure(read(source_db, catalog, first))
    assert error["failure_type"] == "config_error"
    assert "primary key" in error["message"]
    # A full identity has the key: nothing else changes.
    source_db.execute("alter table t replica identity full")
    source_db.execute("delete from t")
    (gone,) = rows(read(source_db, catalog, first))
    assert (gone["id"], bool(gone["_ab_cdc_deleted_at"])) == (1, True)
