"""jdbc_url_params arrive at the server, or are refused or warned about by name."""

from __future__ import annotations

import pytest

from integration_tests.connections.trying import expect, failures
from integration_tests.destination.writing import USERS, one, record
from integration_tests.source.reading import catalog_of, config
from integration_tests.support import connector
from integration_tests.support.connector import DESTINATION, SOURCE
from integration_tests.support.pgserver import wait_until

PARAMETERS = (
    "ApplicationName=our%20sync&connectTimeout=0&socketTimeout=300&tcpKeepAlive=true&targetServerType=primary"
    "&options=-c%20work_mem%3D7MB%20-c%20statement_timeout%3D1ms&prepareThreshold=0&malformed"
)
SHOWN = "select count(*) from pg_stat_activity where application_name = 'our sync' and datname = current_database()"


def test_they_arrive_in_every_session_of_the_source(source_db):
    source_db.execute("create view t as select id, current_setting('work_mem') memory from generate_series(1, 3) id")
    given = config(source_db, max_db_connections=2) | {"jdbc_url_params": PARAMETERS}
    outcome = connector.run(SOURCE, "read", config=given, catalog=catalog_of(source_db, "full_refresh"))
    assert outcome.exit_code == 0, outcome
    # … and what we pin wins: a statement takes longer than a millisecond.
    assert {row["memory"] for row in outcome.records()} == {"7MB"}
    warnings = [log["message"] for log in outcome.logs if log["level"] == "WARN"]
    assert warnings == ["jdbc_url_params: prepareThreshold, malformed: without meaning here, ignored"]


def test_they_arrive_in_the_destination_s_session(destination_db):
    given = destination_db.config(schema="public", jdbc_url_params=PARAMETERS)
    with connector.start(DESTINATION, "write", config=given, catalog=one(USERS)) as sync:
        sync.write(record({"id": 1, "name": "x"}))
        wait_until(lambda: destination_db.value(SHOWN) == 1, 20, "the session has our name")
        sync.kill()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("currentSchema=x", "jdbc_url_params must not have currentSchema. Use the schemas of the configuration."),
        ("a=b&user=x", "jdbc_url_params must not have user. Use username of the configuration."),
        ("password=x", "jdbc_url_params must not have password. Use password of the configuration."),
        ("ssl=true", "jdbc_url_params must not have ssl. Use ssl_mode of the configuration."),
        ("sslmode=disable", "jdbc_url_params must not have sslmode. Use ssl_mode of the configuration."),
        ("connectTimeout=soon", "jdbc_url_params has a value for connectTimeout that is not possible."),
        ("options=-c%20no_such_setting%3D1", "The server does not take the options of the connection. Check `options`"),
        ("targetServerType=secondary", "The server is not of the kind that targetServerType asks for."),
    ],
)
def test_what_is_not_possible_is_refused_by_name(source_db, parameters, words):
    expect(failures(source_db.config(jdbc_url_params=parameters)), words)
