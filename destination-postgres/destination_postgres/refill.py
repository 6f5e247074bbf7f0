"""Columns that are new, or of another type, in a final table that keeps its rows: filled from the history.

A column of another type is filled beside the old one, under a name of our own, and takes its place when it is full: no
statement writes the table anew under a lock. Raw rows go through the same code as rows that come now, some thousands a
transaction, and the place that was reached is kept in the ledger. Rows whose raw rows are gone keep their values where
those can be converted without loss, and have none in new columns.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import ConfigError
from destination_postgres import final, refillsql, sqlgen
from destination_postgres.naming import helper_name
from destination_postgres.retyping import Stored, batches, stored
from destination_postgres.rowcode import RowEncoder
from destination_postgres.sqlgen import Table
from destination_postgres.streams import StreamPlan
from destination_postgres.tables import comments, expect_no_dependents, expect_ordinary, is_filled, types_of
from destination_postgres.transactions import brief_locks, retried, trial

# Pages of the final table that are converted at once.
_PAGES = 2000

_log = logging.getLogger(__name__)
_Transaction = Callable[[], AbstractContextManager[Cursor]]


@dataclass(frozen=True)
class Refill:
    """What is being filled. ``columns``: by column, the one that is filled: itself, or one that will take its place.

    ``is_converted``: those have the old values, where these can be converted. ``place``: the last raw row that is done
    (its ctid), as long as the raw table is in ``file``.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    is_converted: bool = False
    place: str | None = None
    file: int | None = None

    @property
    def beside(self) -> dict[str, str]:
        """The columns that are of another type, and what will take their place."""
        return {column: filled for column, filled in self.columns.items() if column != filled}

    @property
    def text(self) -> str:
        """As the ledger keeps it."""
        return json.dumps({**vars(self), "columns": dict(self.columns)})


def refill_of(text: str | None) -> Refill | None:
    """What ``Refill.text`` was made of."""
    return None if text is None else Refill(**json.loads(text))


def needed(plan: StreamPlan, found: Mapping[str, str]) -> dict[str, str]:
    """The columns that a final table with these columns and types lacks: by column, the one that is to be filled."""
    wanted = final.types(plan)
    lacking = {}
    for column in plan.columns:
        name = column.name
        if name not in found:
            lacking[name] = name
        elif found[name] != wanted[name] and not (found[name].startswith("numeric(") and wanted[name] == "numeric"):
            lacking[name] = helper_name("column", str(plan.visible.final), name, wanted[name])
    return lacking


def begin(
    cursor: Cursor, plan: StreamPlan, before: Refill | None, former: Collection[str], *, is_whole: bool
) -> Refill | None:
    """Make the columns that are to be filled; None if there is nothing to fill, or nothing to fill it from.

    ``before``: one that was begun and not ended; ``former``: the columns that the stream had; ``is_whole``: the raw
    table has every row. Where values would be lost, nothing is done: whoever opens the table refuses it.

    Raises ConfigError, naming them, for objects that depend on a column of another type, or one that goes, and for
    columns that the stream has not had: they are somebody's.
    """
    table = plan.visible.final
    expect_ordinary(cursor, table, plan.id)
    found = types_of(cursor, table)
    lacking = needed(plan, found)
    if before is not None:
        stale = (set(before.beside.values()) - set(lacking.values())) & found.keys()
        with brief_locks(cursor):
            for filled in stale:
                cursor.execute(sqlgen.drop_column(table, filled, cascade=False))
        # A column that was made and not filled is there already.
        lacking = {name: name for name, filled in before.columns.items() if name == filled and name in found} | lacking
        lacking = {name: filled for name, filled in lacking.items() if name in final.types(plan)}
    wanted = final.types(plan)
    has_history = is_filled(cursor, plan.visible.raw)
    retyped = {name: filled for name, filled in lacking.items() if name != filled}
    has_rows = is_filled(cursor, table)
    if not retyped and not (lacking and has_history and has_rows):
        return None
    if not has_rows and not former:
        # Nobody knows whose it is.
        return None
    _expect_former(plan, {name: found[name] for name in retyped}, former, before)
    unconverted = [name for name in retyped if refillsql.conversion(found[name], wanted[name]) is None]
    # Somebody may have deleted old raw rows, as nothing seems to need them.
    if (has_rows and unconverted) and not (
        is_whole and has_history and not refillsql.has_orphans(cursor, table, plan.visible.raw, unconverted)
    ):
        return None
    surplus = [name for name in found if name in former and name not in wanted]
    _expect_no_dependents(cursor, plan, retyped, surplus)
    with brief_locks(cursor):
        for name, filled in lacking.items():
            if filled not in found:
                cursor.execute(sqlgen.add_column(table, filled, wanted[name]))
    if before is not None and dict(before.columns) == lacking:
        return before
    return Refill(lacking)


