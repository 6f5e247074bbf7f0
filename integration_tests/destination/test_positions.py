"""Append mode with a source that says positions: changes that come again are left out; nothing else is."""

from __future__ import annotations

import json
import subprocess

import pytest

from integration_tests.destination.writing import (
    Json,
    is_state,
    line,
    one,
    raw_count,
    record,
    state,
    status,
    sync,
    write,
)
from integration_tests.support import connector
from integration_tests.support.catalogs import stream
from integration_tests.support.connector import DESTINATION
from integration_tests.support.databases import Database

OF = stream(
    "users",
    {"id": "integer", "_ab_cdc_commit_lsn": "number", "_ab_cdc_ordinal": "number", "_ab_cdc_deleted_at": "timestamptz"},
    key=["id"],
)
HERE = {"version": 1, "slot": "airbyte_slot", "database": "d", "system_id": "77", "timeline": 1, "lsn": "0/1"}


def position(**changed: object) -> bytes:
    """A GLOBAL state of our source."""
    shared = {"shared_state": {"cdc": {**HERE, **changed}}, "stream_states": []}
    return line("STATE", state={"type": "GLOBAL", "global": shared})


def stream_position() -> bytes:
    """A STREAM state of our source."""
    descriptor = {"name": "users", "namespace": "public"}
    of = {"stream_descriptor": descriptor, "stream_state": {"cdc": {"version": 1, "shared": HERE}}}
    return line("STATE", state={"type": "STREAM", "stream": of})


def changes(*places: tuple[int, int]) -> bytes:
    """A record for each place in the order of changes; its id tells it."""
    return b"".join(
        record({"id": commit * 100 + number, "_ab_cdc_commit_lsn": commit, "_ab_cdc_ordinal": number})
        for commit, number in places
    )


def ids(db: Database) -> list[int]:
    return [key for (key,) in db.rows("select id from public.users order by id")]


@pytest.mark.parametrize("told", [position(), stream_position()], ids=["global", "per stream"])
@pytest.mark.parametrize("retention", ["keep", "none"])
def test_what_comes_again_is_left_out(destination_db, told, retention):
    sync(destination_db, one(OF), told + changes((5, 2), (5, 4), (9, 2)) + told, raw_retention=retention)
    # As after a crash: from a state in the middle of what was committed.
    again = write(
        destination_db, one(OF), told + changes((5, 4), (9, 2), (9, 3), (11, 2)) + told, raw_retention=retention
    )
    assert len(again.states) == 2
    assert json.loads(json.dumps(again.states[-1], default=float))["destinationStats"]["recordCount"] == 4
    assert ids(destination_db) == [502, 504, 902, 903, 1102]
    assert retention == "none" or raw_count(destination_db) == 5
    sync(destination_db, one(OF), told + changes((11, 2), (11, 4)) + told, raw_retention=retention)
    assert ids(destination_db) == [502, 504, 902, 903, 1102, 1104]


def test_rows_of_a_snapshot_have_no_place(destination_db):
    told = position()
    sync(destination_db, one(OF), told + changes((5, 2), (9, 0), (9, 0), (9, 2)) + told)
    sync(destination_db, one(OF), told + changes((9, 0), (10, 0), (9, 2)) + told)
    assert ids(destination_db) == [502, 900, 900, 900, 902, 1000]


@pytest.mark.parametrize("before", [b"", position()], ids=["no state before", "a state before"])
def test_a_snapshot_that_is_stamped_too_low_begins_a_new_order(destination_db, before):
    """The server was set back, the source reset, and the rows are kept."""
    told = position()
    sync(destination_db, one(OF), told + changes((5, 2), (9, 2)) + told)
    sync(destination_db, one(OF), before + changes((6, 0)) + told)
    sync(destination_db, one(OF), told + changes((7, 2), (7, 4)) + told)
    assert ids(destination_db) == [502, 600, 702, 704, 902]
    # And goes on from there.
    sync(destination_db, one(OF), told + changes((7, 2), (7, 4), (8, 2)) + told)
    assert ids(destination_db) == [502, 600, 702, 704, 802, 902]


