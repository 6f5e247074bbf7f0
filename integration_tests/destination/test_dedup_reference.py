"""What is left of any number of changes in any order: what ten lines of Python say, however the changes are cut up."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from integration_tests.destination.writing import record, state, sync
from integration_tests.support.catalogs import configured, stream
from integration_tests.support.databases import Database

SEED = int(os.environ.get("DEDUP_SEED", "0")) or random.SystemRandom().randrange(10**9)
CHANGES = 1_000_000 if "WORKLOAD_SEEDS" in os.environ else 300_000
DELETED = "2024-01-01T00:00:00Z"


class Change(NamedTuple):
    """One record, by what decides; ``v`` is unique, so it stands for the whole row."""

    key: tuple[Any, ...]
    cursor: Any
    emitted_at: int
    is_deletion: bool
    v: str


def left(changes: Iterable[Change], *, soft: bool = False) -> list[str]:
    """The rows that must be left: the newest of each key, by cursor, then extraction, then arrival."""
    newest: dict[tuple[Any, ...], Change] = {}
    for change in changes:
        other = newest.get(change.key)
        if other is None or _age(change) >= _age(other):
            newest[change.key] = change
    return sorted(change.v for change in newest.values() if soft or not change.is_deletion)


def _age(change: Change) -> tuple[Any, ...]:
    # None is oldest, and must not be compared with a value.
    known = () if change.cursor is None else (change.cursor,)
    return (len(known), *known, change.emitted_at)


# Short lists of values, so that keys and cursors meet; numbers are equal whatever their spelling.
POOLS: dict[str, list[Any]] = {
    "integer": [-3, 0, 1, 2, 10**18],
    "number": [Decimal("1"), Decimal("1.0"), Decimal("-0.5"), Decimal("10"), Decimal("9e30")],
    "string": ["", "a", "B", "tab\t", 'quote"\\'],
    "boolean": [True, False],
    "date": ["2024-01-01", "2024-02-29", "0001-01-01"],
    "timestamp": ["2024-01-01T00:00:00", "2024-01-01T00:00:00.000001", "1999-12-31T23:59:59"],
    "timestamptz": ["2024-01-01T00:00:00.000Z", "2024-01-01T00:00:00.500Z", "1999-12-31T23:59:59.000Z"],
    "object": ['{"a":1}', '{"a":2,"b":null}', "{}"],
}

# Key columns and cursor, each name:type; a cursor that is one of the key's columns, or none.
VARIANTS: dict[str, tuple[list[str], str | None]] = {
    "plain": (["id:integer"], "_ab_cdc_lsn:number"),
    "no_cursor": (["id:integer"], None),
    "composite": (["id:integer", "part:string"], "_ab_cdc_lsn:number"),
    "of_three": (["a:string", "b:number", "c:date"], "n:integer"),
    "key_is_cursor": (["id:integer"], "id:integer"),
    "part_is_cursor": (["id:integer", "part:timestamptz"], "part:timestamptz"),
    "number_key": (["id:number"], "at:timestamptz"),
    "boolean_key": (["id:boolean"], "_ab_cdc_cursor:integer"),
    "object_key": (["id:object"], "_ab_cdc_lsn:number"),
    "date_key": (["id:date"], "word:string"),
    "timestamp_key": (["id:timestamp"], "is_so:boolean"),
    "string_key": (["id:string"], "day:date"),
    "odd_names": (['the "key":string', "%s:integer"], "select * from:integer"),
}


def catalog() -> dict[str, Any]:
    """Every variant as a stream of its own."""
    streams = []
    for name, (key, cursor) in VARIANTS.items():
        columns = dict(column.rsplit(":", 1) for column in [*key, *([cursor] if cursor else []), "v:string"])
        columns |= {"_ab_cdc_deleted_at": "string"}
        made = stream(name, columns, key=[column.rsplit(":", 1)[0] for column in key])
        streams.append(made | {"default_cursor_field": [cursor.rsplit(":", 1)[0]] if cursor else []})
    return configured(streams, destination="append_dedup")


def invented(rnd: random.Random, variant: str, number: int) -> Change:
    """Any change of a variant; some key parts and cursors are NULL."""
    key_columns, cursor_column = VARIANTS[variant]
    values = {column: rnd.choice([None, *POOLS[column.rsplit(":", 1)[1]]]) for column in key_columns}
    if cursor_column and cursor_column not in values:
        values[cursor_column] = rnd.choice([None, *POOLS[cursor_column.rsplit(":", 1)[1]]])
    cursor = values[cursor_column] if cursor_column else None
    key = tuple(values[column] for column in key_columns)
    return Change(key, cursor, rnd.choice([1000, 2000, 3000]), rnd.random() < 0.3, f"v{number:06}")


def line(variant: str, change: Change) -> bytes:
    key_columns, cursor_column = VARIANTS[variant]
    named = dict(zip(key_columns, change.key, strict=True)) | ({cursor_column: change.cursor} if cursor_column else {})
    kinds = {column.rsplit(":", 1)[0]: (column.rsplit(":", 1)[1], value) for column, value in named.items()}
    texts = {name: _json(kind, value) for name, (kind, value) in kinds.items()} | {"v": json.dumps(change.v)}
    if change.is_deletion:
        texts["_ab_cdc_deleted_at"] = json.dumps(DELETED)
    data = ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items())
    return record(f"{{{data}}}", variant, emitted_at=change.emitted_at)


def _json(kind: str, value: Any) -> str:
    if value is None:
        return "null"
    return str(value) if kind in ("number", "object") else json.dumps(value)


def cut(rnd: random.Random, lines: list[bytes], largest: int) -> Iterator[bytes]:
    """The lines with a STATE here and there; with ``flush_bytes`` 1 each of them ends a flush."""
    while lines:
        size = rnd.randint(1, largest)
        yield b"".join(lines[:size]) + state(size, None)
        lines = lines[size:]


def found(db: Database) -> dict[str, list[str]]:
    return {variant: [v for (v,) in db.rows(f"select v from public.{variant} order by 1")] for variant in VARIANTS}


@pytest.mark.parametrize("mode", ["Hard delete", "Soft delete"])
def test_any_changes_cut_anyhow(destination_db, destination_cluster, mode):
    """The same changes in one flush per sync, and in flushes of a few rows; some come again, as after a crash."""
    print(f"DEDUP_SEED={SEED}")
    rnd = random.Random(SEED)
    told: dict[str, list[Change]] = {variant: [] for variant in VARIANTS}
    with Database(destination_cluster) as other_db:
        for _ in range(3):
            lines = []
            for _ in range(40 * len(VARIANTS)):
                variant = rnd.choice(list(VARIANTS))
                before = told[variant]
                again = before and rnd.random() < 0.1
                change = rnd.choice(before) if again else invented(rnd, variant, sum(map(len, told.values())))
                before.append(change)
                lines.append(line(variant, change))
            sync(destination_db, catalog(), b"".join(cut(rnd, lines, 30)), flush_bytes=1, cdc_deletion_mode=mode)
            sync(other_db, catalog(), b"".join(lines), cdc_deletion_mode=mode)
            expected = {variant: left(changes, soft=mode == "Soft delete") for variant, changes in told.items()}
            assert found(destination_db) == expected
            assert found(other_db) == expected


def test_many_changes_of_few_keys(destination_db):
    """Deletions, cursors out of order, every key thirty times; several syncs of several flushes. Nightly a million."""
    print(f"DEDUP_SEED={SEED}")
    rnd = random.Random(SEED)
    wanted = configured([stream("items", {"id": "integer", "v": "string"}, key=["id"], cdc=True)])
    told: list[Change] = []
    for _ in range(4):
        lines = []
        for _ in range(CHANGES // 4):
            lsn = rnd.randrange(10**7)
            # Some keys come much more often than others.
            key = int(CHANGES * 0.06 * rnd.random() * rnd.random())
            change = Change((key,), lsn, 0, rnd.random() < 0.2, f"v{len(told)}")
            told.append(change)
            deleted = f'"{DELETED}"' if change.is_deletion else "null"
            lines.append(
                f'{{"type":"RECORD","record":{{"stream":"items","namespace":"public","emitted_at":0,"data":'
                f'{{"id":{key},"v":"{change.v}","_ab_cdc_lsn":{lsn},"_ab_cdc_deleted_at":{deleted}}}}}}}\n'
            )
        sync(destination_db, wanted, "".join(lines).encode(), flush_bytes=CHANGES << 3)
    rows = sorted(v for (v,) in destination_db.rows("select v from public.items"))
    assert rows == left(told)
