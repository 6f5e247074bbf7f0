"""Airbyte's end-to-end cases of several streams, several processes, other columns, and what depends on the tables."""

from __future__ import annotations

import pytest

from integration_tests.destination.vectors import (
    cases,
    columns_of,
    configured_stream,
    expect_same,
    expect_tables,
    expected,
    instant,
    lines_of,
    messages,
    needs_vectors,
    records_of,
    schema,
    stored,
)
from integration_tests.destination.writing import Json, is_state, state, status, write
from integration_tests.support import connector
from integration_tests.support.connector import DESTINATION
from integration_tests.support.databases import Database

pytestmark = needs_vectors

MANY = 20


def syncs(name: str) -> list[Json]:
    """The syncs of a case, in order."""
    found: list[Json] = cases("end_to_end")[name]["syncs"]
    return found


def run(db: Database, sync: Json, *, namespace: str, json_schema: Json | None = None, **options: object) -> None:
    """A sync of one stream that must succeed."""
    catalog = {"streams": [configured_stream(sync, namespace=namespace, json_schema=json_schema)]}
    outcome = write(db, catalog, lines_of(sync, namespace=namespace), **options)
    assert outcome.exit_code == 0, outcome


def expect_sync(db: Database, sync: Json, namespace: str, generation: int | None = None) -> None:
    """What a sync of one stream must have left."""
    raw, final = expected(sync["expected_raw"], generation), expected(sync["expected_final"], generation)
    expect_tables(db, namespace, "s", raw=raw, final=final)


def test_streams_without_a_namespace_go_to_the_configured_schema(destination_db):
    of_case = cases("end_to_end")["incrementalDedupDefaultNamespace"]
    for sync in syncs(of_case["same_as"]):
        catalog = {"streams": [configured_stream(sync, namespace=None)]}
        outcome = write(destination_db, catalog, lines_of(sync, namespace=None), schema="dat_default")
        assert outcome.exit_code == 0, outcome
        expect_sync(destination_db, sync, "dat_default")


def test_raw_tables_in_another_schema(destination_db):
    """As Airbyte repeats its cases with raw_data_schema; its name is in lower case, as 2.x has it."""
    for sync in syncs("incrementalDedup"):
        run(destination_db, sync, namespace="dat", raw_data_schema="Raw_OVERRIDE")
        expect_same(stored(destination_db, "raw_override", "dat_raw__stream_s"), expected(sync["expected_raw"]))
        expect_same(stored(destination_db, "dat", "s"), expected(sync["expected_final"]))


def test_two_streams_of_one_name_in_two_namespaces(destination_db):
    for sync in syncs("incrementalDedupIdenticalName"):
        parts = [only(sync, number) for number in (0, 1)]
        streams = [configured_stream(part, namespace=f"dat_{number}") for number, part in enumerate(parts)]
        lines = b"".join(lines_of(part, namespace=f"dat_{number}") for number, part in enumerate(parts))
        outcome = write(destination_db, {"streams": streams}, lines)
        assert outcome.exit_code == 0, outcome
        for number, part in enumerate(parts):
            expect_sync(destination_db, part, f"dat_{number}")


def only(sync: Json, number: int) -> Json:
    """A sync of two streams as the sync of one of them."""
    files = ("messages", "expected_raw", "expected_final")
    return {key: [value[number]] if key in files else value for key, value in sync.items()}


def test_two_syncs_at_once_of_streams_of_one_name(destination_db):
    first, second = syncs("identicalNameSimultaneousSync")
    catalog = {"streams": [configured_stream(first, namespace="dat_0")]}
    config = destination_db.config(schema="public", flush_rows=1)
    with connector.start(DESTINATION, "write", config=config, catalog=catalog) as running:
        assert running.write(records_of(messages(first), "s", "dat_0") + state(1, "s", namespace="dat_0"))
        running.wait_for(is_state)
        run(destination_db, second, namespace="dat_1")
        assert running.exit_code is None
        assert running.write(status("s", namespace="dat_0"))
        outcome = running.finish()
    assert outcome.exit_code == 0, outcome
    expect_sync(destination_db, first, "dat_0")
    expect_sync(destination_db, second, "dat_1")


def test_another_cursor(destination_db):
    first, second = syncs("incrementalDedupChangeCursor")
    run(destination_db, first, namespace="dat", json_schema=schema(old_cursor="integer"))
    expect_sync(destination_db, first, "dat")
    run(destination_db, second, namespace="dat")
    expect_sync(destination_db, second, "dat")


def test_a_column_that_the_catalog_has_no_longer(destination_db):
    first, second = syncs("testIncrementalSyncDropOneColumn")
    run(destination_db, first, namespace="dat")
    expect_sync(destination_db, first, "dat")
    gone = second["drop_column"]
    run(destination_db, second, namespace="dat", json_schema=schema(without=gone))
    left = [{key: value for key, value in row.items() if key != gone} for row in expected(second["expected_final"])]
    expect_tables(destination_db, "dat", "s", raw=expected(second["expected_raw"]), final=left)
    assert gone not in columns_of(destination_db, "dat", "s")


