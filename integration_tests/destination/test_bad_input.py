"""Input that is not what it should be: a clear error or a documented skip, and never a value in a message."""

from __future__ import annotations

import pytest

from integration_tests.destination.writing import (
    USERS,
    expect_valid,
    line,
    one,
    record,
    records,
    state,
    status,
    sync,
    users,
    write,
)
from integration_tests.support import connector
from integration_tests.support.catalogs import configured, stream
from integration_tests.support.connector import DESTINATION, Outcome

SECRET = "a-value-that-nobody-may-see"


def expect_failure(outcome: Outcome, failure_type: str, *texts: str) -> None:
    """One ERROR trace of that type with these texts, exit code 1, valid lines, no value anywhere, quiet stderr."""
    assert outcome.exit_code == 1, outcome
    assert [trace["type"] for trace in outcome.traces] == ["ERROR"]
    assert outcome.error is not None
    assert outcome.error["failure_type"] == failure_type
    for text in texts:
        assert text in outcome.error["message"]
    expect_valid(outcome)
    assert SECRET.encode() not in b"".join(outcome.lines)


def test_a_record_of_an_unknown_stream(destination_db):
    outcome = write(destination_db, one(), record({"id": 1}) + record({"v": SECRET}, "nobody") + state(1) + status())
    expect_failure(outcome, "config_error", "not in the catalog")
    assert outcome.error is not None
    assert outcome.error["stream_descriptor"] == {"name": "nobody", "namespace": "public"}
    assert outcome.states == []


def test_a_line_that_does_not_parse(destination_db):
    broken = b'{"type":"RECORD","record":{"stream":"users","data":{"name":"%s"}\n' % SECRET.encode()
    outcome = write(destination_db, one(), record({"id": 1}) + broken + state(1) + status())
    expect_failure(outcome, "system_error", "no valid Airbyte message")
    assert outcome.states == []


def test_a_truncated_last_line(destination_db):
    cut = record({"id": 2, "name": SECRET})[:-5]
    outcome = write(destination_db, one(), record({"id": 1, "name": "a"}) + state(1) + cut)
    expect_failure(outcome, "transient_error", "ended inside a line")
    assert users(destination_db) == [(1, "a")]
    assert len(outcome.states) == 1


def test_data_that_is_no_object(destination_db):
    outcome = write(destination_db, one(), record(f'["{SECRET}"]') + state(1) + status())
    expect_failure(outcome, "system_error", "no JSON object")


@pytest.mark.parametrize(
    "bad",
    [
        line("RECORD", record=7),
        line("RECORD", record={"stream": "users", "namespace": ["public"], "emitted_at": 1, "data": {"name": SECRET}}),
        line("RECORD", record={"stream": None, "emitted_at": 1, "data": {"name": SECRET}}),
        line("RECORD"),
        line("STATE"),
        line("STATE", state={"type": "STREAM", "stream": {"stream_descriptor": {"name": [SECRET]}}}),
        line("STATE", state={"type": "STREAM"}),
        line("STATE", state=[SECRET]),
        line("STATE", state={"type": 7}),
        line("TRACE", trace={"type": "STREAM_STATUS", "stream_status": {"status": ["COMPLETE"]}}),
        status(value="COMPLETE").replace(b'"users"', b'{"a":1}'),
        status(name="nobody"),
        status() + status(value="INCOMPLETE"),
        status() + record({"id": 2}),
        line("STATE", state={"data": SECRET}).replace(b"a-value", b"\xff"),
        b'{"type":"STATE","state":{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}}\n",
    ],
    ids=lambda bad: bad[:60].decode(errors="replace"),
)
def test_messages_of_another_shape(destination_db, bad):
    lines = record({"id": 1}) + bad + state(1)
    expect_failure(write(destination_db, one(), lines + status()), "system_error", "input")
    assert write(destination_db, one(), lines).states == []