def run(
    connect: Callable[[], Connection],
    transaction: _Transaction,
    plan: StreamPlan,
    refill: Refill,
    encoder: RowEncoder,
    remember: Callable[[Cursor, Refill], None],
) -> None:
    """Fill the columns. ``remember`` writes how far it is."""
    _log.info("fills columns of the final table: stream=%s columns=%s", plan.label, ", ".join(refill.columns))
    with transaction() as cursor:
        found, wanted = types_of(cursor, plan.visible.final), final.types(plan)
        file = refillsql.file_of(cursor, plan.visible.raw)
    conversions = {
        filled: (name, conversion)
        for name, filled in refill.beside.items()
        if (conversion := refillsql.conversion(found[name], wanted[name])) is not None
    }
    if conversions and not refill.is_converted:
        _convert(transaction, plan, conversions)
    refill = replace(refill, is_converted=True)
    if refill.file != file:
        # It has not begun, or the raw table was written anew: its rows have other places.
        refill = replace(refill, place=None, file=file)
    if file is None:
        return
    retried(lambda: _index(transaction, plan))
    with closing(connect()) as reading, trial(reading) as cursor:
        cursor.execute(refillsql.declare(plan.visible.raw, refill.place, _fields(plan, refill)))
        count = 0
        for batch in batches(stored(cursor, "raw_rows", plan)):
            refill = replace(refill, place=batch[-1][0])
            retried(lambda batch=batch, refill=refill: _fill(transaction, plan, refill, encoder, batch, remember))  # type: ignore[misc]
            count += len(batch)
            _log.info("filled columns from the raw table: stream=%s rows=%d", plan.label, count)


def end(cursor: Cursor, plan: StreamPlan, refill: Refill) -> None:
    """Let the columns of another type take their places."""
    table = plan.visible.final
    _expect_no_dependents(cursor, plan, refill.beside)
    notes = comments(cursor, table, refill.beside, plan.id) if refill.beside else []
    with brief_locks(cursor):
        cursor.execute(sqlgen.drop_index(table, _index_name(table)))
        for name, filled in refill.beside.items():
            cursor.execute(sqlgen.drop_column(table, name, cascade=plan.layout.drop_cascade))
            cursor.execute(sqlgen.rename_column(table, filled, name))
        for name, text in notes:
            cursor.execute(sqlgen.comment(table, name, text))


def abandon(cursor: Cursor, plan: StreamPlan, refill: Refill) -> None:
    """The rows are to be replaced: what was begun goes."""
    table = plan.visible.final
    found = types_of(cursor, table)
    with brief_locks(cursor):
        cursor.execute(sqlgen.drop_index(table, _index_name(table)))
        for filled in refill.beside.values():
            if filled in found:
                cursor.execute(sqlgen.drop_column(table, filled, cascade=False))


def _expect_former(
    plan: StreamPlan, retyped: Mapping[str, str], former: Collection[str], before: Refill | None
) -> None:
    """Raise ConfigError for a column of another type that somebody else has made, as far as is known."""
    known = {*former, *(before.columns if before else ())}
    wanted = final.types(plan)
    others = [f"{name} ({kind} instead of {wanted[name]})" for name, kind in retyped.items() if name not in known]
    if former and others:
        raise ConfigError(
            f"The stream has new columns, and {plan.visible.final} has others of their names: {', '.join(others)}.",
            remedy="Rename those.",
            stream=plan.id,
        )


def _expect_no_dependents(
    cursor: Cursor, plan: StreamPlan, kept: Collection[str], surplus: Collection[str] = ()
) -> None:
    if not plan.layout.drop_cascade:
        expect_no_dependents(cursor, plan.visible.final, [*kept, *surplus], plan.id, kept=list(kept))


def _fields(plan: StreamPlan, refill: Refill) -> list[str]:
    return [column.field for column in plan.columns if column.name in refill.columns]


def _convert(transaction: _Transaction, plan: StreamPlan, conversions: Mapping[str, tuple[str, str]]) -> None:
    for pages in _page_ranges(transaction, plan.visible.final):

        def once(pages: tuple[int, int] = pages) -> None:
            with transaction() as cursor:
                final.convert(cursor, plan, conversions, pages)

        retried(once)


def _page_ranges(transaction: _Transaction, table: Table) -> Iterator[tuple[int, int]]:
    with transaction() as cursor:
        pages = refillsql.pages_of(cursor, table)
    for first in range(0, pages, _PAGES):
        yield first, min(first + _PAGES, pages)


def _index(transaction: _Transaction, plan: StreamPlan) -> None:
    table = plan.visible.final
    with transaction() as cursor:
        if not refillsql.has_raw_id_index(cursor, table):
            with brief_locks(cursor):
                cursor.execute(sqlgen.create_index(_index_name(table), table, ["_airbyte_raw_id"]))


def _index_name(table: Table) -> str:
    return helper_name("refill", table.schema, table.name)


def _fill(
    transaction: _Transaction,
    plan: StreamPlan,
    refill: Refill,
    encoder: RowEncoder,
    batch: Sequence[Stored],
    remember: Callable[[Cursor, Refill], None],
) -> None:
    rows, _ = encoder.encode_stored([record for _, record in batch])
    with transaction() as cursor:
        # First, as it tells whether the columns are still to be filled.
        remember(cursor, refill)
        final.fill(cursor, plan, rows, refill.columns)
