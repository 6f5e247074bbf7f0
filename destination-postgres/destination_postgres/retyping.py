"""Raw rows become rows of the final table by the same code as rows that come now.

For those that are in no final table yet: of 2.x, which types at the end of a sync only, of version 1, or of syncs that
wrote raw tables alone. They are read by a connection of their own, through one cursor, and brought in by the thousand,
each time in one transaction with the mark that a row is typed (_airbyte_loaded_at). So what is killed goes on there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from typing import TypeVar

from msgspec import Raw
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from destination_postgres import final, refillsql, sqlgen
from destination_postgres.exact import NULL
from destination_postgres.rowcode import RowEncoder, StoredRecord
from destination_postgres.streams import StreamPlan, Target
from destination_postgres.tables import deleting
from destination_postgres.transactions import retried, trial

# What is fetched at once, and brought in at once, has about so many bytes of data and at most so many rows.
_FETCH_BYTES = 1 << 20
_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 100_000

_log = logging.getLogger(__name__)
Stored = tuple[str, StoredRecord]
_Transaction = Callable[[], AbstractContextManager[Cursor]]
_Item = TypeVar("_Item")


def type_untyped(
    connect: Callable[[], Connection], transaction: _Transaction, plan: StreamPlan, target: Target, encoder: RowEncoder
) -> None:
    """Bring the rows of ``target``'s raw table that have not been typed into its final table.

    Of a stream that is deduplicated the deletions as well that have been: earlier versions keep no other tombstones.
    ``transaction`` opens one for the changes; ``connect`` makes a connection to read by.
    """
    marks = plan.dedup is not None and plan.dedup.deleted_at is not None and target.tombstones is not None
    with closing(connect()) as reading, trial(reading) as cursor:
        count = 0
        cursor.execute(sqlgen.declare_untyped("raw_rows", target.raw, refillsql.STORED, with_deletions=marks))
        for batch in batches(stored(cursor, "raw_rows", plan)):
            retried(lambda batch=batch: _bring_in(transaction, plan, target, encoder, batch))  # type: ignore[misc]
            count += len(batch)
            _log.info("typed rows of the raw table: stream=%s rows=%d", plan.label, count)


def _bring_in(
    transaction: _Transaction, plan: StreamPlan, target: Target, encoder: RowEncoder, batch: Sequence[Stored]
) -> None:
    records = [record for _, record in batch]
    rows, truncations = encoder.encode_stored(records)
    with transaction() as cursor:
        final.load(cursor, plan, target, [rows], truncations)
        with deleting(cursor, target.raw, plan.id):
            cursor.execute(sqlgen.mark_typed(target.raw), ([place for place, _ in batch],))


def stored(cursor: Cursor, declared: str, plan: StreamPlan) -> Iterator[Stored]:
    """The raw rows of a cursor that was declared over them, each with its place in the table."""
    fetch = 100
    while True:
        cursor.execute(sqlgen.fetch(declared, fetch))
        rows = cursor.fetchall()
        size = 0
        for place, raw_id, extracted_at, generation, data, meta, sync_id in rows:
            size += len(data)
            record = StoredRecord(
                plan.id.name,
                Raw(data.encode()),
                0,
                plan.id.namespace,
                Raw((meta or "").encode()),
                raw_id,
                extracted_at,
                NULL if generation is None else str(generation),
                sync_id or "null",
            )
            yield place, record
        if len(rows) < fetch:
            return
        fetch = max(1, min(5000, fetch * _FETCH_BYTES // max(size, 1)))


def batches(rows: Iterator[Stored]) -> Iterator[list[Stored]]:
    """The rows in parts that fit memory, each as many as one transaction takes."""
    batch: list[Stored] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row[1].data)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
