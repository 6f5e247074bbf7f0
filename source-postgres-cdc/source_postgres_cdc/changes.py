"""From frames to RECORD lines: transactions, relations and their plans, deletes, key changes, unchanged values."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import msgspec

from airbyte_pg import messages
from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConfigError, StreamName
from source_postgres_cdc import stamp, tables
from source_postgres_cdc.barrier import Visibility
from source_postgres_cdc.core import pgoutput
from source_postgres_cdc.core.blocks import ROW_HEADER, Block
from source_postgres_cdc.core.pgoutput import UNCHANGED, Commit, Relation
from source_postgres_cdc.core.tuples import ORDINAL_STEP, SlowRow
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.relations import Target, target_of
from source_postgres_cdc.state import StreamProgress
from source_postgres_cdc.streams import Stream
from source_postgres_cdc.toast import Incomplete, Reselection

# Rendered rows go out in batches of this many bytes of frames; unchanged values are re-selected once per batch.
BATCH_BYTES = 1 << 18
# emitted_at and the heads that hold it are refreshed this often.
_HEAD_AGE_MS = 1000

TruncateHandling = Literal["warn", "fail", "propagate"]

log = logging.getLogger(__name__)


class _Transaction(msgspec.Struct):
    """``around_lsn`` and ``deleted_around_lsn``: the tails of its rows; ``number``: of its last row, published or not
    selected ones included; those up to ``taken`` are known."""

    xid: int = 0
    commit_lsn: int = 0
    taken: int = 0
    around_lsn: tuple[str, str] = ("", "")
    deleted_around_lsn: tuple[str, str] = ("", "")
    number: int = 0
    streams: set[StreamName] = msgspec.field(default_factory=set)


class Taken(msgspec.Struct):
    """How far a decoding session came that broke: every transaction that ended before ``position``, and of the one
    that committed at ``commit_lsn`` the changes up to ``number``. ``unsent``: rows of them that have not left."""

    position: int
    commit_lsn: int
    number: int
    unsent: list[str | Incomplete] = msgspec.field(default_factory=list)

    def send(self, session: Connection, emitter: Emitter) -> None:
        """Give what is left to ``emitter``; what cannot be given stays."""
        for lines in Reselection(session).completed(list(self.unsent)):
            emitter.records("".join(lines).encode("latin-1"), len(lines))
            del self.unsent[: len(lines)]


class Changes:
    """Takes the frames of one decoding session; rendered rows leave through the emitter in order of delivery.

    ``progress`` says what of each stream is left out: what the snapshot of a stream that is loaded for the first time
    shows already, so that each change is sent once; and what committed before its own position. ``leaf_progress``: the
    same of partitions, by OID, that have come to a table later.
    ``session`` is used for the catalogue and re-selects. ``numbered``: each row says its position.
    ``truncate_handling``: a TRUNCATE is logged, raised as ConfigError, or sent as a record without key that says so.
    ``sweeps``: a table that has lost rows unseen will be read anew.
    ``taken``: where the decoding session before this one broke off, in the middle of a transaction perhaps.
    """

    def __init__(
        self,
        session: Connection,
        streams: Iterable[Stream],
        progress: Mapping[StreamName, StreamProgress],
        emitter: Emitter,
        *,
        numbered: bool,
        truncate_handling: TruncateHandling = "warn",
        sweeps: bool = False,
        leaf_progress: Mapping[int, StreamProgress] = MappingProxyType({}),
        taken: Taken | None = None,
    ) -> None:
        # Streams of which rows were sent whose columns had other types than the catalogue says.
        self.outdated: set[StreamName] = set()
        # Streams of which rows have gone that nobody can name.
        self.thinned: set[StreamName] = set()
        # Whether a relation has been described (anew): it may have been altered.
        self.has_new_relations = False
        self._position = 0
        self._before = taken
        self._session = session
        self._numbered = numbered
        self._truncate_handling = truncate_handling
        self._sweeps = sweeps
        # By OID: a name may have been another table's when its rows changed, and may be again.
        self._streams = {stream.table.oid: stream for stream in streams if stream.is_followed}
        self._has_roots = any(stream.table.kind == "p" for stream in self._streams.values())
        self._progress = progress
        self._leaf_progress = leaf_progress
        every = [*progress.values(), *leaf_progress.values()]
        self._left_out_until = max((each.left_out_until for each in every), default=0)
        self._emitter = emitter
        # By the four bytes of the relation's OID as they stand in a frame.
        self._targets: dict[bytes, Target] = {}
        self._transaction = _Transaction()
        self._emitted_ms = messages.now_ms()
        self._batch: list[str | Incomplete] = []
        self._reselection = Reselection(session)
        self._batch_bytes = 0

    def take(self, lsn: int, frame: bytes) -> Commit | None:
        """One frame; a COMMIT is returned, with every row of its transaction in the batch."""
        tag = frame[0]
        if tag in (pgoutput.INSERT, pgoutput.UPDATE, pgoutput.DELETE):
            self._transaction.number += ORDINAL_STEP
            target = self._targets.get(frame[1:5])
            while target is not None:
                self._change(target, lsn, frame)
                target = target.also
        elif tag == pgoutput.BEGIN:
            self._begin(pgoutput.decode_begin(frame))
        elif tag == pgoutput.COMMIT:
            commit = pgoutput.decode_commit(frame)
            self._position = commit.end_lsn
            return commit
        elif tag == pgoutput.RELATION:
            self._relation(pgoutput.decode_relation(frame))
            self.has_new_relations = True
        elif tag == pgoutput.TRUNCATE:
            self._transaction.number += ORDINAL_STEP
            if self._transaction.number > self._transaction.taken:
                self._truncate_all(pgoutput.decode_truncate(frame).relation_oids, lsn)
        return None

    def take_run(self, block: Block) -> None:
        """The rows that ``block`` goes on with, as far as nothing about them is rare; moves the block behind them."""
        at = block.at + ROW_HEADER
        target = self._targets.get(block.buffer[at + 1 : at + 5])
        transaction = self._transaction
        if target is None or target.is_rare or transaction.number < transaction.taken:
            return
        start, batch = block.at, self._batch
        last = start + BATCH_BYTES - self._batch_bytes
        count = len(batch)
        transaction.number = target.plan.render_run(
            block, last, target.head, transaction.around_lsn, transaction.number, batch
        )
        if len(batch) > count:
            transaction.streams.add(target.stream.id)
            self._batch_bytes += block.at - start
            if self._batch_bytes >= BATCH_BYTES:
                self.flush()

    @property
    def pending(self) -> int:
        """Records in the batch, not yet given to the emitter."""
        return len(self._batch)

    def flush(self) -> None:
        """Give the batch to the emitter."""
        if not self._batch:
            return
        self._emitter.running(self._transaction.streams)
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        sent = 0
        try:
            for lines in self._reselection.completed(batch):
                self._emitter.records("".join(lines).encode("latin-1"), len(lines))
                sent += len(lines)
        except BaseException:
            self._batch = batch[sent:]
            raise

    def broken_off(self) -> Taken:
        """What the next decoding session must know when this one has broken."""
        transaction, before = self._transaction, self._before
        number = transaction.number
        if before is not None and not self._position:
            if not transaction.commit_lsn:
                return before  # nothing has come
            number = max(number, transaction.taken)
        return Taken(self._position, transaction.commit_lsn, number, self._batch)

    def _begin(self, begin: pgoutput.Begin) -> None:
        now = messages.now_ms()
        if begin.commit_lsn >= self._left_out_until:
            self._leave_out_nothing()
        if now - self._emitted_ms > _HEAD_AGE_MS:
            self._emitted_ms = now
            for target in self._every_target():
                target.head = stamp.head(target.stream.id, now)
        transaction = self._transaction
        transaction.xid = begin.xid
        transaction.commit_lsn = begin.commit_lsn
        transaction.number = 0
        before = self._before
        transaction.taken = before.number if before is not None and before.commit_lsn == begin.commit_lsn else 0
        updated_at = stamp.commit_time(begin.commit_us)
        commit_lsn = begin.commit_lsn if self._numbered else None
        transaction.around_lsn = stamp.around_lsn(updated_at, commit_lsn)
        transaction.deleted_around_lsn = stamp.around_lsn(updated_at, commit_lsn, deleted=True)

    def _leave_out_nothing(self) -> None:
        self._progress, self._left_out_until = {}, sys.maxsize
        self._leaf_progress = {}
        for target in self._every_target():
            target.visibility, target.position, target.deletes_below = None, 0, 0

    def _every_target(self) -> Iterator[Target]:
        for target in self._targets.values():
            yield from target.chain()

    def _change(self, target: Target, lsn: int, frame: bytes) -> None:
        transaction = self._transaction
        if transaction.number <= transaction.taken:
            return
        only_delete = target.is_rare and target.leaves_out(transaction.xid, transaction.commit_lsn)
        if only_delete:
            if not target.deletes_below or frame[5] == pgoutput.NEW_TUPLE or target.problem is not None:
                return
            lsn = min(lsn, target.deletes_below - 1)
        if target.problem is not None:
            raise target.problem
        if target.is_outdated and not only_delete:
            self.outdated.add(target.stream.id)
        tail = self._tail(lsn, transaction.around_lsn, transaction.number)
        transaction.streams.add(target.stream.id)
        if frame[5] == pgoutput.NEW_TUPLE:
            try:
                self._batch.append(target.plan.render_new(frame, 6, target.head, tail))
            except SlowRow:
                self._change_slowly(target, lsn, frame, tail)
        else:
            self._change_slowly(target, lsn, frame, tail, only_delete=only_delete)
        self._batch_bytes += len(frame)
        if self._batch_bytes > BATCH_BYTES:
            self.flush()

    def _change_slowly(self, target: Target, lsn: int, frame: bytes, tail: str, *, only_delete: bool = False) -> None:
        old_kind, old, new = pgoutput.split_change(frame)
        plan, head = target.plan, target.head
        around, number = self._transaction.deleted_around_lsn, self._transaction.number
        if new is None:
            self._batch.append(plan.render_values(old or [], head, self._tail(lsn, around, number)))
            return
        if old is not None:
            if len(old) != len(new):
                raise pgoutput.ProtocolError("an old tuple of another length than the new one")
            is_moved = any(new[i] is not UNCHANGED and new[i] != old[i] for i in target.key)
            if old_kind == pgoutput.OLD_TUPLE:
                # Identity FULL: the old row holds what the new one left out.
                new = [old[i] if value is UNCHANGED else value for i, value in enumerate(new)]
            else:
                new = [old[i] if new[i] is UNCHANGED and i in target.key else new[i] for i in range(len(new))]
            if is_moved:
                self._batch.append(plan.render_values(old, head, self._tail(lsn, around, number - 1)))
        if only_delete:
            return
        if UNCHANGED in new:
            self._batch.append(Incomplete(target, new, tail, self._transaction.xid))
        else:
            self._batch.append(plan.render_values(new, head, tail))

    def _tail(self, lsn: int, around: tuple[str, str], number: int) -> str:
        return f"{around[0]}{lsn}{around[1]}{number if self._numbered else ''}"

    def _relation(self, relation: Relation) -> None:
        owners = [relation.oid]
        if self._has_roots:
            # As it is now: what is no partition any more has taken its rows away.
            owners += tables.partitioned_by(self._session, relation.oid)
        target: Target | None = None
        for oid in reversed(owners):
            if stream := self._streams.get(oid):
                target = self._target(stream, relation, target)
        key = relation.oid.to_bytes(4, "big")
        if target is None:
            self._targets.pop(key, None)
        else:
            # The plan of rows in the batch stays theirs: it is held by each.
            self._targets[key] = target

    def _target(self, stream: Stream, relation: Relation, also: Target | None) -> Target:
        target = target_of(self._session, stream, relation, self._emitted_ms, numbered=self._numbered)
        target.also = also
        progress = self._progress.get(stream.id)
        if relation.oid != stream.table.oid and relation.oid in self._leaf_progress:
            progress = self._leaf_progress[relation.oid]
        if progress is not None:
            target.visibility = Visibility(progress.snapshot) if progress.snapshot is not None else None
            target.position, target.deletes_below = progress.position, progress.deletes_below
        return target

    def _truncate_all(self, oids: Sequence[int], lsn: int) -> None:
        emptied = set(oids)
        targets: dict[StreamName, Target] = {}
        for oid in oids:
            target = self._targets.get(oid.to_bytes(4, "big"))
            for each in target.chain() if target is not None else ():
                targets.setdefault(each.stream.id, each)
        for target in targets.values():
            table = target.stream.table
            # Of a partitioned table its partitions are named, where it is not itself.
            is_whole = table.oid in emptied or emptied.issuperset(leaf.oid for leaf in table.leaves)
            self._truncate(target, lsn, is_whole=is_whole)

    def _truncate(self, target: Target, lsn: int, *, is_whole: bool) -> None:
        stream, transaction = target.stream, self._transaction
        only_delete = target.is_rare and target.leaves_out(transaction.xid, transaction.commit_lsn)
        if only_delete:
            if not target.deletes_below:
                return
            lsn = min(lsn, target.deletes_below - 1)
        if self._truncate_handling == "propagate" and is_whole:
            tail = self._tail(lsn, transaction.deleted_around_lsn, transaction.number)
            self._batch.append(stamp.truncation(target.head, stream.table.key, tail))
            transaction.streams.add(stream.id)
            return
        what = f"{'' if is_whole else 'A partition of '}{stream.id.namespace}.{stream.id.name}"
        if self._truncate_handling == "fail" and not only_delete:
            raise ConfigError(
                f"{what} was truncated (truncate_handling is fail).",
                remedy="Refresh the stream and remove its rows, so that it is read anew.",
                stream=stream.id,
            )
        if self._sweeps:
            log.warning("%s was truncated: the whole is read anew", what)
            self.thinned.add(stream.id)
            return
        log.warning("%s was truncated: its rows stay at the destination until the stream is refreshed", what)
