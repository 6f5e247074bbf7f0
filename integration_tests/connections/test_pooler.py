"""A connection pooler in between: the destination works behind it, the source says plainly that it cannot."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest

from integration_tests.destination.writing import (
    ALL_NEW,
    NEW,
    OLD,
    USERS_CDC,
    expect_valid,
    one,
    records,
    state,
    status,
)
from integration_tests.destination.writing import users as written
from integration_tests.source.reading import catalog_of, config, failure
from integration_tests.support import connector
from integration_tests.support.connector import DESTINATION, SOURCE
from integration_tests.support.pgbouncer import pooled

pytestmark = pytest.mark.debian


@pytest.mark.parametrize("ignored", ["extra_float_digits", "options,extra_float_digits"])
def test_the_source_says_plainly_that_it_needs_the_server_itself(source_db, ignored):
    source_db.execute("create table t (id int primary key)")
    catalog = catalog_of(source_db)
    with pooled(config(source_db), ignored) as settings:
        status = connector.run(SOURCE, "check", config=settings).connection_status
        assert status["status"] == "FAILED"
        messages = [status["message"]]
        for command in ("discover", "read"):
            given = catalog if command == "read" else None
            error = failure(connector.run(SOURCE, command, config=settings, catalog=given))
            assert error["failure_type"] == "config_error"
            messages.append(error["message"])
    for message in messages:
        assert "A connection pooler (such as pgbouncer) stands between" in message
        assert "host and port of the server itself" in message


def test_the_destination_works_in_transaction_mode(destination_db):
    with pooled(destination_db.config(schema="public", flush_rows=1)) as settings:
        _leave_settings_behind(settings)
        assert connector.run(DESTINATION, "check", config=settings).connection_status == {"status": "SUCCEEDED"}
        catalog = one(USERS_CDC, "append_dedup")
        # A flush at each state: several transactions, on whichever of the pool's sessions.
        lines = b"".join(records([row]) + state(number) for number, row in enumerate([*OLD, *NEW]))
        outcome = connector.run(DESTINATION, "write", config=settings, catalog=catalog, stdin=lines + status())
        assert outcome.exit_code == 0, outcome
        expect_valid(outcome)
        assert len(outcome.states) == 4
        assert written(destination_db) == [(1, "old"), *ALL_NEW]
        # A generation that replaces the rows.
        catalog = one(USERS_CDC, "overwrite", generation=2, minimum=2)
        lines = records(NEW) + state(5) + status()
        outcome = connector.run(DESTINATION, "write", config=settings, catalog=catalog, stdin=lines)
        assert outcome.exit_code == 0, outcome
        assert written(destination_db) == ALL_NEW


def _leave_settings_behind(settings: dict[str, Any]) -> None:
    """In both sessions of the pool, as another client of it may."""
    sessions = [
        psycopg2.connect(
            host=settings["host"], port=settings["port"], dbname=settings["database"], user=settings["username"]
        )
        for _ in range(2)
    ]
    for session in sessions:
        with session.cursor() as cursor:
            cursor.execute("select set_config('search_path', 'nowhere', false)")
            cursor.execute("set timezone = 'Asia/Tokyo'; set datestyle = 'SQL, DMY'; set lock_timeout = '1ms'")
            cursor.execute("set session characteristics as transaction read only")
    for session in sessions:
        session.commit()
        session.close()
