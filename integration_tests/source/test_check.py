"""Every problem and every warning of check, provoked on a real server; running the remedy's SQL makes it go away."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from psycopg2.extras import LogicalReplicationConnection

from integration_tests.source.reading import catalog_of, config, read, slot_of
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded, wait_until

PASSWORD = "reader-secret"


@pytest.fixture
def database(source_db: Database) -> Database:
    source_db.execute("create table t (id int primary key, v text)")
    return source_db


@pytest.fixture
def reader(database: Database) -> Iterator[str]:
    """A user that may replicate, and nothing else."""
    name = f"Reader {database.name}"
    database.execute(f"create role \"{name}\" login replication password '{PASSWORD}'")
    yield name
    database.execute(f'drop owned by "{name}"; drop role "{name}"')


def check(database: Database, user: str | None = None, **options: Any) -> tuple[list[str], list[str]]:
    """Problems and warnings; nothing was made."""
    settings = config(database, **options)
    if user is not None:
        settings |= {"username": user, "password": PASSWORD}
    slots = "select slot_name from pg_replication_slots where not temporary order by 1"
    before = database.rows(slots), database.rows("select pubname, oid from pg_publication")
    outcome = connector.run(SOURCE, "check", config=settings)
    assert (database.rows(slots), database.rows("select pubname, oid from pg_publication")) == before
    assert outcome.exit_code == 0, outcome
    warnings = [entry["message"] for entry in outcome.logs if entry["level"] == "WARN"]
    # Of an old server something is said each time.
    old = [text for text in warnings if re.match(r"PostgreSQL \d+ cannot", text)]
    assert len(old) == (database.server.major < 14), old
    warnings = [text for text in warnings if text not in old]
    status = outcome.connection_status
    problems = status.get("message", "").splitlines()
    assert status["status"] == ("FAILED" if problems else "SUCCEEDED")
    return problems, warnings


def only(found: list[str]) -> str:
    """The one text of a list."""
    assert len(found) == 1, found
    return found[0]


@contextlib.contextmanager
def rival(database: Database) -> Iterator[Any]:
    """A walsender of somebody else."""
    parts = database.config()
    session = psycopg2.connect(
        connection_factory=LogicalReplicationConnection,
        application_name="a rival",
        dbname=database.name,
        user=parts["username"],
        **{name: parts[name] for name in ("host", "port", "password")},
    )
    with contextlib.closing(session):
        yield session


def has_slot(database: Database) -> bool:
    """Whether the anchor has been made, to its end."""
    query = "select count(confirmed_flush_lsn) from pg_replication_slots where slot_name = %s"
    return bool(database.value(query, slot_of(database)))


def run_remedy(database: Database, text: str) -> None:
    """Run the SQL that a text ends with, as somebody who may."""
    statements = [statement for statement in text.partition("Run: ")[2].split(";") if statement.strip()]
    assert statements, text
    for statement in statements:
        database.execute(statement)


def test_a_server_as_it_should_be(database):
    assert check(database) == ([], [])
    # And after a sync that made slot and publication.
    assert read(database, catalog_of(database)).exit_code == 0
    assert check(database) == ([], [])


# Tables.


def test_a_table_that_may_not_be_read(database, reader):
    database.execute("create schema closed; create table closed.u (id int primary key)")
    database.execute("create publication airbyte_publication for all tables")
    options: dict[str, Any] = {"schemas": ["public", "closed"]}
    problem = only(check(database, reader, **options)[0])
    assert problem.startswith("No table can be read: closed.u, public.t.")
    # Of several one is missed only where it is named.
    database.execute(f'grant select on t to "{reader}"')
    problems, warnings = check(database, reader, **options)
    assert problems == []
    assert "may not read closed.u" in only(warnings)
    problem = only(check(database, reader, tables="public.t, closed.u")[0])
    assert "may not read: closed.u" in problem
    run_remedy(database, problem)
    assert check(database, reader, tables="public.t, closed.u") == ([], [])


def test_columns_that_may_not_be_read(database, reader):
    database.execute("create publication airbyte_publication for all tables")
    database.execute(f'grant select (id) on t to "{reader}"')
    problems, warnings = check(database, reader)
    assert problems == []
    assert "some columns of public.t" in only(warnings)
    run_remedy(database, only(warnings))
    assert check(database, reader) == ([], [])


def test_tables_that_are_not_there(database):
    problems, _ = check(database, tables="t, public.no, no.t, public.x*")
    assert [problem.partition(" does not exist")[0] for problem in problems] == [
        "The whitelist's public.no",
        "The whitelist's no.t",
        "The whitelist's public.x*",
    ]
    assert "No table in nowhere" in only(check(database, schemas=["nowhere"])[0])


def test_row_security(database, reader):
    database.execute("create publication airbyte_publication for all tables")
    database.execute(f'grant select on t to "{reader}"; alter table t enable row level security')
    problem = only(check(database, reader, tables="t")[0])
    assert "Row security policies may hide rows of public.t" in problem
    warning = only(check(database, reader)[1])
    assert warning == problem
    run_remedy(database, problem)
    assert check(database, reader, tables="t") == ([], [])


def test_tables_that_cannot_be_followed(database):
    database.execute(
        """
        create table no_key (id int);
        create table late_key (id int primary key deferrable);
        create table nothing (id int primary key);
        alter table nothing replica identity nothing;
        create table by_index (id int primary key, other int not null unique);
        alter table by_index replica identity using index by_index_other_key;
        create unlogged table unlogged (id int primary key);
        create view a_view as select * from t;
        """
    )
    problems, warnings = check(database)
    assert problems == []
    said = {
        next(word for word in ("Without", "deferrable", "identity", "unlogged") if word in text): text
        for text in warnings
    }
    assert len(warnings) == len(said) == 4
    assert "public.no_key" in said["Without"]
    assert "public.late_key" in said["deferrable"]
    assert "public.nothing" in said["identity"]
    assert "by_index" not in said["identity"]
    run_remedy(database, said["identity"])
    run_remedy(database, said["unlogged"])
    assert len(check(database)[1]) == 2


def test_columns_named_like_the_connector_s_own(database):
    database.execute("create table u (id int primary key, _ab_cdc_lsn int)")
    problems, warnings = check(database)
    assert problems == []
    assert "public.u" in only(warnings)


# The publication.


def test_a_publication_and_a_slot_that_are_missing_and_must_not_be_made(database):
    options: dict[str, Any] = {"create_if_missing": False, "publication": 'odd "name"'}
    problems, warnings = check(database, **options)
    assert ["publication" in problems[0], "slot" in problems[1], warnings] == [True, True, []]
    # In this order: what is decoded must see the publication.
    for problem in problems:
        run_remedy(database, problem)
    assert check(database, **options) == ([], [])


def test_a_publication_that_the_user_may_not_make(database, reader):
    database.execute("create table mine (id int primary key)")
    database.execute(f'grant select on t, mine to "{reader}"; alter table mine owner to "{reader}"')
    problems, warnings = check(database, reader)
    assert "may not make it: it does not own public.t." in only(problems)
    assert warnings == []
    database.execute(f'grant create on database {database.name} to "{reader}"')
    # Its own tables may be all that is ever read.
    problems, warnings = check(database, reader)
    assert problems == []
    assert "public.t" in only(warnings)
    run_remedy(database, only(warnings))
    assert check(database, reader) == ([], [])


def test_a_publication_that_leaves_operations_out(database):
    database.execute("create publication airbyte_publication for table t with (publish = 'insert')")
    problem = only(check(database)[0])
    assert "does not publish: update, delete" in problem
    run_remedy(database, problem)
    assert check(database) == ([], [])
    if database.server.major >= 11:
        database.execute("alter publication airbyte_publication set (publish = 'insert, update, delete')")
        problems, warnings = check(database)
        assert problems == []
        assert "does not publish TRUNCATE" in only(warnings)
        run_remedy(database, only(warnings))
        assert check(database) == ([], [])


def test_a_publication_of_others_that_lacks_tables(database):
    database.execute("create publication airbyte_publication; create table u (id int primary key)")
    problems, warnings = check(database)
    assert problems == []
    assert "does not hold public.t, public.u" in only(warnings)
    run_remedy(database, only(warnings))
    assert check(database) == ([], [])


def test_a_publication_that_another_connection_made(database):
    assert read(database, catalog_of(database)).exit_code == 0
    assert check(database, replication_slot=f"other_{database.name}")[1][0].startswith(
        f"The publication airbyte_publication was made by another connection (for the slot {slot_of(database)})"
    )


def test_published_tables_that_nobody_can_update_any_more(database):
    database.execute("create table broken (id int); create publication airbyte_publication for all tables")
    with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState):
        database.execute("delete from broken where false")
    problems, warnings = check(database)
    assert problems == []
    strong = next(text for text in warnings if text.startswith("Nobody can UPDATE or DELETE in public.broken"))
    run_remedy(database, strong)
    database.execute("delete from broken where false")
    assert not any(text.startswith("Nobody") for text in check(database)[1])


BREAKING = [
    # What is done to the table t (id primary key, v), how it is published, since when, and what check says of it.
    ("alter table t add w int primary key deferrable", "all tables", 11, "no replica identity"),
    ("", "table t (v)", 15, "column lists"),
    ("alter table t replica identity full", "table t (id, v)", 15, "column lists"),
    ("", "table t where (v > 'a')", 15, "row filters"),
    ("alter table t add g int generated always as (1) stored, replica identity full", "table t", 18, "generated"),
    ("alter table t add g int generated always as (1), replica identity full", "table t", 18, "generated"),
]


@pytest.mark.parametrize(("change", "published", "since", "words"), BREAKING)
def test_publications_that_keep_tables_from_being_updated(source_db, change, published, since, words):
    if source_db.server.major < since:
        pytest.skip(f"came with {since}")
    key = "int" if "primary key" in change else "int primary key"
    source_db.execute(f"create table t (id {key}, v text); {change}")
    source_db.execute(f"create publication airbyte_publication for {published}")
    with pytest.raises(psycopg2.Error):
        source_db.execute("update t set v = 'x'")
    problems, warnings = check(source_db)
    assert problems == []
    strong = next(text for text in warnings if text.startswith("Nobody can UPDATE or DELETE in public.t"))
    assert words in strong
    if "Run: " in strong:
        run_remedy(source_db, strong)
        source_db.execute("update t set v = 'x'")
        assert not any(text.startswith("Nobody") for text in check(source_db)[1])


def test_a_table_is_never_published_so_that_it_cannot_be_updated(source_db):
    # By the first sync's own publication, that is.
    if source_db.server.major < 12:
        pytest.skip("generated columns came with 12")
    source_db.execute("create table t (id int primary key, v text, g int generated always as (1) stored)")
    source_db.execute("alter table t replica identity full")
    outcome = read(source_db, catalog_of(source_db))
    assert outcome.exit_code == (1 if source_db.server.major >= 18 else 0)
    source_db.execute("insert into t values (1)")
    source_db.execute("update t set v = 'x'")


def test_healthy_publications_of_every_shape(source_db):
    if source_db.server.major < 15:
        pytest.skip("column lists and row filters came with 15")
    source_db.execute(
        """
        create table listed (id int primary key, v text, hidden text);
        create table included (id int, v text, hidden text, primary key (id) include (hidden));
        create table filtered (id int primary key, v text);
        create table whole (id int primary key, v text);
        alter table whole replica identity full;
        create table root (id int primary key, v text) partition by range (id);
        create table leaf partition of root default;
        create publication airbyte_publication for table listed (id, v), included (id, v),
          filtered where (id > 7), whole where (v = 'x'), root with (publish_via_partition_root);
        insert into root values (1);
        """
    )
    for table in ("listed", "included", "filtered", "whole", "root"):
        source_db.execute(f"update {table} set v = 'x'")
    assert check(source_db) == ([], [])
    source_db.execute("drop publication airbyte_publication")
    source_db.execute("create publication airbyte_publication for all tables with (publish_via_partition_root)")
    assert check(source_db) == ([], [])


def test_our_publication_in_the_hands_of_another_user(database, reader):
    assert read(database, catalog_of(database)).exit_code == 0
    database.execute("create table mine (id int primary key)")
    database.execute(f'grant select on t to "{reader}"; alter table mine owner to "{reader}"')
    problems, warnings = check(database, reader)
    assert problems == []
    assert "does not hold public.mine" in only(warnings)
    assert "owner of the publication" in only(warnings)
    run_remedy(database, only(warnings))
    assert check(database, reader) == ([], [])


def test_nothing_to_follow_needs_no_publication_and_no_slot(source_db):
    source_db.execute("create view v as select 1 as id")
    problems, warnings = check(source_db, create_if_missing=False)
    assert problems == []
    assert len(warnings) == 2


# The slot.


def test_slots_that_are_of_no_use(database, source_cluster):
    name = slot_of(database)
    database.execute("select pg_create_physical_replication_slot(%s)", name)
    assert "a physical one" in only(check(database)[0])
    database.execute("select pg_drop_replication_slot(%s)", name)
    with Database(source_cluster) as other:
        other.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", name)
        assert f"belongs to the database {other.name}" in only(check(database)[0])
        other.execute("select pg_drop_replication_slot(%s)", name)
    with database.connect() as session, session.cursor() as cursor:
        cursor.execute("select pg_create_logical_replication_slot(%s, 'pgoutput', true)", (name,))
        assert "temporary" in only(check(database)[0])


def test_a_slot_that_is_in_use(database):
    name = slot_of(database)
    database.execute("create publication airbyte_publication for table t")
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", name)
    with rival(database) as walsender, walsender.cursor() as cursor:
        cursor.start_replication(
            name, options={"proto_version": "1", "publication_names": "airbyte_publication"}, decode=False
        )
        wait_until(
            lambda: database.value("select active from pg_replication_slots where slot_name = %s", name), 20, "in use"
        )
        problems, warnings = check(database)
    assert problems == []
    assert "in use by another consumer" in only(warnings)
    assert "a rival" in only(warnings)


def test_another_sync_of_the_same_slot(database):
    database.execute("insert into t select i, repeat('x', 1000) from generate_series(1, 20000) i")
    catalog = catalog_of(database)
    locks = "select count(*) from pg_locks where locktype = 'advisory' and granted"
    # Nobody reads what it prints, so it waits.
    with connector.start(SOURCE, "read", config=config(database), catalog=catalog, held=True) as sync:
        wait_until(lambda: database.value(locks) == 1 and has_slot(database), 20, "the sync holds its slot")
        problems, warnings = check(database)
        sync.kill()
    assert problems == []
    assert "Another sync is using the replication slot" in only(warnings)


def test_an_invalidated_slot():
    settings = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    with Cluster(embedded(16), settings=settings) as cluster, Database(cluster) as database:
        database.execute("create table t (id int primary key)")
        assert read(database, catalog_of(database)).exit_code == 0
        status = "select wal_status from pg_replication_slots where slot_name = %s"
        for _ in range(10):
            database.execute("select pg_switch_wal(), pg_logical_emit_message(false, '', 'x')")
            if database.value(status, slot_of(database)) == "unreserved":
                break
        problems, warnings = check(database)
        assert problems == []
        assert "WAL piles up" in only(warnings)
        assert "wal_status unreserved" in only(warnings)
        database.execute("checkpoint")
        assert database.value(status, slot_of(database)) == "lost"
        # Re-sync data mends it by itself.
        resync = {"invalid_cdc_cursor_position_behavior": "Re-sync data"}
        problems, warnings = check(database, **resync)
        assert problems == []
        assert "has been invalidated" in only(warnings)
        problem = only(check(database)[0])
        assert "has been invalidated" in problem
        run_remedy(database, problem)
        assert check(database) == ([], [])


# The server.


def test_wal_level_and_room():
    settings = {"wal_level": "replica", "max_replication_slots": "1", "max_wal_senders": "1"}
    with Cluster(embedded(16), settings=settings) as cluster, Database(cluster) as database:
        database.execute("create table t (id int primary key)")
        problems, warnings = check(database)
        assert problems[0].startswith("wal_level is replica")
        assert "0 of 1 replication slots are used" in only(warnings)
        database.execute("alter system set wal_level = 'logical'")
        cluster.restart()
        assert check(database)[0] == []
        database.execute("select pg_create_physical_replication_slot('theirs')")
        problem = only(check(database)[0])
        assert "1 of 1 replication slots are used" in problem
        assert "not in use now: theirs" in problem
        database.execute("select pg_drop_replication_slot('theirs')")
        with rival(database):
            problem = only(check(database)[0])
        assert "no free sender" in problem
        assert "max_wal_senders" in problem
        # The rest stands all the same.
        assert check(database)[0] == []


def test_a_user_that_may_not_replicate(database, reader):
    database.execute("create publication airbyte_publication for all tables")
    database.execute(f'grant select on t to "{reader}"; alter role "{reader}" noreplication')
    problem = only(check(database, reader)[0])
    assert "may not replicate" in problem
    run_remedy(database, problem)
    assert check(database, reader) == ([], [])


def test_a_database_without_an_encoding(source_cluster):
    with Database(source_cluster, encoding="SQL_ASCII") as database:
        database.execute("create table t (id int primary key)")
        problems, warnings = check(database)
    assert problems == []
    assert "SQL_ASCII" in only(warnings)


def test_a_slot_that_idles_into_its_time_out():
    with (
        Cluster(embedded(18), settings={"idle_replication_slot_timeout": "3d"}) as cluster,
        Database(cluster) as database,
    ):
        database.execute("create table t (id int primary key)")
        problems, warnings = check(database)
        assert problems == []
        assert "idle for 3d" in only(warnings)
        run_remedy(database, only(warnings))
        wait_until(lambda: check(database) == ([], []), 20, "the server has read its settings")


def test_a_slot_that_keeps_vacuum_from_working():
    with (
        Cluster(embedded(16), settings={"autovacuum_freeze_max_age": "100000"}) as cluster,
        Database(cluster) as database,
    ):
        database.execute("create table t (id int primary key)")
        assert read(database, catalog_of(database)).exit_code == 0
        # Each of its blocks is a transaction within one.
        database.execute(
            "create table x (i int primary key); do $$ begin for i in 1..110000 loop"
            " begin insert into x values (i); exception when others then end; end loop; end $$"
        )
        problems, warnings = check(database)
    assert problems == []
    assert "keeps VACUUM from removing" in only(warnings)


def test_a_standby():
    with (
        Cluster(embedded(16)) as primary,
        primary.standby({"hot_standby_feedback": "off"}) as standby,
        Database(primary) as origin,
    ):
        origin.execute("create table t (id int primary key)")
        copy = Database(standby, name=origin.name, exists=True)
        with contextlib.closing(copy):
            wait_until(lambda: has_table(copy), 30, "the table is on the standby")
            problems, warnings = check(copy)
            assert "primary_slot_name" in only(warnings)
            assert len(problems) == 2
            assert "hot_standby_feedback is off" in problems[0]
            assert "a standby cannot make it" in problems[1]
            run_remedy(copy, problems[0])
            run_remedy(origin, problems[1])
            publications = "select count(*) from pg_publication"
            wait_until(lambda: copy.value(publications) == 1, 30, "the publication is on the standby")
            wait_until(lambda: copy.value("show hot_standby_feedback") == "on", 30, "the server has read its settings")
            assert check(copy)[0] == []


def has_table(database: Database) -> bool:
    with contextlib.suppress(psycopg2.OperationalError):
        return bool(database.value("select count(*) from pg_class where relname = 't'"))
    return False


def test_rights_that_were_revoked(database, reader):
    database.execute("create publication airbyte_publication for all tables")
    database.execute(f'grant select on t to "{reader}"; alter role "{reader}" connection limit 2')
    database.execute("revoke execute on function pg_logical_slot_get_binary_changes from public")
    database.execute("revoke select on pg_stat_activity, pg_replication_slots from public")
    problems, _ = check(database, reader)
    denied = [problem for problem in problems if "permission denied" in problem]
    limited = next(problem for problem in problems if "may have 2 connections" in problem)
    revoked = next(problem for problem in problems if "pg_logical_slot_get_binary_changes" in problem)
    # What it cannot see is said, and keeps nothing else from being said.
    assert denied
    for problem in (limited, revoked):
        run_remedy(database, problem)
    database.execute("grant select on pg_stat_activity, pg_replication_slots to public")
    assert check(database, reader) == ([], [])


def test_a_materialised_view_that_is_empty(database):
    database.execute("create materialized view m as select * from t with no data")
    problems, warnings = check(database)
    assert problems == []
    run_remedy(database, only(warnings))
    assert check(database) == ([], [])


def test_everything_at_once(database, reader):
    database.execute("create publication theirs for table t with (publish = 'insert')")
    database.execute(f'alter role "{reader}" noreplication')
    database.execute("select pg_create_physical_replication_slot(%s)", slot_of(database))
    problems, _ = check(database, reader, publication="theirs")
    assert len(problems) == 4, problems
