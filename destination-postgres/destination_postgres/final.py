"""Final tables: typed rows, appended or deduplicated by key with tombstones for what was deleted."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import cursor as Cursor

from destination_postgres import direct, keyindex, mergesql, provisions, refillsql, sqlgen, swap
from destination_postgres.columns import FINAL_META_TYPES
from destination_postgres.copyin import copy_in
from destination_postgres.finalparts import FinalRows
from destination_postgres.naming import EXTRACTED_AT, GENERATION_ID
from destination_postgres.refusals import broken_rule
from destination_postgres.sqlgen import Dedup, Table
from destination_postgres.streams import StreamPlan, Target
from destination_postgres.tables import (
    adaptation,
    delete_all,
    deleting,
    ensure_table,
    expect_no_cascades,
    is_filled,
    types_of,
)
from destination_postgres.transactions import brief_locks

# Whole tables are read, sorted and joined.
_SETTLE_SETTINGS = """\
set local enable_seqscan = on;
set local work_mem = '64MB'"""

_REQUIRED = tuple(column for column in FINAL_META_TYPES if column != GENERATION_ID)

_log = logging.getLogger(__name__)


def ensure(
    cursor: Cursor, plan: StreamPlan, target: Target, settled: Dedup | None, former: Collection[str] = ()
) -> None:
    """Create the final table and its tombstones if they are missing, with an index on the key.

    ``former``: the columns that the stream had; one that is new is added, one that it has no longer removed.
    ``settled``: by which rule the rows that are there have been deduplicated; None if by none that is known of. Rows
    that were written under another rule than the stream's are brought under it.

    Raises ConfigError for a table with other columns than the stream's, or one that is not ours.
    """
    # Nobody else fills what is built aside.
    is_emptied = target == plan.aside and not is_filled(cursor, target.final)
    _adapt(cursor, plan, target.final, former, is_emptied=is_emptied)
    _provide(cursor, plan, target.final)
    dedup = plan.dedup
    if dedup is None:
        return
    expect_no_cascades(cursor, target.final, plan.id)
    is_ranked = settled is not None and (settled.key, settled.cursor) == (dedup.key, dedup.cursor)
    if settled is not None and settled.key != dedup.key:
        keyindex.drop(cursor, target.final, settled)
    keyindex.ensure(cursor, target.final, dedup)
    if target.tombstones is not None:
        _ensure_tombstones(cursor, plan, target.tombstones, dedup, is_known=settled is None or is_ranked)
        keyindex.ensure(cursor, target.tombstones, dedup)
    is_settled = is_ranked and settled is not None and settled.deleted_at == dedup.deleted_at
    if not is_settled and is_filled(cursor, target.final):
        cursor.execute(sqlgen.claim(target.final))
        _settle(cursor, plan, dedup, target, is_ranked=is_ranked)


def load(
    cursor: Cursor, plan: StreamPlan, target: Target, chunks: Sequence[bytes], truncations: Sequence[str] = ()
) -> dict[int, str]:
    """Bring rows given as COPY text into the final table of ``target``.

    ``truncations``: the raw ids of those, of a deduplicated stream, that remove all that is older instead.

    Returns the raw ids of those of which the server refused something, by position (from 0).
    """
    rows = FinalRows(plan.columns)
    if plan.dedup is None:
        mended = copy_in(cursor, target.final, rows, chunks, plan.id)
    elif not truncations and direct.merge(cursor, plan.dedup, target, types(plan), chunks):
        return {}
    else:
        # Nobody else sees it, so nobody holds it up: a dump of the database locks every table that it finds. One flush
        # of the stream at a time, as another one would make a table of the same name; and, where another connection
        # with a raw schema of its own writes into the table, as neither would see the other's keys.
        cursor.execute(
            sql.SQL("; ").join(
                [
                    sqlgen.claim(target.final),
                    sqlgen.drop_tables([plan.staging]),
                    sqlgen.create_table(plan.staging, types(plan), unlogged=True),
                ]
            )
        )
        mended = copy_in(cursor, plan.staging, rows, chunks, plan.id)
        if truncations:
            _truncate(cursor, plan, plan.dedup, target, truncations)
        work = partial(_merge_once, cursor, plan, plan.dedup, plan.staging, target)
        keyindex.with_wide_keys(cursor, _keyed(target), plan.dedup, plan.id, work)
        cursor.execute(sqlgen.drop_tables([plan.staging]))
    return {position: rows.raw_id(row) for position, row in mended.items()}


def fill(cursor: Cursor, plan: StreamPlan, rows: bytes, columns: Mapping[str, str]) -> None:
    """Bring the values of some columns, and the notes on them, into the visible rows that have the raw ids of ``rows``.

    ``columns``: by column of the stream, the one of the table that takes its values.
    """
    cursor.execute(sqlgen.drop_tables([plan.staging]))
    cursor.execute(sqlgen.create_table(plan.staging, types(plan), unlogged=True))
    copy_in(cursor, plan.staging, FinalRows(plan.columns), [rows], plan.id)
    cursor.execute(mergesql.SETTINGS)
    _change(cursor, plan, plan.visible.final, refillsql.fill(plan.visible.final, plan.staging, columns))
    cursor.execute(sqlgen.drop_tables([plan.staging]))


def convert(
    cursor: Cursor, plan: StreamPlan, conversions: Mapping[str, tuple[str, str]], pages: tuple[int, int]
) -> None:
    """Convert values of the visible rows on some pages; see refillsql.convert."""
    table = plan.visible.final
    with _ruled(plan, table), deleting(cursor, table, plan.id):
        cursor.execute(refillsql.convert(table, conversions, cursor.connection.server_version), pages)


def move(cursor: Cursor, plan: StreamPlan, origin: Target, target: Target) -> None:
    """Add the rows of ``origin`` to ``target`` as if they were loaded now; its deletions first."""
    dedup = plan.dedup
    cursor.execute(sqlgen.claim(target.final))
    if dedup is None:
        _change(cursor, plan, target.final, sqlgen.append(target.final, origin.final, plan.final_columns))
        return
    work = partial(_move_once, cursor, plan, dedup, origin, target)
    keyindex.with_wide_keys(cursor, _keyed(target), dedup, plan.id, work)


def expect_room(cursor: Cursor, plan: StreamPlan, former: Collection[str]) -> None:
    """See that there is a visible table that can take the rows of a generation that is built aside.

    Raises ConfigError if it cannot.
    """
    target = plan.visible.final
    if _adaptation(cursor, plan, target, former, is_emptied=True) is None:
        # With the privileges that tables of its schema are given.
        _create(cursor, plan, target)
    _provide(cursor, plan, target)
    expect_no_cascades(cursor, target, plan.id)


def make_room(cursor: Cursor, plan: StreamPlan, before: Dedup | None, former: Collection[str]) -> None:
    """Give the visible table, whose rows are gone, the stream's columns.

    ``before``: by which rule those rows were deduplicated; ``former``: the columns that the stream had.
    """
    _adapt(cursor, plan, plan.visible.final, former, is_emptied=True)
    if before is not None and plan.dedup is not None and plan.dedup.key != before.key:
        keyindex.drop(cursor, plan.visible.final, before)


def clear(cursor: Cursor, plan: StreamPlan) -> None:
    """Delete every visible row."""
    target = plan.visible.final
    if is_filled(cursor, target):
        cursor.execute(sqlgen.claim(target))
        with _ruled(plan, target), deleting(cursor, target, plan.id):
            delete_all(cursor, target, plan.id)


def is_plain(cursor: Cursor, plan: StreamPlan) -> bool:
    """Whether nothing but a reader can keep ``replace`` from taking the table that was built aside as it is."""
    return swap.is_plain(cursor, plan.aside.final, plan.visible.final)


def make_ready(cursor: Cursor, plan: StreamPlan) -> None:
    """Give the table that is to be taken as it is its indexes, and have the server know it, which would else have to
    learn that from the readers."""
    wanted = plan.layout.provisions.columns(plan.visible.final)
    provisions.ensure_indexes(cursor, plan.aside.final, wanted, plan.id)
    cursor.execute(sqlgen.analyze(plan.aside.final))


def replace(cursor: Cursor, plan: StreamPlan, before: Dedup | None, former: Collection[str], *, horizon: str) -> None:
    """Put what was built aside in the place of the visible rows. Readers see the old ones until the commit.

    The table stays, and with it views, grants and publications, unless there is nothing of the kind; see swap.py, also
    for ``horizon``. ``before``: by which rule the visible rows were deduplicated; ``former``: the columns that the
    stream had then.
    """
    origin, target = plan.aside, plan.visible
    cursor.execute(sqlgen.claim(target.final))
    if swap.begin_rename(cursor, origin.final, target.final, horizon=horizon):
        swap.rename(cursor, origin.final, target.final)
        cursor.execute(sqlgen.identify_by_default(target.final))
        wanted = plan.layout.provisions.columns(target.final)
        provisions.rename_indexes(cursor, origin.final, target.final, wanted)
        if plan.dedup is not None:
            keyindex.rename(cursor, origin.final, target.final, plan.dedup)
    elif plan.dedup is None:
        _exchange_once(cursor, plan, before, former)
    else:
        work = partial(_exchange_once, cursor, plan, before, former)
        keyindex.with_wide_keys(cursor, (target.final,), plan.dedup, plan.id, work)
    # A column that was made anew has lost its indexes.
    _provide(cursor, plan, target.final)
    if plan.dedup is not None and origin.tombstones is not None and target.tombstones is not None:
        swap.rename(cursor, origin.tombstones, target.tombstones)
        keyindex.rename(cursor, origin.tombstones, target.tombstones, plan.dedup)


def _move_once(cursor: Cursor, plan: StreamPlan, dedup: Dedup, origin: Target, target: Target) -> None:
    # Whole tables, each row the newest of its key there: joined, not looked up one by one.
    cursor.execute(_SETTLE_SETTINGS)
    if origin.tombstones is not None and target.tombstones is not None:
        for null_parts in _null_patterns(cursor, dedup, origin.tombstones):
            buried = mergesql.delete_older(target.final, origin.tombstones, dedup, null_parts)
            _change(cursor, plan, target.final, buried)
        columns = mergesql.tombstone_columns(dedup)
        cursor.execute(sqlgen.append(target.tombstones, origin.tombstones, columns))
        _apply_deletions(cursor, plan, dedup, origin.final, target)
        cursor.execute(_SETTLE_SETTINGS)
    for null_parts in _null_patterns(cursor, dedup, origin.final):
        _change(cursor, plan, target.final, mergesql.delete_older(target.final, origin.final, dedup, null_parts))
        added = mergesql.insert_missing(origin.final, target.final, plan.final_columns, dedup, null_parts)
        _change(cursor, plan, target.final, added)


def _exchange_once(cursor: Cursor, plan: StreamPlan, before: Dedup | None, former: Collection[str]) -> None:
    target = plan.visible.final
    # First, as no table is altered that has rows to be checked at the transaction's end.
    make_room(cursor, plan, before, former)
    with _ruled(plan, target), deleting(cursor, target, plan.id):
        delete_all(cursor, target, plan.id)
    if plan.dedup is not None:
        keyindex.ensure(cursor, target, plan.dedup)
    _change(cursor, plan, target, sqlgen.append(target, plan.aside.final, plan.final_columns))


def _adapt(cursor: Cursor, plan: StreamPlan, table: Table, former: Collection[str], *, is_emptied: bool) -> None:
    """Give ``table`` the stream's columns; create it if it is missing."""
    statements = _adaptation(cursor, plan, table, former, is_emptied=is_emptied)
    if statements is None:
        _create(cursor, plan, table)
    if not statements:
        return
    _log.info("the final table gets the stream's columns: stream=%s", plan.label)
    # The whole is tried again.
    with brief_locks(cursor):
        for statement in statements:
            cursor.execute(statement)


