"""A configuration tried out by both connectors: what they say, or that they work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from integration_tests.destination.writing import NEW, USERS, expect_quiet, one, records, status
from integration_tests.source import reading
from integration_tests.source.reading import failure, last_state
from integration_tests.support import connector
from integration_tests.support.catalogs import configured
from integration_tests.support.connector import DESTINATION, SOURCE, Outcome
from integration_tests.support.databases import Database

Json = dict[str, Any]


def failures(config: Json, environment: Mapping[str, str] | None = None) -> list[str]:
    """What both connectors say of a configuration that is the user's to mend (source, destination); none if it works.

    The source's `discover` names the class; the destination's `check` says the same.
    """
    found = connector.run(SOURCE, "discover", config=config, environment=environment)
    checked = connector.run(DESTINATION, "check", config={**config, "schema": "public"}, environment=environment)
    expect_quiet(found)
    expect_quiet(checked)
    said = []
    if found.exit_code:
        error = failure(found)
        assert error["failure_type"] == "config_error", error
        said.append(error["message"])
    if checked.connection_status["status"] == "FAILED":
        said.append(checked.connection_status["message"])
    return said


def expect(found: list[str], words: str | None) -> None:
    """Both connectors have said what begins like this; or, without words, nothing."""
    assert len(found) == (0 if words is None else 2), found
    for said in found:
        assert said.startswith(words or ""), said


def read_config(config: Json, database: Database, **options: Any) -> Json:
    """``config`` with what the source needs besides; what is left out of the connection is left out."""
    whole = reading.config(database, **options)
    return {**{key: value for key, value in whole.items() if key not in database.config()}, **config}


def read(
    config: Json, database: Database, state: Outcome | None = None, environment: Any = None, **options: Any
) -> Outcome:
    """One sync of every table that must succeed."""
    whole = read_config(config, database, **options)
    found = connector.run(SOURCE, "discover", config=whole, environment=environment)
    assert found.exit_code == 0, found
    outcome = connector.run(
        SOURCE,
        "read",
        config=whole,
        catalog=configured(found.catalog["streams"]),
        state=[last_state(state)] if state else None,
        environment=environment,
    )
    assert outcome.exit_code == 0, outcome
    expect_quiet(outcome)
    return outcome


def write(config: Json, database: Database, environment: Any = None) -> Outcome:
    """A sync of two rows that must succeed, and has written them."""
    outcome = connector.run(
        DESTINATION,
        "write",
        config={**config, "schema": "public"},
        catalog=one(USERS, "overwrite", sync_mode="full_refresh"),
        stdin=records(NEW) + status(),
        environment=environment,
    )
    assert outcome.exit_code == 0, outcome
    expect_quiet(outcome)
    assert database.value("select count(*) from public.users") == len(NEW)
    return outcome
