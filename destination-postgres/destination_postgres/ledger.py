"""The ledger: what the connector remembers of each stream on the server, written in the data's own transactions.

Which names a stream's tables have, which generation they hold completely, and which one is being built, where.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import TransientError
from airbyte_pg.sql import names
from destination_postgres import sqlgen
from destination_postgres.naming import Recorded, TableNames
from destination_postgres.positions import Place, place_of
from destination_postgres.refill import Refill, refill_of
from destination_postgres.sqlgen import Dedup, Table
from destination_postgres.streams import StreamPlan
from destination_postgres.tables import columns_of, create_inner

LEDGER_TABLE = "_airbyte_pg_ledger"

_TYPES = {
    "namespace": "character varying",
    "name": "character varying",
    "raw_table": "character varying",
    "final_schema": "character varying",
    "final_table": "character varying",
    # The last generation that was completed by replacing the one before.
    "generation_complete": "bigint",
    # The generation that is to replace the present rows and is not complete, and whether its rows are in tables of
    # its own (true) or, because there was nothing to replace, in the visible ones.
    "generation_building": "bigint",
    "building_aside": "boolean",
    # Whether a STATE that was given back told how far the one that is being built is, so that it can be resumed.
    "building_told": "boolean",
    # What the raw table holds of the visible rows, and the one that is built aside of those beside it.
    "raw_history": "character varying",
    "building_history": "character varying",
    # By which rule the rows in the final table are deduplicated, and those built aside, as JSON; NULL for none.
    "dedup_rule": "character varying",
    "building_rule": "character varying",
    # The user's columns of the final table, and of what is built aside, as JSON: those that the stream has had.
    "final_columns": "character varying",
    "building_columns": "character varying",
    # Of all these, as a JSON object, the names of those that are not spelt like their fields.
    "names_by_field": "character varying",
    # The last change that is in the visible tables, and in those built aside (positions.py).
    "place": "character varying",
    "building_place": "character varying",
    # The columns of the visible table that are being filled, and how far that is (refill.py).
    "refill": "character varying",
    # Whether the completed generation's number is ours, since the catalog had none.
    "generation_made_up": "boolean",
    # The sync that opened the stream last: an earlier one that still runs must not go on with a generation.
    "writer": "character varying",
    "updated_at": "timestamp with time zone",
}
_KEY = ("namespace", "name")
_ENTRY = (
    "generation_complete",
    "generation_building",
    "building_aside",
    "raw_history",
    "building_history",
    "dedup_rule",
    "building_told",
    "building_rule",
    "final_columns",
    "building_columns",
    "names_by_field",
    "place",
    "building_place",
    "refill",
    "generation_made_up",
    "writer",
)


_COLUMN_NAMES = ("final_columns", "building_columns", "names_by_field")

# Every row that the final table was made of; not all; rows that have never been typed, too; nothing but those, as
# a generation without final tables has replaced what the final rows were made of.
History = Literal["whole", "partial", "untyped", "replaced"]
_WORSE: Final[Sequence[History]] = ("whole", "partial", "untyped", "replaced")


@dataclass(frozen=True)
class Entry:
    """What the ledger says of a stream; the default is one that it does not know.

    ``dedup``: the rule by which the rows are deduplicated (its hashes are not recorded); ``history``: what the raw
    table holds of them; ``columns``: those that the stream had when they were written, as far as is known;
    ``building_dedup``, ``building_history``, ``building_columns``: the same of a generation that is built aside.
    ``names_by_field``: of all these columns, those that are not spelt like their fields.
    ``place``, ``building_place``: how far the visible rows and those built aside have come (positions.py); ``refill``:
    the columns that are being filled.
    ``is_made_up``: the completed generation had no number in the catalog; ``writer``: the sync that opened the stream
    last. ``told``: a STATE has gone back that says how far the one that is being built is.
    """

    complete: int | None = None
    building: int | None = None
    aside: bool = False
    history: History | None = None
    building_history: History | None = None
    dedup: Dedup | None = None
    told: bool = False
    building_dedup: Dedup | None = None
    columns: tuple[str, ...] = ()
    building_columns: tuple[str, ...] = ()
    names_by_field: Mapping[str, str] = field(default_factory=dict)
    place: Place | None = None
    building_place: Place | None = None
    refill: Refill | None = None
    is_made_up: bool = False
    writer: str | None = None


@dataclass(frozen=True)
class Opening:
    """How a sync begins to write a stream.

    ``generation``: what rows are stamped with. ``building``: they replace the present ones when the stream is
    complete; ``aside``: until then they are kept in tables of their own. ``adopt``: what an interrupted build has left
    aside is to be added to the visible tables first; ``discard``: whatever is there is to be thrown away; ``told``: a
    STATE has gone back that says how far it is.
    """

    generation: int | None
    building: bool = False
    aside: bool = False
    adopt: bool = False
    discard: bool = False
    told: bool = False


def open_generation(plan: StreamPlan, entry: Entry, *, filled: bool) -> Opening:
    """How to go on with a stream, by its mode, its generation ids and what was left (reference 2.7).

    ``filled``: whether the visible tables have rows. Without ids, overwrite replaces and the other modes keep.
    """
    generation = plan.generation_id
    if plan.is_kept:
        # Rows of a refresh that was broken off have been acknowledged: nobody will send them again.
        return Opening(generation, adopt=entry.aside)
    if generation is None:
        generation = 1 + max(entry.complete or 0, entry.building or 0)
    elif entry.building == generation:
        # The platform sends the ids of a refresh that it resumes again. A literal overwrite says nothing of that: only
        # a stream that can be resumed goes on, and only if its source has ever said how far it was.
        if not plan.overwrite or (plan.resumable and entry.told):
            return Opening(generation, building=True, aside=entry.aside)
    elif entry.complete == generation and not plan.overwrite and not entry.is_made_up:
        return Opening(generation)
    return Opening(generation, building=True, aside=filled, discard=True)


def is_continued(plan: StreamPlan, entry: Entry) -> bool:
    """Whether the rows of this sync come to those that are visible: also to those of its own generation."""
    opening = open_generation(plan, entry, filled=True)
    return not (opening.aside or opening.discard)


def histories(plan: StreamPlan, entry: Entry, opening: Opening) -> tuple[History | None, History | None]:
    """What the raw table, and that of a generation built aside, will hold when this sync has added to it."""
    if opening.aside:
        return entry.history, _fresh(plan) if opening.discard else _continued(plan, entry.building_history)
    if opening.discard:
        return _fresh(plan), None
    history = _continued(plan, entry.history)
    return _worst(history, _continued(plan, entry.building_history)) if opening.adopt else history, None


def _continued(plan: StreamPlan, before: History | None) -> History:
    fresh = _fresh(plan)
    return fresh if before is None else _worst(before, fresh)


def _fresh(plan: StreamPlan) -> History:
    if plan.layout.raw_only:
        return "untyped"
    return "whole" if plan.layout.retention == "keep" else "partial"


def _worst(one: History, other: History) -> History:
    return max(one, other, key=_WORSE.index)


class Ledger:
    """The ledger table of a raw schema."""

    def __init__(self, raw_schema: str) -> None:
        self._table = Table(raw_schema, LEDGER_TABLE)

    def ensure(self, cursor: Cursor) -> None:
        """Create the table if it is missing, and the columns that it lacks."""
        known = columns_of(cursor, self._table)
        if not known:
            create_inner(cursor, self._table, _TYPES, required=_KEY)
            # Here alone: IF NOT EXISTS would ask for ownership, and lock the table, even where it is there.
            cursor.execute(sqlgen.create_unique_index(f"{LEDGER_TABLE}_stream", self._table, _KEY))
            known = set(_TYPES)
        for column in _TYPES:
            if column not in known:
                cursor.execute(sqlgen.add_column(self._table, column, _TYPES[column]))

    def names(self, cursor: Cursor) -> dict[tuple[str, str], Recorded]:
        """The names of every stream that was ever written, by namespace and name."""
        columns = [*_KEY, "raw_table", "final_schema", "final_table", *_COLUMN_NAMES]
        cursor.execute(sql.SQL("select {} from {}").format(names(columns), self._table.sql))
        found = {}
        for namespace, stream, raw_table, final_schema, final_table, *texts in cursor.fetchall():
            had, building, by_field = (json.loads(text) if text else () for text in texts)
            tables = TableNames(raw_table, final_schema, final_table)
            found[namespace, stream] = Recorded(tables, {*had, *building}, dict(by_field))
        return found

    def entry(self, cursor: Cursor, plan: StreamPlan) -> Entry:
        """What is known of a stream; nobody else changes it until the transaction's end."""
        cursor.execute(
            sql.SQL("select {} from {} where namespace = %s and name = %s for update").format(
                names(_ENTRY),
                self._table.sql,
            ),
            (plan.namespace, plan.id.name),
        )
        row = cursor.fetchone()
        if row is None:
            return Entry()
        complete, building, aside, history, building_history, rule, told, building_rule, *texts, made_up, writer = row
        *texts, place, building_place, refill = texts
        had, building_columns, names_by_field = (json.loads(text) if text else () for text in texts)
        return Entry(
            complete,
            building,
            bool(aside),
            history,
            building_history,
            _rule(rule),
            bool(told),
            _rule(building_rule),
            tuple(had),
            tuple(building_columns),
            dict(names_by_field),
            place_of(place),
            place_of(building_place),
            refill_of(refill),
            is_made_up=bool(made_up),
            writer=writer,
        )

    def expect_writer(self, cursor: Cursor, plans: Sequence[StreamPlan], writer: str) -> None:
        """Raise TransientError if another sync than ``writer`` has opened one of the streams since.

        It cannot do so until this transaction is over.
        """
        if not plans:
            return
        cursor.execute(
            sql.SQL("select writer from {} where (namespace, name) in ({}) for share").format(
                self._table.sql,
                sql.SQL(", ").join(sql.Literal((plan.namespace, plan.id.name)) for plan in plans),
            )
        )
        if any(found != writer for (found,) in cursor.fetchall()):
            raise TransientError(
                "Another sync has begun to write a stream that this one must write alone.",
                remedy="One of the two must end; what this one had acknowledged is kept or read again.",
            )

    def tell(self, cursor: Cursor, plan: StreamPlan) -> None:
        """Remember that a STATE told how far the generation is that is being built."""
        cursor.execute(
            sql.SQL("update {} set building_told = true where namespace = %s and name = %s").format(self._table.sql),
            (plan.namespace, plan.id.name),
        )

    def advance(self, cursor: Cursor, plan: StreamPlan, place: Place, *, aside: bool) -> None:
        """Remember how far the stream has come, with the rows that are written."""
        column = sql.Identifier("building_place" if aside else "place")
        cursor.execute(
            sql.SQL("update {} set {} = %s where namespace = %s and name = %s").format(self._table.sql, column),
            (place.text, plan.namespace, plan.id.name),
        )

    def refilled(self, cursor: Cursor, plan: StreamPlan, refill: Refill) -> None:
        """Remember how far a refill is.

        Raises TransientError if there is none any more: another sync of the stream has ended it.
        """
        cursor.execute(
            sql.SQL("update {} set refill = %s where namespace = %s and name = %s and refill is not null").format(
                self._table.sql
            ),
            (refill.text, plan.namespace, plan.id.name),
        )
        if not cursor.rowcount:
            raise TransientError("Another sync has filled the columns that this one was filling.")

    def record(self, cursor: Cursor, plan: StreamPlan, entry: Entry) -> None:
        """Write what is now so."""
        values = {
            "namespace": plan.namespace,
            "name": plan.id.name,
            "raw_table": plan.visible.raw.name,
            "final_schema": plan.visible.final.schema,
            "final_table": plan.visible.final.name,
            "generation_complete": entry.complete,
            "generation_building": entry.building,
            "building_aside": entry.aside,
            "building_told": entry.told,
            "raw_history": entry.history,
            "building_history": entry.building_history,
            "dedup_rule": _rule_text(entry.dedup),
            "building_rule": _rule_text(entry.building_dedup),
            "final_columns": json.dumps(entry.columns),
            "building_columns": json.dumps(entry.building_columns),
            "names_by_field": json.dumps(dict(entry.names_by_field)),
            "place": entry.place and entry.place.text,
            "building_place": entry.building_place and entry.building_place.text,
            "refill": entry.refill and entry.refill.text,
            "generation_made_up": entry.is_made_up,
            "writer": entry.writer,
        }
        changed = sql.SQL(", ").join(
            sql.SQL("{column} = excluded.{column}").format(column=sql.Identifier(column))
            for column in _TYPES
            if column not in _KEY
        )
        cursor.execute(
            sql.SQL("insert into {} ({}) values ({}, now()) on conflict (namespace, name) do update set {}").format(
                self._table.sql,
                names(_TYPES),
                sql.SQL(", ").join(sql.Placeholder() * len(values)),
                changed,
            ),
            tuple(values.values()),
        )


def _rule_text(dedup: Dedup | None) -> str | None:
    if dedup is None:
        return None
    return json.dumps({"key": dedup.key, "cursor": dedup.cursor, "deleted_at": dedup.deleted_at})


def _rule(text: str | None) -> Dedup | None:
    if text is None:
        return None
    rule = json.loads(text)
    key = tuple(rule["key"])
    return Dedup(key, rule["cursor"], rule["deleted_at"], hashes=(None,) * len(key))
