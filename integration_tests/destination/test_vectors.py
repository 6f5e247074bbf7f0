"""Airbyte's end-to-end cases of typing and deduplication: messages in, raw and final rows out.

Cases of one stream are all written in one way; the others have tests of their own, here and in the files that
WITH_TESTS_OF_THEIR_OWN names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from integration_tests.destination.vectors import (
    cases,
    configured_stream,
    expect_same,
    expected,
    lines_of,
    needs_vectors,
    stored,
)
from integration_tests.destination.writing import Json, write
from integration_tests.support.databases import Database

pytestmark = needs_vectors

WITH_TESTS_OF_THEIR_OWN = {
    "incrementalDedupDefaultNamespace": "test_stream_vectors",
    "incrementalDedupIdenticalName": "test_stream_vectors",
    "identicalNameSimultaneousSync": "test_stream_vectors",
    "incrementalDedupChangeCursor": "test_stream_vectors",
    "testIncrementalSyncDropOneColumn": "test_stream_vectors",
    "testDropCascade": "test_stream_vectors",
    "testMixedCasedSchema": "test_stream_vectors",
    "testManyStreamsCompletion": "test_stream_vectors",
    "testVarcharLimitOver64K": "test_stream_vectors",
    "resumeAfterCancelledTruncate": "test_stream_vectors",
    "testMixedCaseRawTableV1V2Migration": "test_migration_vectors",
    "testRawTableMetaMigration_append": "test_migration_vectors",
    "testRawTableMetaMigration_incrementalDedupe": "test_migration_vectors",
    "testAirbyteMetaAndGenerationIdMigration": "test_migration_vectors",
    "testV1V2migration": "test_migration_vectors",
    "noColumns": "test_typing_vectors",
}
# What a case says in words of the configuration.
OPTIONS: dict[str, Json] = {"testDisableTypingDeduping": {"disable_type_dedupe": True}}
# Their files have forgotten the changes that other files have for the same record.
FORGETFUL = {"mergeRefresh", "interruptedMergeRefresh"}
# A case that repeats its messages so often is about a size; the rule is the same for fewer.
REPEATED_AT_MOST = 500


def test_no_case_is_left_out():
    found = {*cases("end_to_end"), *cases("sql_generator")}
    assert set(WITH_TESTS_OF_THEIR_OWN) <= found
    for name, module in WITH_TESTS_OF_THEIR_OWN.items():
        assert f'"{name}"' in Path(__file__).with_name(f"{module}.py").read_text()


@pytest.mark.parametrize("name", [name for name in cases("end_to_end") if name not in WITH_TESTS_OF_THEIR_OWN])
def test_end_to_end_cases(destination_db, name):
    case = cases("end_to_end")[name]
    options = OPTIONS.get(name, {})
    for generation in case.get("for_generation_ids", [42]):
        namespace = f"dat_{generation}"
        for sync in case["syncs"]:
            run_sync(destination_db, sync, generation, namespace, forgetful=name in FORGETFUL, **options)
        if options.get("disable_type_dedupe"):
            assert destination_db.value("select to_regclass(%s)", f"{namespace}.s") is None


def run_sync(db: Database, sync: Json, generation: int, namespace: str, *, forgetful: bool, **options: object) -> None:
    """One sync of a case, and what must be in the tables after it."""
    repeat = min(sync.get("repeat", 1), REPEATED_AT_MOST)
    catalog = {"streams": [configured_stream(sync, generation, namespace=namespace)]}
    outcome = write(db, catalog, lines_of(sync, namespace=namespace, repeat=repeat), **options)
    assert outcome.exit_code == (1 if "failure" in sync.get("expect", "") else 0), outcome
    # Where a case stands for several generations, its files name one of them.
    stamped = generation if sync["generation_id"] == "$g" else sync.get("set_generation_id")
    shown = without_meta if forgetful else dict[str, Any]
    for table, in_schema, wanted in (
        (f"{namespace}_raw__stream_s", "airbyte_internal", sync["expected_raw"]),
        ("s", namespace, sync["expected_final"]),
    ):
        if wanted is not None:
            times = repeat if wanted == sync["expected_raw"] else 1
            expect_same(stored(db, in_schema, table), expected(wanted, stamped) * times, shown)


def without_meta(row: Json) -> Json:
    return {key: value for key, value in row.items() if key != "_airbyte_meta"}
