"""Airbyte's own test cases, read where they are at hand, and rows as they are compared with them.

The files are not part of this repository (../shared/vectors beside it).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql

from integration_tests.destination.writing import Json, record, state, status
from integration_tests.support.catalogs import TYPES
from integration_tests.support.databases import Database

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "airbyte-destination"
TYPING = VECTORS / "typing-deduping"

needs_vectors = pytest.mark.skipif(not VECTORS.exists(), reason="Airbyte's test vectors are not beside the repository")

KEY = [["id1"], ["id2"]]
# What raw and final rows are not compared by.
_NOT_COMPARED = {"_airbyte_raw_id", "_airbyte_loaded_at"}


def cases(part: str) -> dict[str, Json]:
    """The cases of a part of CASES.json by name."""
    found: dict[str, Json] = document(TYPING / "CASES.json")[part] if VECTORS.exists() else {}
    return found


def document(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


def exact(text: str) -> Any:
    """JSON as it is compared: no digit of a number is lost."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def objects(name: str, parsed: Callable[[str], Any] = json.loads) -> list[Json]:
    """The lines of a file of the typing-and-dedup cases, without comments."""
    lines = (TYPING / name).read_text().splitlines()
    return [parsed(text) for text in lines if text.strip() and not text.startswith("//")]


def messages(sync: Json) -> list[Json]:
    """The records that a sync of a case sends, without stream and namespace."""
    return [message["record"] for name in sync["messages"] for message in objects(name)]


def records_of(found: Iterable[Json], name: str, namespace: str | None) -> bytes:
    """RECORDs as a source would send them."""
    return b"".join(
        record(each["data"], name, namespace=namespace, emitted_at=each["emitted_at"], meta=each.get("meta"))
        for each in found
    )


def schema(without: str | None = None, **more: str) -> Json:
    """The schema of the end-to-end cases, less one field, with others."""
    found: Json = document(TYPING / "inputs/dat/schema.json")
    found["properties"] = {
        **{field: shown for field, shown in found["properties"].items() if field != without},
        **{field: TYPES[kind] for field, kind in more.items()},
    }
    return found


def configured_stream(
    sync: Json, generation: int = 43, *, namespace: str | None, name: str = "s", json_schema: Json | None = None
) -> Json:
    """The stream of a sync of a case.

    A platform sends ``overwrite`` as ``append`` with minimum = generation to a destination that supports refreshes.
    """
    mode = sync["destination_sync_mode"]
    stream: Json = {"name": name, "json_schema": json_schema or schema()}
    if namespace is not None:
        stream["namespace"] = namespace
    return {
        "stream": stream,
        "sync_mode": sync["sync_mode"],
        "destination_sync_mode": "append" if mode == "overwrite" else mode,
        "primary_key": sync.get("primary_key", KEY if mode == "append_dedup" else []),
        "cursor_field": sync.get("cursor", ["updated_at"]),
        "generation_id": generation if sync["generation_id"] == "$g" else sync["generation_id"],
        "minimum_generation_id": sync["minimum_generation_id"],
        "sync_id": sync["sync_id"],
    }


def lines_of(sync: Json, *, namespace: str | None, name: str = "s", repeat: int = 1) -> bytes:
    """What a sync of a case sends: its records, a state, and the status that it says."""
    value = sync.get("terminal_status", "COMPLETE")
    end = status(name, namespace=namespace, value=value) if value else b""
    return records_of(messages(sync), name, namespace) * repeat + state(1, name, namespace=namespace) + end


def expected(names: str | Iterable[str], generation: int | None = None) -> list[Json]:
    """The rows of one or several files, all of one generation if it is given."""
    rows = [row for name in ([names] if isinstance(names, str) else names) for row in objects(name, exact)]
    return [
        plain(row if generation is None else {**row, "_airbyte_generation_id": Decimal(generation)}) for row in rows
    ]


def plain(row: Json) -> Json:
    """A row as it is compared: without ids, moments as instants."""
    return {key: instant(value) for key, value in row.items() if key not in _NOT_COMPARED}


def instant(value: Any) -> Any:
    """A text that is a moment as one spelling of it; anything else as it is."""
    if not isinstance(value, str):
        return value
    for spelling in (value, f"2000-01-01T{value}"):
        try:
            moment = datetime.fromisoformat(spelling.replace("Z", "+00:00"))
        except ValueError:
            continue
        return moment.astimezone(timezone.utc).isoformat() if moment.tzinfo else moment.isoformat()
    return value


def stored(db: Database, in_schema: str, table: str, columns: Iterable[str] = ()) -> list[Json]:
    """The rows of a table, as they are compared; a SQL NULL is an absent key, a jsonb null is None."""
    db.execute("set timezone = 'UTC'")
    names = list(columns) or columns_of(db, in_schema, table)
    cells = sql.SQL(", ").join(sql.SQL("to_jsonb({})::text").format(sql.Identifier(name)) for name in names)
    query = sql.SQL("select {} from {}").format(cells, sql.Identifier(in_schema, table))
    return [
        plain({name: exact(cell) for name, cell in zip(names, row, strict=True) if cell is not None})
        for row in db.rows(query)
    ]


def columns_of(db: Database, in_schema: str, table: str) -> list[str]:
    """The columns of a table, in its order."""
    query = (
        "select column_name from information_schema.columns where table_schema = %s and table_name = %s"
        " order by ordinal_position"
    )
    return [name for (name,) in db.rows(query, in_schema, table)]


def expect_same(found: Iterable[Json], wanted: Iterable[Json], shown: Callable[[Json], Json] = dict) -> None:
    """The same rows in any order, each as often; ``shown``: what of a row is compared."""

    def texts(rows: Iterable[Json]) -> Counter[str]:
        return Counter(json.dumps(shown(row), sort_keys=True, default=_digits) for row in rows)

    assert texts(found) == texts(wanted)


def expect_tables(db: Database, namespace: str, name: str, *, raw: Iterable[Json], final: Iterable[Json]) -> None:
    """What a stream's raw and final table hold (names without runs of underscores, which need no sanitising)."""
    expect_same(stored(db, "airbyte_internal", f"{namespace}_raw__stream_{name}".lower()), raw)
    expect_same(stored(db, namespace, name), final)


def _digits(number: Decimal) -> list[str]:
    # Not a string, which a JSON string could be as well.
    return [format(number.normalize() + 0, "f")]