def _provide(cursor: Cursor, plan: StreamPlan, table: Table) -> None:
    """What is asked for on the visible table; on one that is built aside, what must be there from its beginning."""
    visible, asked = plan.visible.final, plan.layout.provisions
    if table == visible:
        provisions.ensure_indexes(cursor, table, asked.columns(visible), plan.id)
    provisions.ensure_readers(cursor, table, asked.roles(visible), plan.id, is_inner=table != visible)


def _create(cursor: Cursor, plan: StreamPlan, table: Table) -> None:
    is_inner = table == plan.aside.final
    ensure_table(cursor, table, types(plan), required=_REQUIRED, stream=plan.id, is_inner=is_inner)


def _ensure_tombstones(cursor: Cursor, plan: StreamPlan, table: Table, dedup: Dedup, *, is_known: bool) -> None:
    wanted = {column: types(plan)[column] for column in mergesql.tombstone_columns(dedup)}
    found = types_of(cursor, table)
    limited = {
        column: "numeric"
        for column, kind in found.items()
        if kind.startswith("numeric(") and wanted.get(column) == "numeric"
    }
    if not is_known or {**found, **limited} != wanted:
        # What was deleted is not known by the new key, or not how late by the new cursor.
        cursor.execute(sqlgen.drop_tables([table]))
    elif limited:
        cursor.execute(sqlgen.change_types(table, limited))
    ensure_table(cursor, table, wanted, required=[EXTRACTED_AT], stream=plan.id, is_inner=True)


