"""Failures of every command by cause: the right class, a remedy, and no secret anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, config, failure, read
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE

SECRET = "wrong-pass-word"

CONNECTIONS: list[tuple[dict[str, Any], str]] = [
    ({"password": SECRET}, "user name or password"),
    ({"port": 1}, "Nothing listens"),
    ({"host": "no-such-host.invalid"}, "host name is unknown"),
    ({"database": "no_such_database"}, "does not exist"),
    ({"ssl_mode": {"mode": "require"}}, "no TLS"),
]


@pytest.mark.parametrize(("more", "words"), CONNECTIONS, ids=[words for _, words in CONNECTIONS])
def test_a_connection_that_cannot_be_made(source_db, more, words):
    wrong = {**config(source_db), **more}
    checked = connector.run(SOURCE, "check", config=wrong)
    assert checked.exit_code == 0
    assert checked.connection_status["status"] == "FAILED"
    assert words in checked.connection_status["message"]
    found = connector.run(SOURCE, "discover", config=wrong)
    assert failure(found)["failure_type"] == "config_error"
    assert words in failure(found)["message"]
    for outcome in (checked, found):
        said = b"".join(outcome.lines).decode() + outcome.stderr
        assert SECRET not in said
        assert config(source_db)["password"] not in said


def test_every_problem_is_said_at_once_and_its_sql_solves_it(source_db):
    with source_db.connect() as session, session.cursor() as cursor:
        cursor.execute("create table t (id int primary key)")
        cursor.execute("create publication theirs for table t with (publish = 'insert')")
        cursor.execute(f"create role \"reader {source_db.name}\" login password 'reader-secret'")
        # Slots of others: all but one place of a server are not taken here, so the limit is checked elsewhere.
    poor = {
        **config(source_db, publication="theirs"),
        "username": f"reader {source_db.name}",
        "password": "reader-secret",
    }
    message = connector.run(SOURCE, "check", config=poor).connection_status["message"]
    problems = message.splitlines()
    assert len(problems) == 3, message
    assert "may not replicate" in message
    assert "update, delete" in message
    assert "No table" in message
    for problem in problems[:2]:
        source_db.execute(problem.partition("Run: ")[2])
    source_db.execute(f'grant select on t to "reader {source_db.name}"')
    after = connector.run(SOURCE, "check", config=poor).connection_status
    assert after == {"status": "SUCCEEDED"}
    source_db.execute(f'drop owned by "reader {source_db.name}"')
    source_db.execute(f'drop role "reader {source_db.name}"')


@pytest.mark.parametrize(
    ("catalog", "words"),
    [
        (b"{", "not valid"),
        ({"streams": []}, "no streams"),
        ({"streams": [{"stream": {"name": "t", "namespace": "public"}, "sync_mode": "sometimes"}]}, "not valid"),
        (
            {
                "streams": [
                    {"stream": {"name": "none", "namespace": "public"}, "sync_mode": "full_refresh"},
                ]
            },
            "public.none does not exist",
        ),
    ],
    ids=["not JSON", "empty", "odd mode", "no such table"],
)
def test_a_catalog_that_cannot_be_read(source_db, catalog, words):
    error = failure(connector.run(SOURCE, "read", config=config(source_db), catalog=catalog))
    assert error["failure_type"] == "config_error"
    assert words in error["message"]


def test_a_server_that_goes_away_is_transient_and_the_streams_incomplete(source_db):
    source_db.execute("create table t (id int primary key, v text)")
    source_db.execute("insert into t select i, repeat('x', 5000) from generate_series(1, 20000) i")
    with connector.start(SOURCE, "read", config=config(source_db), catalog=catalog_of(source_db)) as sync:
        sync.wait_for(lambda message: message.get("type") == "RECORD")
        source_db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'source-%'"
        )
        outcome = sync.finish()
    assert failure(outcome)["failure_type"] == "transient_error"
    assert outcome.statuses["t"][-1] == "INCOMPLETE"
    # Nothing is left behind that would stop the next sync.
    again = read(source_db, catalog_of(source_db))
    assert again.exit_code == 0
    assert len(again.records()) == 20000


def test_sigterm_ends_a_sync_at_once(source_db):
    source_db.execute("create table t (id int primary key, v text)")
    source_db.execute("insert into t select i, repeat('x', 5000) from generate_series(1, 20000) i")
    with connector.start(SOURCE, "read", config=config(source_db), catalog=catalog_of(source_db)) as sync:
        sync.wait_for(lambda message: message.get("type") == "RECORD")
        sync.terminate()
        outcome = sync.finish()
    assert outcome.exit_code == 143
    assert outcome.statuses["t"][-1] == "INCOMPLETE"
    assert outcome.error is None