def test_a_record_of_what_is_gone_begins_none(destination_db):
    told = position()
    sync(destination_db, one(OF), told + changes((5, 2), (9, 2)) + told)
    gone = {"id": 1, "_ab_cdc_commit_lsn": 6, "_ab_cdc_ordinal": 0, "_ab_cdc_deleted_at": "2024-01-01T00:00:00Z"}
    sync(destination_db, one(OF), told + record(gone) + changes((9, 2), (11, 2)) + told)
    assert ids(destination_db) == [1, 502, 902, 1102]


@pytest.mark.parametrize("other", [{"slot": "another"}, {"system_id": "78"}, {"timeline": 2}])
def test_positions_of_another_slot_or_server_are_no_measure(destination_db, other):
    sync(destination_db, one(OF), position() + changes((9, 2)) + position())
    sync(destination_db, one(OF), position(**other) + changes((5, 2)) + position(**other))
    assert ids(destination_db) == [502, 902]
    sync(destination_db, one(OF), position(**other) + changes((5, 2), (5, 4)) + position(**other))
    assert ids(destination_db) == [502, 504, 902]


def test_without_a_word_on_the_slot_everything_is_taken(destination_db):
    for _ in range(2):
        sync(destination_db, one(OF), changes((9, 2)) + state(1))
    assert ids(destination_db) == [902, 902]


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_refresh_begins_anew(destination_db, interrupted):
    told = position()
    sync(destination_db, one(OF), told + changes((5, 2), (9, 2)) + told)
    refresh = one(OF, generation=2, minimum=2)
    if interrupted:
        assert write(destination_db, refresh, told + changes((5, 2)) + told).exit_code == 1
        # What is visible goes on from where it was.
        assert ids(destination_db) == [502, 902]
        sync(destination_db, refresh, told + changes((5, 2), (7, 2)) + told)
    else:
        sync(destination_db, refresh, told + changes((5, 2), (7, 2)) + told)
    assert ids(destination_db) == [502, 702]
    sync(destination_db, one(OF, generation=2), told + changes((7, 2), (9, 2)) + told)
    assert ids(destination_db) == [502, 702, 902]


def test_a_cancelled_refresh_is_added_with_its_place(destination_db):
    told = position()
    sync(destination_db, one(OF), told + changes((5, 2)) + told)
    assert write(destination_db, one(OF, generation=2, minimum=2), told + changes((8, 0), (9, 2)) + told).exit_code == 1
    sync(destination_db, one(OF, generation=2), told + changes((9, 2), (9, 4)) + told)
    assert ids(destination_db) == [502, 800, 902, 904]


def test_with_raw_tables_alone(destination_db):
    told = position()
    for _ in range(2):
        sync(destination_db, one(OF), told + changes((5, 2), (9, 2)) + told, disable_type_dedupe=True)
    assert raw_count(destination_db) == 2


def test_an_attempt_that_still_runs_adds_nothing_once_the_next_has_begun(destination_db):
    told = position()
    config = destination_db.config(schema="public", flush_rows=1)
    with connector.start(DESTINATION, "write", config=config, catalog=one(OF), stdin=subprocess.PIPE) as first:
        first.write(told + changes((5, 2)) + told)
        first.wait_for(is_state)
        sync(destination_db, one(OF), told + changes((5, 2), (9, 2)) + told)
        first.write(changes((9, 2)) + told)
        outcome = first.finish()
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "transient_error"
    assert ids(destination_db) == [502, 902]


@pytest.mark.parametrize("odd", ["null", '"x"', "1.5", "{}", "-1", "99999999999999999999999"])
def test_odd_positions_are_none(destination_db, odd):
    told = position()
    given = f'{{"id": 1, "_ab_cdc_commit_lsn": {odd}, "_ab_cdc_ordinal": 2}}'
    for _ in range(2):
        outcome = write(destination_db, one(OF), told + record(given) + told + status())
        assert outcome.exit_code == 0, outcome


def test_a_key_makes_it_needless(destination_db):
    told: bytes = position()
    catalog: Json = one(OF, "append_dedup")
    for _ in range(2):
        sync(destination_db, catalog, told + changes((5, 2), (9, 2)) + told)
    assert ids(destination_db) == [502, 902]
    assert destination_db.value("select place from airbyte_internal._airbyte_pg_ledger") is None