def _adaptation(
    cursor: Cursor, plan: StreamPlan, table: Table, former: Collection[str], *, is_emptied: bool
) -> list[sql.Composed] | None:
    return adaptation(
        cursor,
        table,
        types(plan),
        required=_REQUIRED,
        former=former,
        stream=plan.id,
        cascade=plan.layout.drop_cascade,
        is_emptied=is_emptied,
    )


def _settle(cursor: Cursor, plan: StreamPlan, dedup: Dedup, target: Target, *, is_ranked: bool) -> None:
    """Bring all rows of ``target`` under the rule ``dedup``, as if they had been loaded by it."""
    _log.info("deduplicating the rows that are there: stream=%s", plan.label)
    outranked = 0
    if not is_ranked:
        cursor.execute(_SETTLE_SETTINGS)
        outranked = _change(cursor, plan, target.final, mergesql.delete_outranked(target.final, dedup))
    deletions = 0
    if target.tombstones is not None:
        work = partial(_apply_deletions, cursor, plan, dedup, target.final, target)
        keyindex.with_wide_keys(cursor, _keyed(target), dedup, plan.id, work)
        deletions = _change(cursor, plan, target.final, mergesql.delete_deletions(target.final, dedup))
    _log.info("deduplicated stream=%s outranked=%d deletions=%d", plan.label, outranked, deletions)


