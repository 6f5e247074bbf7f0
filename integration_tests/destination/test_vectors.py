"""Airbyte's own typing-and-dedup cases (messages in, raw and final rows out), where their files are at hand.

The files are not part of this repository (../shared/vectors beside it). A platform sends ``overwrite`` as ``append``
with minimum = generation to a destination that supports refreshes, so the cases are run in that way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from integration_tests.destination.writing import Json, line, record, state, status, write
from integration_tests.support.catalogs import TYPES
from integration_tests.support.databases import Database

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "airbyte-destination" / "typing-deduping"

pytestmark = pytest.mark.skipif(not VECTORS.exists(), reason="Airbyte's test vectors are not beside the repository")

# They change the columns of a table between syncs, or begin with tables of another version: not supported yet.
LATER = {
    "testIncrementalSyncDropOneColumn",
    "incrementalDedupChangeCursor",
    "testDropCascade",
    "testMixedCaseRawTableV1V2Migration",
    "testRawTableMetaMigration_append",
    "testRawTableMetaMigration_incrementalDedupe",
    "testAirbyteMetaAndGenerationIdMigration",
    "testVarcharLimitOver64K",
    "testMixedCasedSchema",
    "testV1V2migration",
    "noColumns",
}
# What a case says in words of the configuration.
OPTIONS: dict[str, Json] = {"testDisableTypingDeduping": {"disable_type_dedupe": True}}
# Two streams in one case, no messages of their own, or an expectation in words (see test_generations).
ELSEWHERE = {
    "incrementalDedupDefaultNamespace",
    "incrementalDedupIdenticalName",
    "identicalNameSimultaneousSync",
    "resumeAfterCancelledTruncate",
}
# Their files have forgotten the changes that other files have for the same record.
FORGETFUL = {"mergeRefresh", "interruptedMergeRefresh"}
KEY = [["id1"], ["id2"]]
TABLE_COLUMNS: Json = {
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


def cases(part: str) -> dict[str, Json]:
    if not VECTORS.exists():
        return {"none": {}}
    found = json.loads((VECTORS / "CASES.json").read_text())[part]
    return {name: case for name, case in found.items() if name not in LATER | ELSEWHERE}


def objects(name: str) -> list[Json]:
    lines = (VECTORS / name).read_text().splitlines()
    return [json.loads(text) for text in lines if text.strip() and not text.startswith("//")]


def expected(names: str | list[str] | None, generation: int | None) -> list[Json] | None:
    if names is None:
        return None
    rows = [row for name in ([names] if isinstance(names, str) else names) for row in objects(name)]
    return [plain(row if generation is None else {**row, "_airbyte_generation_id": generation}) for row in rows]


def plain(row: Json) -> Json:
    """A row as it is compared: without ids, moments as instants."""
    left = {key: value for key, value in row.items() if key not in {"_airbyte_raw_id", "_airbyte_loaded_at"}}
    return {key: instant(value) for key, value in left.items()}


def instant(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for spelling in (value, f"2000-01-01T{value}"):
        try:
            moment = datetime.fromisoformat(spelling.replace("Z", "+00:00"))
        except ValueError:
            continue
        return moment.astimezone(timezone.utc).isoformat() if moment.tzinfo else moment.isoformat()
    return value


def stored(db: Database, schema: str, table: str) -> list[Json]:
    """The rows of a table; a SQL NULL is an absent key, a jsonb null is None."""
    db.execute("set timezone = 'UTC'")
    columns = db.rows(
        "select column_name from information_schema.columns where table_schema = %s and table_name = %s", schema, table
    )
    cells = ", ".join(f'to_jsonb("{column}")::text' for (column,) in columns)
    return [
        plain({column: json.loads(cell) for (column,), cell in zip(columns, row, strict=True) if cell is not None})
        for row in db.rows(f'select {cells} from "{schema}"."{table}"')
    ]


def without_meta(row: Json) -> Json:
    return {key: value for key, value in row.items() if key != "_airbyte_meta"}


def same(found: Iterable[Json], wanted: Iterable[Json]) -> bool:
    def sorted_texts(rows: Iterable[Json]) -> list[str]:
        return sorted(json.dumps(row, sort_keys=True) for row in rows)

    assert sorted_texts(found) == sorted_texts(wanted)
    return True


@pytest.mark.parametrize("name", cases("end_to_end"))
def test_end_to_end_cases(destination_db, name):
    case = cases("end_to_end")[name]
    for generation in case.get("for_generation_ids", [42]):
        namespace = f"dat_{generation}"
        for sync in case["syncs"]:
            run_sync(destination_db, sync, generation, namespace, forgetful=name in FORGETFUL, **OPTIONS.get(name, {}))
        if OPTIONS.get(name, {}).get("disable_type_dedupe"):
            assert destination_db.value("select to_regclass(%s)", f"{namespace}.s") is None


def run_sync(db: Database, sync: Json, generation: int, namespace: str, *, forgetful: bool, **options: object) -> None:
    """One sync of a case, and what must be in the tables after it."""
    generation_id = generation if sync["generation_id"] == "$g" else sync["generation_id"]
    minimum = generation if sync["minimum_generation_id"] == "$g" else sync["minimum_generation_id"]
    mode = sync["destination_sync_mode"]
    catalog = {
        "streams": [
            {
                "stream": {
                    "name": "s",
                    "namespace": namespace,
                    "json_schema": json.loads((VECTORS / "inputs/dat/schema.json").read_text()),
                },
                "sync_mode": sync["sync_mode"],
                "destination_sync_mode": "append" if mode == "overwrite" else mode,
                "primary_key": sync.get("primary_key", KEY if mode == "append_dedup" else []),
                "cursor_field": sync.get("cursor", ["updated_at"]),
                "generation_id": generation_id,
                "minimum_generation_id": minimum,
                "sync_id": sync["sync_id"],
            }
        ]
    }
    messages = [message["record"] for name in sync["messages"] for message in objects(name)]
    given = [line("RECORD", record={**message, "stream": "s", "namespace": namespace}) for message in messages]
    value = sync.get("terminal_status", "COMPLETE")
    end = status("s", namespace=namespace, value=value) if value else b""
    repeat = min(sync.get("repeat", 1), 1000)
    outcome = write(db, catalog, b"".join(given) * repeat + state(1, "s", namespace=namespace) + end, **options)
    assert outcome.exit_code == (1 if "failure" in sync.get("expect", "") else 0), outcome
    # Where a case stands for several generations, its files name one of them.
    stamped = generation if sync["generation_id"] == "$g" else sync.get("set_generation_id")
    raw, final = expected(sync["expected_raw"], stamped), expected(sync["expected_final"], stamped)
    shown = without_meta if forgetful else dict
    found = stored(db, "airbyte_internal", f"{namespace}_raw__stream_s")
    assert raw is None or same(map(shown, found), map(shown, raw * repeat))
    assert final is None or same(map(shown, stored(db, namespace, "s")), map(shown, final))


@pytest.mark.parametrize("name", cases("sql_generator"))
def test_typing_cases(destination_db, name):
    case = cases("sql_generator")[name]
    inputs = [row for file in case["raw_input"] for row in objects(file)]
    loaded = [row for row in inputs if row.get("_airbyte_loaded_at")]
    if "columns" in case:
        columns = {text.split()[0]: TYPES["string"] for text in case["columns"]}
    else:
        columns = {**TABLE_COLUMNS, **extra_columns(case, inputs)}
    catalog = {
        "streams": [
            {
                "stream": {"name": "t", "namespace": "public", "json_schema": {"properties": columns}},
                "destination_sync_mode": case["mode"],
                "primary_key": KEY,
                "cursor_field": ["updated_at"] if "updated_at" in columns else [],
                "generation_id": 42,
                "minimum_generation_id": 0,
            }
        ]
    }
    # What was typed before is a sync of its own.
    for rows in (loaded, [row for row in inputs if row not in loaded]):
        given = b"".join(
            record(row["_airbyte_data"], "t", emitted_at=milliseconds(row), meta=row.get("_airbyte_meta"))
            for row in rows
        )
        outcome = write(destination_db, catalog, given + state(1, "t") + status("t"))
        assert outcome.exit_code == 0, outcome
    raw, final = (
        stored(destination_db, "airbyte_internal", "public_raw__stream_t"),
        stored(destination_db, "public", "t"),
    )
    counts = case.get("expected_counts", {})
    assert len(raw) == counts.get("raw", len(inputs))
    assert len(final) == counts.get("final", len(final))
    if "expected_final" in case:
        # Ids are columns of these cases' own inputs, not of the messages that a destination is sent.
        ignored = {"_airbyte_generation_id", "_airbyte_meta"}
        same(
            ({key: value for key, value in row.items() if key not in ignored} | changes(row) for row in final),
            (
                {key: value for key, value in row.items() if key not in ignored} | changes(row)
                for row in expected(case["expected_final"], None) or []
            ),
        )


def extra_columns(case: Json, inputs: list[Json]) -> Json:
    extra: Json = {
        field: TYPES["string"] for row in inputs for field in row["_airbyte_data"] if field not in TABLE_COLUMNS
    }
    if case.get("cdc"):
        extra["_ab_cdc_deleted_at"] = TYPES["timestamptz"]
    return extra


def changes(row: Json) -> Json:
    return {"changes": row.get("_airbyte_meta", {}).get("changes", [])}


def milliseconds(row: Json) -> int:
    moment = datetime.fromisoformat(row["_airbyte_extracted_at"].replace("Z", "+00:00"))
    return int(moment.timestamp() * 1000)