@pytest.mark.parametrize("drop_cascade", [False, True])
def test_views_on_tables_that_are_replaced(destination_db, drop_cascade):
    """A deliberate difference: 2.x drops the views, or without drop_cascade fails; here they stay and show the rows."""
    first, second = syncs("testDropCascade")
    run(destination_db, first, namespace="dat", drop_cascade=drop_cascade)
    expect_sync(destination_db, first, "dat")
    destination_db.execute("create schema seen")
    destination_db.execute("create view seen.final as select * from dat.s")
    destination_db.execute("create view seen.raw as select * from airbyte_internal.dat_raw__stream_s")
    later = [{**each, "emitted_at": second["emitted_at_override"]} for each in messages(second)]
    lines = records_of(later, "s", "dat") + state(1, "s", namespace="dat") + status("s", namespace="dat")
    catalog = {"streams": [configured_stream(second, namespace="dat")]}
    outcome = write(destination_db, catalog, lines, drop_cascade=drop_cascade)
    assert outcome.exit_code == 0, outcome
    moment = instant(second["expected_extracted_at"])
    raw, final = (
        [
            {**row, "_airbyte_extracted_at": moment}
            for row in expected(second[f"expected_{part}"], second["set_generation_id"])
        ]
        for part in ("raw", "final")
    )
    expect_tables(destination_db, "dat", "s", raw=raw, final=final)
    expect_same(stored(destination_db, "seen", "raw"), raw)
    expect_same(stored(destination_db, "seen", "final"), final)


def test_a_namespace_with_capitals(destination_db):
    (sync,) = syncs("testMixedCasedSchema")
    run(destination_db, sync, namespace="Dat_MIXED")
    expect_sync(destination_db, sync, "Dat_MIXED")


def test_many_streams(destination_db):
    (sync,) = syncs("testManyStreamsCompletion")
    names = [f"s{number}" for number in range(MANY)]
    catalog = {"streams": [configured_stream(sync, namespace="dat", name=name) for name in names]}
    outcome = write(destination_db, catalog, b"".join(lines_of(sync, namespace="dat", name=name) for name in names))
    assert outcome.exit_code == 0, outcome
    counts = [destination_db.value(f"select count(*) from dat.{name}") for name in names]
    assert counts == [len(messages(sync))] * MANY


def test_a_text_of_more_than_64_kib(destination_db):
    assert "testVarcharLimitOver64K" in cases("end_to_end")
    name = "".join(chr(ord("a") + number % 26) for number in range(64 * 1024 + 1))
    like = {**syncs("incrementalAppend")[0], "generation_id": 43}
    given = records_of([{"data": {"id1": 1, "name": name}, "emitted_at": 1000}], "s", "dat")
    catalog = {"streams": [configured_stream(like, namespace="dat")]}
    outcome = write(destination_db, catalog, given + status("s", namespace="dat"))
    assert outcome.exit_code == 0, outcome
    assert destination_db.rows("select name from dat.s") == [(name,)]
    raw = "select _airbyte_data ->> 'name' from airbyte_internal.dat_raw__stream_s"
    assert destination_db.rows(raw) == [(name,)]


def test_a_normal_sync_after_a_truncate_that_was_cancelled(destination_db):
    """Airbyte leaves this one out for PostgreSQL, where it loses rows."""
    first, cancelled, normal = syncs("resumeAfterCancelledTruncate")
    run(destination_db, first, namespace="dat")
    expect_sync(destination_db, first, "dat")
    catalog = {"streams": [configured_stream(cancelled, namespace="dat")]}
    assert write(destination_db, catalog, lines_of(cancelled, namespace="dat")).exit_code == 1
    expect_sync(destination_db, cancelled, "dat")
    run(destination_db, normal, namespace="dat")
    raw, final = (resumed(first[part], normal[part]) for part in ("expected_raw", "expected_final"))
    expect_tables(destination_db, "dat", "s", raw=raw, final=final)


def test_keys_with_a_null_part_are_one_key(destination_db):
    """No case of CASES.json: its file says what goes in, reference 3.7 what comes out."""
    like = {**syncs("incrementalDedup")[0], "messages": ["inputs/dat/sync_null_pk.jsonl"]}
    for _ in range(2):
        run(destination_db, like, namespace="dat")
    found = destination_db.rows("select id1, id2, updated_at = '2000-01-03T00:00:00Z' from dat.s")
    assert found == [(1, None, True)]
    assert destination_db.value("select count(*) from airbyte_internal.dat_raw__stream_s") == 6


def test_overwrite_by_its_own_name(destination_db):
    """Nor is this one: what a runner sends that knows no generations as Airbyte's platform has them."""
    first, second = syncs("truncateRefresh")
    for sync, generation in ((first, 42), (second, 43)):
        stream = configured_stream({**sync, "generation_id": generation}, namespace="dat")
        catalog = {"streams": [{**stream, "destination_sync_mode": "overwrite", "minimum_generation_id": generation}]}
        outcome = write(destination_db, catalog, lines_of(sync, namespace="dat"))
        assert outcome.exit_code == 0, outcome
    files = "expected-postgres-2.4.0/dat/sync2_expectedrecords"
    raw, final = expected(f"{files}_overwrite_raw.jsonl"), expected(f"{files}_fullrefresh_overwrite_final.jsonl")
    expect_tables(destination_db, "dat", "s", raw=raw, final=final)


def resumed(before: str, after: str) -> list[Json]:
    """The rows from before, and twice, in the next generation, those that are new: of the broken and the later run."""
    old = expected(before)
    new = [row for row in expected(after, 44) if {**row, "_airbyte_generation_id": 43} not in old]
    return [*old, *new, *new]