def test_a_line_of_100_mb(destination_db):
    wide = "x" * 100_000_000
    sync(destination_db, one(), record({"id": 1, "name": wide}) + state(1) + record({"id": 2, "name": "a"}))
    assert users(destination_db, "id, length(name)") == [(1, len(wide)), (2, 1)]
    assert destination_db.value(
        "select length(_airbyte_data ->> 'name') from airbyte_internal.public_raw__stream_users order by 1 desc limit 1"
    ) == len(wide)


def test_lines_that_are_skipped(destination_db):
    lines = [
        b"\n",
        b"Picked up JAVA_TOOL_OPTIONS\n",
        line("CONTROL", control={"type": "CONNECTOR_CONFIG", "emitted_at": 1, "connectorConfig": {"config": {}}}),
        line("OF_THE_FUTURE", of_the_future={"a": 1}),
        line("LOG", log={"level": "INFO", "message": "hello"}),
        line("TRACE", trace={"type": "ESTIMATE", "emitted_at": 1, "estimate": {"name": "users", "type": "STREAM"}}),
        status(value="STARTED"),
        record({"id": 1, "name": "a"}),
    ]
    sync(destination_db, one(), b"".join(lines))
    assert users(destination_db) == [(1, "a")]


def test_null_for_every_unused_key(destination_db):
    text = (
        '{"type":"RECORD","log":null,"spec":null,"connectionStatus":null,"catalog":null,"state":null,"trace":null,'
        '"control":null,"record":{"namespace":"public","stream":"users","data":{"id":1,"name":"a"},'
        '"emitted_at":1,"meta":null,"file_reference":null}}\n'
    )
    returned = (
        '{"type":"STATE","record":null,"log":null,"state":'
        '{"type":"GLOBAL","stream":null,"global":{"stream_states":[],"a":null}}}\n'
    )
    outcome = sync(destination_db, one(), text.encode() + returned.encode())
    assert users(destination_db) == [(1, "a")]
    assert len(outcome.states) == 1


def test_a_wrong_password_is_shown_nowhere(destination_db):
    config = destination_db.config(schema="public", password=SECRET)
    written = connector.run(DESTINATION, "write", config=config, catalog=one())
    expect_failure(written, "config_error", "refused user name or password")
    checked = connector.run(DESTINATION, "check", config=config)
    assert checked.exit_code == 0
    assert checked.connection_status["status"] == "FAILED"
    for outcome in (written, checked):
        assert SECRET.encode() not in b"".join(outcome.lines)
        assert SECRET not in outcome.stderr


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"disable_type_dedupe": True, "raw_retention": "none"}, "would lose every row"),
        ({"port": "x"}, "port"),
        ({"database": "nowhere_to_be_found"}, "does not exist"),
        ({"port": 1}, "Nothing listens"),
    ],
)
def test_configurations_that_cannot_work(destination_db, config, text):
    given = {**destination_db.config(schema="public"), **config}
    outcome = connector.run(DESTINATION, "write", config=given, catalog=one())
    expect_failure(outcome, "config_error", text)
    checked = connector.run(DESTINATION, "check", config=given)
    assert checked.exit_code == 0
    assert checked.connection_status["status"] == "FAILED"
    assert text in checked.connection_status["message"]


@pytest.mark.parametrize(
    ("catalog", "text"),
    [
        ({"streams": []}, "no streams"),
        (configured([stream("users", {"id": "integer"})]), "needs a primary key"),
        (configured([USERS, USERS]), "twice"),
        (one(generation=3, minimum=2), "minimum_generation_id 2"),
        ({"streams": "x"}, "catalog is not valid"),
    ],
)
def test_catalogs_that_cannot_be_written(destination_db, catalog, text):
    expect_failure(write(destination_db, catalog, records([{"id": 1}])), "config_error", text)
    assert destination_db.rows("select 1 from pg_tables where schemaname = 'public'") == []
