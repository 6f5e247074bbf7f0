"""What happens on the server, one transaction at a time: streams are opened, batches written, generations completed."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.catalog import ConfiguredStream
from airbyte_pg.connect import connect
from airbyte_pg.errors import ConfigError, StreamName
from destination_postgres import final, migration, raw, refill, sqlgen, swap
from destination_postgres.buffers import Batch, StreamBuffer
from destination_postgres.ledger import Entry, History, Ledger, Opening, histories, is_continued, open_generation
from destination_postgres.naming import raw_schema_name, schema_name
from destination_postgres.positions import Place, later
from destination_postgres.raw_ids import RawIds
from destination_postgres.refill import Refill
from destination_postgres.refusals import broken_rule
from destination_postgres.retyping import type_untyped
from destination_postgres.rowcode import RowEncoder
from destination_postgres.settings import APPLICATION_NAME, DestinationSettings
from destination_postgres.sqlgen import Dedup, Table
from destination_postgres.streams import StreamPlan, Target, plan_streams
from destination_postgres.tables import columns_of, ensure_schema, is_filled, types_of
from destination_postgres.transactions import retried, transaction

_log = logging.getLogger(__name__)

_STREAMS_PER_TRANSACTION = 100
# numeric knows the infinities from here on.
_NUMERIC_INFINITY_VERSION = 140_000


@dataclass(frozen=True)
class OpenStream:
    """A stream that is being written: where to, and as which generation.

    ``is_untyped``: the raw table has rows that the final one lacks; ``place``: how far the rows have come.
    """

    plan: StreamPlan
    opening: Opening
    is_untyped: bool = False
    place: Place | None = None

    @property
    def is_untold(self) -> bool:
        """Whether a STATE that tells how far it is decides if another attempt goes on from there."""
        return self.opening.building and self.plan.overwrite and self.plan.resumable and not self.opening.told

    @property
    def target(self) -> Target:
        """The tables that rows go to now."""
        return self.plan.aside if self.opening.aside else self.plan.visible


class Loader:
    """Writes the streams of one catalog over one connection; every method is whole transactions, or raises."""

    def __init__(self, connection: Connection, settings: DestinationSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._raw_schema = raw_schema_name(settings.raw_data_schema)
        self._ledger = Ledger(self._raw_schema)
        schemas = tuple(map(schema_name, settings.schema_names))
        self._transaction = partial(transaction, connection, schemas, settings.timeouts)
        self._connect_again = partial(connect, settings, application_name=APPLICATION_NAME)
        self._streams: dict[StreamName, OpenStream] = {}
        self._writer = secrets.token_hex(8)

    def open(self, configured: Sequence[ConfiguredStream]) -> list[OpenStream]:
        """Make everything ready for ``configured``: schemas, ledger, tables. Raises ConfigError for what cannot be."""
        retried(self._ensure_ledger, creating=True)
        # A second transaction: the names must be read after whoever created the ledger has committed.
        with self._transaction() as cursor:
            recorded = self._ledger.names(cursor)
        plans = plan_streams(
            configured, self._settings.default_schema, self._raw_schema, recorded, self._settings.layout
        )
        for plan in plans:
            opened = self._open(plan)
            self._streams[opened.plan.id] = opened
            if opened.is_untyped and plan.has_final:
                self._type_untyped(opened)
        return list(self._streams.values())

    def encoder(self, opened: OpenStream, ids: RawIds) -> RowEncoder:
        """What makes the rows of a stream."""
        plan = opened.plan
        return RowEncoder(
            plan.id,
            plan.columns,
            ids,
            generation_id=opened.opening.generation,
            sync_id=plan.sync_id,
            numeric_infinity=self._connection.server_version >= _NUMERIC_INFINITY_VERSION,
            retention=plan.layout.retention,
            raw_only=plan.layout.raw_only,
            has_truncations=plan.dedup is not None and plan.deleted_at is not None,
        )

    def write(self, batch: Batch) -> None:
        """Write the rows of ``batch`` in one transaction, and log what was committed.

        Rows of more than ``_STREAMS_PER_TRANSACTION`` streams take several: each holds locks of some tables and
        indexes per stream, and the server's lock table is small (max_locks_per_transaction).
        """
        if not batch.has_rows and not batch.told:
            return
        # Always in the same order, so that two syncs cannot wait for each other's locks.
        ordered = sorted(batch.streams.items(), key=lambda item: str(self._streams[item[0]].target.final))
        parts = [ordered[at : at + _STREAMS_PER_TRANSACTION] for at in range(0, len(ordered), _STREAMS_PER_TRANSACTION)]
        for part in parts or [[]]:
            is_last = not parts or part is parts[-1]
            self._change(partial(self._write_once, part, batch.told if is_last else ()))
            for stream, buffer in part:
                label = self._streams[stream].plan.label
                # The runner of `airbyte-pg sync` reads this line.
                _log.info("committed stream=%s rows=%d bytes=%d", label, buffer.row_count, buffer.data_bytes)

    def complete(self, stream: StreamName) -> None:
        """All rows of ``stream`` have been written: a generation that was built takes the place of the old one."""
        opened = self._streams[stream]
        if not opened.opening.building:
            return
        if opened.opening.aside and opened.plan.has_final:
            retried(partial(self._make_aside_ready, opened.plan))
        self._change(lambda: self._complete_once(opened))

    def _change(self, work: Callable[[], None]) -> None:
        """Do ``work()``, one whole transaction. Raises ConfigError for a rule that is checked at its end only."""
        try:
            retried(work)
        except psycopg2.IntegrityError as error:
            # A deferred constraint: the server alone says of which table, which may be one that refers to ours.
            table = Table(error.diag.schema_name or "", error.diag.table_name or "")
            plans = (opened.plan for opened in self._streams.values())
            stream = next((plan.id for plan in plans if plan.visible.final == table), None)
            rule = broken_rule(error, table, stream) if table.name else None
            if rule is None:
                raise
            raise rule from error

    def _ensure_ledger(self) -> None:
        with self._transaction() as cursor:
            ensure_schema(cursor, self._raw_schema)
            self._ledger.ensure(cursor)

    def _open(self, plan: StreamPlan) -> OpenStream:
        opened = retried(partial(self._open_one, plan), creating=True)
        if isinstance(opened, OpenStream):
            return opened
        fitted, started = opened
        encoder = self.encoder(OpenStream(fitted, Opening(None)), RawIds())
        refill.run(self._connect_again, self._transaction, fitted, started, encoder, self._remember(fitted))
        retried(partial(self._end_refill, fitted, started))
        return self._open(plan)

    def _open_one(self, plan: StreamPlan) -> OpenStream | tuple[StreamPlan, Refill]:
        """The stream, open; or columns that are to be filled first."""
        with self._transaction() as cursor:
            ensure_schema(cursor, plan.visible.final.schema)
            entry = self._ledger.entry(cursor, plan)
            found = types_of(cursor, plan.visible.final) if plan.has_final else {}
            if is_continued(plan, entry):
                plan = plan.fitted(found)
            if entry.history == "replaced" and plan.has_final and is_continued(plan, entry):
                final.clear(cursor, plan)
                entry = replace(entry, history="untyped")
            if (started := self._begin_refill(cursor, plan, entry, found)) is not None:
                return plan, started
            if entry.history is None:
                entry = self._taken_over(cursor, plan, entry)
            if plan.has_raw:
                raw.ensure(cursor, plan.visible.raw, plan.id)
            opening = open_generation(plan, entry, filled=_is_filled(cursor, plan))
            kept = histories(plan, entry, opening)
            self._make_ready(cursor, plan, entry, opening)
            building = opening.generation if opening.building else None
            told = opening.building and not opening.discard and entry.told
            # Visible rows that are to be replaced are left as they are.
            columns = tuple(column.name for column in plan.columns) if plan.has_final else entry.columns
            rules = (entry.dedup, plan.dedup) if opening.aside else (plan.dedup, None)
            had = (entry.columns, columns) if opening.aside else (columns, ())
            now = Entry(entry.complete, building, opening.aside, *kept, rules[0], told, rules[1], *had)
            if entry.aside and not (opening.aside or opening.adopt or opening.discard):
                # Another generation's sync: what a broken refresh has acknowledged waits for its own.
                now = replace(
                    now,
                    building=entry.building,
                    aside=True,
                    told=entry.told,
                    building_history=entry.building_history,
                    building_dedup=entry.building_dedup,
                    building_columns=entry.building_columns,
                )
            places = _places(entry, opening)
            there = {*now.columns, *now.building_columns}
            by_field = {field: name for field, name in entry.names_by_field.items() if name in there}
            now = replace(
                now,
                names_by_field={**by_field, **plan.names_by_field},
                place=places[0],
                building_place=places[1],
                is_made_up=entry.is_made_up,
                writer=self._writer,
            )
            self._ledger.record(cursor, plan, now)
        return OpenStream(plan, replace(opening, told=told), kept[opening.aside] == "untyped", places[opening.aside])

    def _begin_refill(self, cursor: Cursor, plan: StreamPlan, entry: Entry, found: Mapping[str, str]) -> Refill | None:
        is_kept = is_continued(plan, entry)
        if not is_kept and entry.refill is not None:
            refill.abandon(cursor, plan, entry.refill)
        if not is_kept or not found or (entry.refill is None and not refill.needed(plan, found)):
            return None
        started = refill.begin(cursor, plan, entry.refill, entry.columns, is_whole=entry.history in (None, "whole"))
        if started is not None:
            self._ledger.record(cursor, plan, replace(entry, refill=started))
        return started

    def _remember(self, plan: StreamPlan) -> Callable[[Cursor, Refill], None]:
        return lambda cursor, started: self._ledger.refilled(cursor, plan, started)

    def _end_refill(self, plan: StreamPlan, started: Refill) -> None:
        with self._transaction() as cursor:
            entry = self._ledger.entry(cursor, plan)
            if entry.refill is None or entry.refill.columns != started.columns:
                # Another sync of the stream was quicker.
                return
            entry = replace(entry, refill=None)
            refill.end(cursor, plan, started)
            if plan.dedup is not None and {*plan.dedup.key, plan.dedup.cursor} & started.beside.keys():
                # What was equal may be no more, or the other way round.
                entry = replace(entry, dedup=None)
                cursor.execute(
                    sqlgen.drop_tables([plan.visible.tombstones] if plan.visible.tombstones else plan.forgotten)
                )
            self._ledger.record(cursor, plan, entry)

    def _taken_over(self, cursor: Cursor, plan: StreamPlan, entry: Entry) -> Entry:
        """``entry``, of a stream that is new to the ledger, with what earlier versions have left of it."""
        table = plan.visible.raw
        old = migration.of_version_1(cursor, plan) if plan.is_kept and not columns_of(cursor, table) else None
        if old is not None:
            _log.info("takes over the rows of version 1: stream=%s table=%s", plan.label, old)
            raw.ensure(cursor, table, plan.id)
            migration.migrate(cursor, old, table)
        # 2.x types what it has acknowledged at the end of a sync only, and its raw rows are its tombstones.
        has_deletions = plan.dedup is not None and plan.dedup.deleted_at is not None and is_filled(cursor, table)
        return replace(entry, history="untyped") if has_deletions or raw.has_untyped(cursor, table) else entry

    def _type_untyped(self, opened: OpenStream) -> None:
        plan = opened.plan
        type_untyped(self._connect_again, self._transaction, plan, opened.target, self.encoder(opened, RawIds()))
        with self._transaction() as cursor:
            entry = self._ledger.entry(cursor, plan)
            # Nothing says that syncs without final tables have kept all rows.
            if opened.opening.aside:
                now = replace(entry, building_history="partial")
            else:
                now = replace(entry, history="partial")
            self._ledger.record(cursor, plan, now)

    def _make_ready(self, cursor: Cursor, plan: StreamPlan, entry: Entry, opening: Opening) -> None:
        """Make the tables that the sync begins with."""
        if opening.discard:
            cursor.execute(sqlgen.drop_tables(plan.aside.tables))
        if opening.aside:
            if plan.has_final:
                final.expect_room(cursor, plan, entry.columns)
                is_typed = not opening.discard and entry.building_history != "untyped"
                if is_typed and not columns_of(cursor, plan.aside.final):
                    raise ConfigError(
                        f"The generation that is being built has lost its table {plan.aside.final}.",
                        remedy="Begin a new refresh of the stream.",
                        stream=plan.id,
                    )
            before = Entry() if opening.discard else entry
            self._ensure(cursor, plan, plan.aside, before.building_dedup, before.building_columns)
            return
        if opening.discard:
            # There is nothing in them, or nothing that is to stay.
            tombstones = [plan.visible.tombstones] if plan.visible.tombstones else []
            if tombstones or plan.forgotten:
                cursor.execute(sqlgen.drop_tables([*tombstones, *plan.forgotten]))
            if plan.has_final:
                final.make_room(cursor, plan, entry.dedup, entry.columns)
        if opening.adopt:
            # Deletions, too, of which an append would know nothing.
            rule, buried = entry.building_dedup, plan.forgotten[1:]
            if plan.dedup is None and plan.has_final and rule is not None and buried and columns_of(cursor, *buried):
                plan = plan.under(rule)
        self._ensure(cursor, plan, plan.visible, entry.dedup, entry.columns)
        if opening.adopt:
            self._ensure(cursor, plan, plan.aside, entry.building_dedup, entry.building_columns)
            if plan.has_raw:
                raw.move(cursor, plan.aside.raw, plan.visible.raw)
            if plan.has_final:
                final.move(cursor, plan, plan.aside, plan.visible)
            cursor.execute(sqlgen.drop_tables(plan.aside.tables))

    def _ensure(
        self, cursor: Cursor, plan: StreamPlan, target: Target, settled: Dedup | None, former: Sequence[str]
    ) -> None:
        if plan.has_raw:
            raw.ensure(cursor, target.raw, plan.id)
        if plan.has_final:
            final.ensure(cursor, plan, target, settled, former)

    def _write_once(self, ordered: Sequence[tuple[StreamName, StreamBuffer]], told: Iterable[StreamName]) -> None:
        with self._transaction() as cursor:
            streams = [self._streams[stream] for stream, _ in ordered]
            alone = [each.plan for each in streams if each.opening.building or each.plan.is_positioned]
            self._ledger.expect_writer(cursor, alone, self._writer)
            for stream in told:
                self._ledger.tell(cursor, self._streams[stream].plan)
            for stream, buffer in ordered:
                opened = self._streams[stream]
                raw_rows = buffer.raw
                if opened.plan.has_final:
                    mended = final.load(cursor, opened.plan, opened.target, buffer.final, buffer.truncations)
                    raw_rows = [*raw_rows, *(buffer.spare_raw_row(*row) for row in mended.items())]
                if any(raw_rows):
                    raw.load(cursor, opened.target.raw, raw_rows, stream)
                if buffer.place is not None:
                    self._ledger.advance(cursor, opened.plan, buffer.place, aside=opened.opening.aside)

    def _make_aside_ready(self, plan: StreamPlan) -> None:
        with self._transaction() as cursor:
            if final.is_plain(cursor, plan):
                final.make_ready(cursor, plan)

    def _complete_once(self, opened: OpenStream) -> None:
        plan = opened.plan
        with self._transaction() as cursor:
            self._ledger.expect_writer(cursor, [plan], self._writer)
            entry = self._ledger.entry(cursor, plan)
            if opened.opening.aside:
                horizon = swap.horizon(cursor)
                if plan.has_final:
                    final.replace(cursor, plan, entry.dedup, entry.columns, horizon=horizon)
                if plan.has_raw:
                    raw.replace(cursor, plan.aside.raw, plan.visible.raw, plan.id, horizon=horizon)
                cursor.execute(sqlgen.drop_tables([*plan.aside.tables, *plan.forgotten]))
            history: History | None = entry.history
            columns = entry.columns
            if opened.opening.aside:
                history, columns = entry.building_history, entry.building_columns
            if not plan.has_final:
                history = "replaced"
            done = Entry(
                opened.opening.generation,
                history=history,
                dedup=plan.dedup,
                columns=columns,
                place=entry.building_place if opened.opening.aside else entry.place,
                names_by_field=entry.names_by_field,
                is_made_up=plan.generation_id is None,
                writer=self._writer,
            )
            self._ledger.record(cursor, plan, done)


def _is_filled(cursor: Cursor, plan: StreamPlan) -> bool:
    tables = [plan.visible.raw] if plan.has_raw else []
    if plan.has_final:
        tables += [plan.visible.final, *([plan.visible.tombstones] if plan.visible.tombstones else [])]
    return any(is_filled(cursor, table) for table in tables)


def _places(entry: Entry, opening: Opening) -> tuple[Place | None, Place | None]:
    """How far the visible rows have come, and those that are built aside."""
    if opening.aside:
        return entry.place, None if opening.discard else entry.building_place
    if opening.discard:
        return None, None
    if opening.adopt:
        return later(entry.place, entry.building_place), None
    return entry.place, entry.building_place if entry.aside else None
