"""Airbyte's cases of typing: raw rows in (as messages here), typed rows out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from integration_tests.destination.vectors import KEY, cases, expect_same, expected, needs_vectors, objects, stored
from integration_tests.destination.writing import Json, record, state, status, write
from integration_tests.support.catalogs import TYPES
from integration_tests.support.databases import Database

pytestmark = needs_vectors

# Others begin with tables of version 1 (test_migration_vectors).
CASES = [name for name, case in cases("sql_generator").items() if "v1_raw_input" not in case]
COLUMNS: Json = {
    "id1": TYPES["integer"],
    "id2": TYPES["integer"],
    "updated_at": TYPES["timestamptz"],
    "struct": TYPES["object"],
    "array": TYPES["array"],
    "string": TYPES["string"],
    "number": TYPES["number"],
    "integer": TYPES["integer"],
    "boolean": TYPES["boolean"],
    "timestamp_with_timezone": TYPES["timestamptz"],
    "timestamp_without_timezone": TYPES["timestamp"],
    "time_with_timezone": TYPES["timetz"],
    "time_without_timezone": TYPES["time"],
    "date": TYPES["date"],
    "unknown": {},
}


def typed_stream(columns: Json, mode: str, *, name: str = "t") -> Json:
    """The stream of a case."""
    return {
        "stream": {"name": name, "namespace": "public", "json_schema": {"properties": columns}},
        "destination_sync_mode": mode,
        "primary_key": KEY if mode == "append_dedup" else [],
        "cursor_field": ["updated_at"] if "updated_at" in columns else [],
        "generation_id": 42,
        "minimum_generation_id": 0,
    }


@pytest.mark.parametrize("name", CASES)
def test_typing_cases(destination_db, name):
    case = cases("sql_generator")[name]
    # The one case without a file of its own for what goes in is one empty row.
    inputs = [row for file in case.get("raw_input", [case.get("expected_raw")]) for row in objects(file)]
    catalog = {"streams": [typed_stream(columns_of(name, case, inputs), case["mode"])]}
    # What was typed before is a sync of its own.
    loaded = [row for row in inputs if row.get("_airbyte_loaded_at")]
    for rows in (loaded, [row for row in inputs if row not in loaded]):
        given = b"".join(
            record(row["_airbyte_data"], "t", emitted_at=milliseconds(row), meta=row.get("_airbyte_meta"))
            for row in rows
        )
        outcome = write(destination_db, catalog, given + state(1, "t") + status("t"))
        assert outcome.exit_code == 0, outcome
    expect_rows(destination_db, case, len(inputs))


def expect_rows(db: Database, case: Json, given: int) -> None:
    raw, final = stored(db, "airbyte_internal", "public_raw__stream_t"), stored(db, "public", "t")
    counts = case.get("expected_counts", {})
    assert len(raw) == counts.get("raw", given)
    if "expected_raw" in case:
        expect_same(raw, expected(case["expected_raw"]), without_ids)
    if "expected_final" in case:
        expect_same(final, expected(case["expected_final"]), shown)
    else:
        assert len(final) == counts["final"]


def columns_of(name: str, case: Json, inputs: list[Json]) -> Json:
    """The columns of a case: those that it names, or those of all cases and what its rows have besides."""
    if name == "noColumns":
        return {}
    if "columns" in case:
        return {text.split()[0]: TYPES["string"] for text in case["columns"]}
    more: Json = {field: TYPES["string"] for row in inputs for field in row["_airbyte_data"] if field not in COLUMNS}
    if case.get("cdc"):
        more["_ab_cdc_deleted_at"] = TYPES["timestamptz"]
    return {**COLUMNS, **more}


def without_ids(row: Json) -> Json:
    # Ids are columns of these cases' own inputs, not of the messages that a destination is sent.
    return {key: value for key, value in row.items() if key not in {"_airbyte_generation_id", "_airbyte_meta"}}


def shown(row: Json) -> Json:
    """A final row as it is compared: of its meta the changes."""
    changes: list[Any] = row.get("_airbyte_meta", {}).get("changes", [])
    return {**without_ids(row), "changes": changes}


def milliseconds(row: Json) -> int:
    moment = datetime.fromisoformat(row["_airbyte_extracted_at"].replace("Z", "+00:00"))
    return int(moment.timestamp() * 1000)