def _merge_once(cursor: Cursor, plan: StreamPlan, dedup: Dedup, staged: Table, target: Target) -> None:
    hashed = keyindex.is_hashed(cursor, target.final, dedup)
    cursor.execute(mergesql.SETTINGS)
    cursor.execute(mergesql.survey(staged, target.final, target.tombstones, dedup, hashed=hashed))
    has_null_parts, has_deletions, has_tombstones, has_rivals = cursor.fetchone() or (True, True, True, True)
    if has_deletions or has_tombstones:
        _apply_deletions(cursor, plan, dedup, staged, target)
    if not has_null_parts and not has_rivals:
        _change(cursor, plan, target.final, mergesql.fill(staged, target.final, plan.final_columns, dedup))
        return
    patterns = _null_patterns(cursor, dedup, staged) if has_null_parts else [(False,) * len(dedup.key)]
    for null_parts in patterns:
        merge = mergesql.merge(staged, target.final, plan.final_columns, dedup, null_parts, hashed=hashed)
        _change(cursor, plan, target.final, merge)


def _truncate(cursor: Cursor, plan: StreamPlan, dedup: Dedup, target: Target, truncations: Sequence[str]) -> None:
    """Remove what is older than the truncations that are staged, or mark it as deleted; they go themselves."""
    staged = plan.staging
    cursor.execute(mergesql.last_truncation(staged, dedup, truncations))
    (last,) = cursor.fetchone() or (None,)
    count = 0
    for table in (target.final, staged):
        if dedup.deleted_at is None and plan.deleted_at is not None:
            removal = mergesql.mark_truncated(table, staged, dedup, last, plan.deleted_at)
        else:
            removal = mergesql.delete_truncated(table, staged, dedup, last)
        count += _change(cursor, plan, table, removal)
    cursor.execute(mergesql.delete_rows(staged, truncations))
    _log.info("the source's table was truncated: stream=%s rows=%d", plan.label, count)


def _apply_deletions(cursor: Cursor, plan: StreamPlan, dedup: Dedup, staged: Table, target: Target) -> None:
    """Drop the staged rows that come too late for an earlier deletion, and make tombstones of the staged deletions."""
    if target.tombstones is None:
        return
    hashed = keyindex.is_hashed(cursor, target.tombstones, dedup)
    cursor.execute(mergesql.SETTINGS)
    for null_parts in _null_patterns(cursor, dedup, staged):
        cursor.execute(mergesql.drop_beaten(staged, target.tombstones, dedup, null_parts, hashed=hashed))
        if dedup.deleted_at is not None:
            cursor.execute(mergesql.bury(staged, target.tombstones, dedup, null_parts, hashed=hashed))


def _keyed(target: Target) -> tuple[Table, ...]:
    return (target.final, *([target.tombstones] if target.tombstones else []))


def _change(cursor: Cursor, plan: StreamPlan, table: Table, statement: sql.Composable) -> int:
    """Run a statement that deletes or adds rows of ``table``, by which its constraints may be broken.

    Returns how many rows it counts.
    """
    with _ruled(plan, table), deleting(cursor, table, plan.id):
        cursor.execute(statement)
    return cursor.rowcount


@contextlib.contextmanager
def _ruled(plan: StreamPlan, table: Table) -> Iterator[None]:
    """Raises ConfigError for a rule of ``table`` that is broken in the body."""
    try:
        yield
    except psycopg2.Error as error:
        # A key that is too wide is for keyindex to settle.
        may_be_key = (
            isinstance(error, errors.ProgramLimitExceeded) and plan.dedup is not None and any(plan.dedup.hashes)
        )
        rule = None if may_be_key else broken_rule(error, table, plan.id)
        if rule is None:
            raise
        raise rule from error


def _null_patterns(cursor: Cursor, dedup: Dedup, table: Table) -> list[tuple[bool, ...]]:
    cursor.execute(mergesql.null_patterns(table, dedup.key))
    return cursor.fetchall()


def types(plan: StreamPlan) -> dict[str, str]:
    """The columns of the final table, each with its type."""
    return {**{column.name: column.kind.sql_type for column in plan.columns}, **FINAL_META_TYPES}
