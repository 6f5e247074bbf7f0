"""How far a stream has come in the source's one order of changes: a row that comes again in append mode is known by it.

Our source's ``emit_position`` numbers changes by (LSN of the commit, number within the transaction), rising within a
stream. The place of the last one that was committed stands in the ledger, written with the rows. It counts as long as
slot, server and timeline are the same (``epoch``), which the source's states tell: the first before any change.
Rows of a snapshot have the number 0 and no place in the order; they may come twice. But they are stamped behind every
change that was sent before: one that is not tells that the server was set back (a disk's snapshot put back leaves no
mark on the timeline), so that its changes are others, and begin anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw

from airbyte_pg.positions import COMMIT_FIELD, ORDINAL_FIELD
from destination_postgres.inbox import Record
from destination_postgres.jsontext import INVALID

_log = logging.getLogger(__name__)

FIELDS = frozenset((COMMIT_FIELD, ORDINAL_FIELD))


class Place(NamedTuple):
    """The place of a change; two of one epoch compare as they were committed."""

    epoch: str
    commit: int
    ordinal: int

    @property
    def text(self) -> str:
        """As the ledger keeps it."""
        return msgspec.json.encode(self).decode()


def place_of(text: str | None) -> Place | None:
    """What ``Place.text`` was made of."""
    return None if text is None else Place(*msgspec.json.decode(text))


def later(one: Place | None, other: Place | None) -> Place | None:
    """The later of two; None where that is not known: they are of different epochs."""
    if one is None or other is None:
        return one or other
    return max(one, other) if one.epoch == other.epoch else None


class _Numbers(msgspec.Struct):
    commit: int | None = msgspec.field(default=None, name=COMMIT_FIELD)
    ordinal: int | None = msgspec.field(default=None, name=ORDINAL_FIELD)
    deleted_at: Raw = msgspec.field(default=Raw(b"null"), name="_ab_cdc_deleted_at")


class _Block(msgspec.Struct):
    slot: str
    system_id: str
    timeline: int


class _Cdc(msgspec.Struct):
    cdc: _Block


class _Shared(msgspec.Struct):
    shared: _Block


class _OfStream(msgspec.Struct):
    cdc: _Shared


class _Global(msgspec.Struct):
    shared_state: _Cdc


class _Stream(msgspec.Struct):
    stream_state: _OfStream


class _GlobalState(msgspec.Struct):
    content: _Global = msgspec.field(name="global")


class _StreamState(msgspec.Struct):
    stream: _Stream


_numbers = msgspec.json.Decoder(_Numbers).decode
_of_global = msgspec.json.Decoder(_GlobalState).decode
_of_stream = msgspec.json.Decoder(_StreamState).decode


def epoch_of(state: Raw) -> str | None:
    """What a STATE of our source says of slot, server and timeline; None if it says nothing of them."""
    try:
        block = _of_global(state).content.shared_state.cdc
    except INVALID:
        try:
            block = _of_stream(state).stream.stream_state.cdc.shared
        except INVALID:
            return None
    return f"{block.slot} {block.system_id} {block.timeline}"


class Progress:
    """How far one stream has come."""

    def __init__(self, last: Place | None) -> None:
        """``last``: the place of the last change that an earlier sync has committed."""
        self._last = last
        self._is_judged = False

    def take(self, records: Sequence[Record], epoch: str | None) -> tuple[Sequence[Record], Place | None]:
        """Those of ``records`` that have not been committed before, and the place to be written with them, if any."""
        begun_anew = None
        if self._last is not None and not self._is_judged and self._is_set_back(records, self._last):
            _log.warning("the source's server was set back: its changes are taken for new ones")
            begun_anew, self._last = Place(self._last.epoch, 0, 0), None
        if epoch is None:
            return records, begun_anew
        if self._last is not None and self._last.epoch == epoch:
            records = self._new(records, self._last)
        return records, _last_place(records, epoch) or begun_anew

    def _is_set_back(self, records: Sequence[Record], last: Place) -> bool:
        """Whether the first row of a snapshot is stamped before ``last``."""
        stamp = next((found for found in map(_snapshot_stamp, records) if found is not None), None)
        self._is_judged = stamp is not None
        return stamp is not None and stamp < last.commit

    def _new(self, records: Sequence[Record], last: Place) -> Sequence[Record]:
        kept: list[Record] = []
        for position, record in enumerate(records):
            place = _place(record, last.epoch)
            if place is not None and place > last:
                # What follows is later still.
                self._last = None
                return [*kept, *records[position:]]
            if place is None:
                kept.append(record)
        return kept


def _last_place(records: Sequence[Record], epoch: str) -> Place | None:
    return next(filter(None, (_place(record, epoch) for record in reversed(records))), None)


def _place(record: Record, epoch: str) -> Place | None:
    """The place of a change; None for what is none, as the rows of a snapshot."""
    found = _numbers_of(record)
    if found is None or not found.ordinal or found.commit is None:
        return None
    return Place(epoch, found.commit, found.ordinal)


def _snapshot_stamp(record: Record) -> int | None:
    """The position that a snapshot's row is stamped with; None for other records, as one that says that older rows
    are gone."""
    found = _numbers_of(record)
    if found is None or found.ordinal != 0 or bytes(found.deleted_at) != b"null":
        return None
    return found.commit


def _numbers_of(record: Record) -> _Numbers | None:
    try:
        return _numbers(record.data)
    except (*INVALID, ValueError):
        return None
