"""The accidents of slot and server: each told apart, each with its own message and remedy; and who may use a slot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from integration_tests.source.reading import config, slot_of
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE
from integration_tests.support.databases import Database
from source_postgres_cdc import lsn, server, slot

PASSWORD = "member-secret"


@pytest.fixture
def table(source_db: Database) -> Database:
    source_db.execute("create table t (id int primary key, v text)")
    source_db.execute("insert into t values (1, 'a')")
    return source_db


@pytest.fixture
def member(table: Database) -> Iterator[str]:
    """A user that is only a member of a role with REPLICATION, and owns the table."""
    user, role = f"member_{table.name}", f"replicator_{table.name}"
    table.execute(f"create role {role} replication")
    table.execute(f"create role {user} login password '{PASSWORD}' in role {role}")
    table.execute(f"alter table t owner to {user}; grant create on database {table.name} to {user}")
    yield user
    table.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", user)
    table.execute(f"drop owned by {user}")
    table.execute(f"drop role {user}; drop role {role}")


def as_user(database: Database, user: str, **more: Any) -> dict[str, Any]:
    return {**config(database, **more), "username": user, "password": PASSWORD}


def test_check_accepts_a_mere_member_and_says_what_it_misses(table, member):
    checked = connector.run(SOURCE, "check", config=as_user(table, member))
    assert checked.connection_status == {"status": "SUCCEEDED"}, checked
    (warning,) = [entry["message"] for entry in checked.logs if entry["level"] == "WARN"]
    remedy = warning.partition("run: ")[2]
    assert remedy == f'ALTER ROLE "{member}" REPLICATION;'
    table.execute(remedy)
    assert connector.run(SOURCE, "check", config=as_user(table, member)).logs == []


def test_a_mere_member_makes_and_moves_the_slot_as_the_role_and_is_itself_again(table, member):
    with closing(table.connect(user=member, password=PASSWORD)) as session:
        assert server.replication_role(session) == f"replicator_{table.name}"
        slot.create(session, slot_of(table))
        table.execute("create table other (id int)")
        made = slot.find(session, session.server_version, slot_of(table))
        target = lsn.parse(table.value("select pg_current_wal_flush_lsn()::text"))
        assert made is not None
        slot.advance(session, made, target, 60)
        moved = slot.find(session, session.server_version, slot_of(table))
        assert moved is not None
        assert moved.confirmed_lsn == target
        assert server.value(session, "select current_user") == member
        # Who has the attribute needs to become nobody.
        table.execute(f"alter role {member} replication")
        assert server.replication_role(session) is None


def test_a_member_who_may_not_become_the_role_is_refused(table, member):
    if table.server.major < 16:
        pytest.skip("before PostgreSQL 16 every member may SET ROLE")
    table.execute(f"grant replicator_{table.name} to {member} with set false")
    checked = connector.run(SOURCE, "check", config=as_user(table, member)).connection_status
    assert "may not replicate" in checked["message"]
