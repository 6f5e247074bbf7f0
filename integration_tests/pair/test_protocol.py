"""Every line that either connector prints, over all commands, is what the protocol's own models accept."""

from __future__ import annotations

import json
import warnings

import pytest

from integration_tests.source.reading import catalog_of, config, last_state
from integration_tests.support import connector
from integration_tests.support.connector import DESTINATION, SOURCE, Outcome

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from airbyte_cdk.models import AirbyteMessageSerializer

PAYLOADS = {
    "SPEC": "spec",
    "CONNECTION_STATUS": "connectionStatus",
    "CATALOG": "catalog",
    "RECORD": "record",
    "STATE": "state",
    "TRACE": "trace",
    "LOG": "log",
}


def expect_valid(outcome: Outcome, *kinds: str) -> None:
    """Each line validates and has its payload; all of ``kinds`` occur."""
    assert outcome.not_json == []
    assert outcome.lines
    seen = set()
    for line in outcome.lines:
        message = AirbyteMessageSerializer.load(json.loads(line))
        seen.add(message.type.value)
        assert getattr(message, PAYLOADS[message.type.value]) is not None
    assert set(kinds) <= seen


@pytest.fixture
def table(source_db):
    source_db.execute("create table t (id int primary key, v text, n numeric, at timestamptz default now())")
    source_db.execute("insert into t select i, 'v', 'NaN' from generate_series(1, 10) i")
    return source_db


def test_commands_that_succeed(table, destination_db):
    expect_valid(connector.run(SOURCE, "spec"), "SPEC")
    expect_valid(connector.run(DESTINATION, "spec"), "SPEC")
    expect_valid(connector.run(SOURCE, "check", config=config(table)), "CONNECTION_STATUS")
    expect_valid(
        connector.run(DESTINATION, "check", config=destination_db.config(schema="public")), "CONNECTION_STATUS"
    )
    expect_valid(connector.run(SOURCE, "discover", config=config(table)), "CATALOG")
    catalog = catalog_of(table)
    first = connector.run(SOURCE, "read", config=config(table), catalog=catalog)
    expect_valid(first, "RECORD", "STATE", "TRACE", "LOG")
    table.execute("delete from t where id = 1")
    second = connector.run(SOURCE, "read", config=config(table), catalog=catalog, state=[last_state(first)])
    expect_valid(second, "RECORD", "STATE", "TRACE", "LOG")
    written = connector.run(
        DESTINATION,
        "write",
        config=destination_db.config(schema="public"),
        catalog=catalog,
        stdin=b"\n".join(first.lines) + b"\n",
    )
    assert written.exit_code == 0, written
    expect_valid(written, "STATE", "LOG")


def test_commands_that_fail(table, destination_db):
    wrong = {"password": "wrong-pass-word"}
    for name, database in ((SOURCE, table), (DESTINATION, destination_db)):
        bad = {**database.config(schema="public"), **wrong}
        expect_valid(connector.run(name, "check", config=bad), "CONNECTION_STATUS")
    catalog = catalog_of(table)
    expect_valid(connector.run(SOURCE, "read", config={**config(table), **wrong}, catalog=catalog), "TRACE")
    bad = {**destination_db.config(schema="public"), **wrong}
    expect_valid(connector.run(DESTINATION, "write", config=bad, catalog=catalog), "TRACE")
