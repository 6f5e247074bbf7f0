"""Final tables: typed rows, appended or deduplicated by key with tombstones for what was deleted."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import ConfigError
from airbyte_pg.sql import text
from destination_postgres import sqlgen
from destination_postgres.columns import FINAL_META_TYPES
from destination_postgres.copyin import copy_in
from destination_postgres.finalparts import FinalRows
from destination_postgres.naming import EXTRACTED_AT, GENERATION_ID
from destination_postgres.refusals import broken_rule
from destination_postgres.sqlgen import Dedup, Table
from destination_postgres.streams import StreamPlan, Target
from destination_postgres.tables import ensure_key_index, ensure_table

# One lookup per key through the index, whatever the statistics say; and a batch is sorted in memory.
_MERGE_SETTINGS = """\
set local enable_seqscan = off;
set local enable_bitmapscan = off;
set local work_mem = '64MB'"""

_REQUIRED = tuple(column for column in FINAL_META_TYPES if column != GENERATION_ID)


def ensure(cursor: Cursor, plan: StreamPlan, target: Target) -> None:
    """Create the final table and its tombstones if they are missing, with an index on the key.

    Raises ConfigError for a table with other columns than the stream's, or one that is not ours.
    """
    types = _types(plan)
    ensure_table(cursor, target.final, types, required=_REQUIRED, stream=plan.id)
    if plan.dedup is None:
        return
    ensure_key_index(cursor, target.final, plan.dedup.key, plan.id)
    if target.tombstones is not None:
        wanted = {column: types[column] for column in sqlgen.tombstone_columns(plan.dedup)}
        ensure_table(cursor, target.tombstones, wanted, required=[EXTRACTED_AT], stream=plan.id)
        ensure_key_index(cursor, target.tombstones, plan.dedup.key, plan.id)


def open_staging(cursor: Cursor, plan: StreamPlan) -> None:
    """Make the stream's staging table anew: what a killed sync left there has been acknowledged to nobody."""
    if plan.dedup is None:
        return
    cursor.execute(sqlgen.drop_tables([plan.staging]))
    cursor.execute(sqlgen.create_table(plan.staging, _types(plan), unlogged=True))


def close_staging(cursor: Cursor, plan: StreamPlan) -> None:
    """Drop the stream's staging table."""
    cursor.execute(sqlgen.drop_tables([plan.staging]))


def load(cursor: Cursor, plan: StreamPlan, target: Target, chunks: Sequence[bytes]) -> dict[int, str]:
    """Bring rows given as COPY text into the final table of ``target``.

    Returns the raw ids of those of which the server refused something, by position (from 0).
    """
    rows = FinalRows(plan.columns)
    if plan.dedup is None:
        mended = copy_in(cursor, target.final, rows, chunks, plan.id)
    else:
        cursor.execute(sqlgen.truncate(plan.staging))
        mended = copy_in(cursor, plan.staging, rows, chunks, plan.id)
        _merge(cursor, plan, plan.dedup, plan.staging, target)
    return {position: rows.raw_id(row) for position, row in mended.items()}


def move(cursor: Cursor, plan: StreamPlan, origin: Target, target: Target) -> None:
    """Add the rows of ``origin`` to ``target`` as if they were loaded now; its deletions first."""
    if plan.dedup is None:
        _change(cursor, plan, target.final, sqlgen.append(target.final, origin.final, plan.final_columns))
        return
    if origin.tombstones is not None and target.tombstones is not None:
        for null_parts in _null_patterns(cursor, plan.dedup, origin.tombstones):
            buried = sqlgen.delete_buried(target.final, origin.tombstones, plan.dedup, null_parts)
            _change(cursor, plan, target.final, buried)
        columns = sqlgen.tombstone_columns(plan.dedup)
        cursor.execute(sqlgen.append(target.tombstones, origin.tombstones, columns))
    _merge(cursor, plan, plan.dedup, origin.final, target)


def replace(cursor: Cursor, plan: StreamPlan, origin: Target, target: Target) -> None:
    """Put the rows of ``origin`` in the place of those of ``target``.

    The table stays, and with it views, grants and publications; readers see the old rows until the commit.
    """
    _change(cursor, plan, target.final, sqlgen.delete_all(target.final))
    _change(cursor, plan, target.final, sqlgen.append(target.final, origin.final, plan.final_columns))
    if plan.dedup is not None and origin.tombstones is not None and target.tombstones is not None:
        columns = sqlgen.tombstone_columns(plan.dedup)
        cursor.execute(sqlgen.delete_all(target.tombstones))
        cursor.execute(sqlgen.append(target.tombstones, origin.tombstones, columns))


def _merge(cursor: Cursor, plan: StreamPlan, dedup: Dedup, staged: Table, target: Target) -> None:
    cursor.execute(sqlgen.survey(staged, target.tombstones, dedup))
    has_null_parts, has_deletions, has_tombstones = cursor.fetchone() or (True, True, True)
    tombstones = target.tombstones if has_deletions or has_tombstones else None
    patterns = _null_patterns(cursor, dedup, staged) if has_null_parts else [(False,) * len(dedup.key)]
    cursor.execute(_MERGE_SETTINGS)
    for null_parts in patterns:
        merge = sqlgen.merge(staged, target.final, tombstones, plan.final_columns, dedup, null_parts)
        _change(cursor, plan, target.final, merge)


def _change(cursor: Cursor, plan: StreamPlan, table: Table, statement: sql.Composable) -> None:
    """Run a statement that deletes or adds rows of ``table``, by which its constraints may be broken."""
    try:
        cursor.execute(statement)
    except errors.ObjectNotInPrerequisiteState as error:
        remedy = sql.SQL("alter table {} replica identity full;").format(table.sql)
        raise ConfigError(
            f"A publication sends the deletions of {table}, which has no replica identity.",
            remedy=text(remedy, cursor.connection),
            stream=plan.id,
        ) from error
    except psycopg2.Error as error:
        rule = broken_rule(error, table, plan.id)
        if rule is None:
            raise
        raise rule from error


def _null_patterns(cursor: Cursor, dedup: Dedup, table: Table) -> list[tuple[bool, ...]]:
    cursor.execute(sqlgen.null_patterns(table, dedup.key))
    return cursor.fetchall()


def _types(plan: StreamPlan) -> dict[str, str]:
    return {**{column.name: column.kind.sql_type for column in plan.columns}, **FINAL_META_TYPES}
