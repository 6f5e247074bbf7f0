"""One round of the initial load: what is read under one snapshot, part by part, and how far the state says it is.

A table is read in ranges of pages. After each, the state holds the first page that is not done and the table's file; a
later round, under a snapshot of its own behind a barrier of its own, goes on there. Why that is right, for a key K:

* The stream sends every change that the *first* part's snapshot S1 does not show (or that came after the state's
  position), whatever pages were read under whatever snapshot. Changes of K lie in WAL in the order in which they
  happened, so the last one has the greatest change LSN.
* K has not changed since S1: its row has not moved either (only a rewrite moves rows by itself, and gives the table
  another file: then it is read from page 0 again). Some part has read it.
* K has changed since S1 and a part has read it under a later snapshot S2, stamped W2: a change that S2 does not show
  began behind W2 and wins; otherwise the row is as that last change left it, whichever of the two wins.
* K has changed and no part has read the new row (it moved to a page that was done, or was deleted): the change itself
  is sent, and its LSN is above W1, the stamp of the row that a part under S1 may have read. A part under S2 does not
  show the old row. A key change is both: a delete of the old key and an insert of the new one.
* Rows in pages that the table has got since its first part began are newer than S1, so the stream sends them: a table
  that grows faster than it is read comes to an end all the same.
* Changes within a page (HOT) and values out of line are rows of the page like any other.

A stream enters the state before its first row leaves: should the sync die, the next one knows S1, and sends the deletes
in between. Complete is only what is said to be.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from airbyte_pg import sql
from airbyte_pg.connect import Connection
from airbyte_pg.errors import StreamName
from source_postgres_cdc import server, snapshot, stamp, tables
from source_postgres_cdc.barrier import Snapshot
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.snapshot import Pages, Part, Storage
from source_postgres_cdc.state import State, StreamProgress
from source_postgres_cdc.streams import Stream
from source_postgres_cdc.tables import Leaf

log = logging.getLogger(__name__)


class _Table(msgspec.Struct):
    """A table that is being read. ``left``: first pages of the parts that are not done, handed out or not.

    ``is_addition``: it was complete, and partitions have come to it.
    """

    stream: Stream
    waiting: deque[Part]
    left: list[int]
    started: float
    rows: int = 0
    is_addition: bool = False


def _begun(taken: Snapshot, *, sends_deletes: bool) -> StreamProgress:
    """The progress of a stream whose first row is about to leave under the snapshot ``taken``.

    ``sends_deletes``: deletes from before it too, since rows may be at the destination.
    """
    return StreamProgress(
        is_complete=False,
        snapshot=taken.text,
        snapshot_until=taken.until,
        position=taken.position,
        deletes_below=taken.lsn if sends_deletes else 0,
    )


class Round:
    """Hands out the parts of ``streams``, takes their rows, and says in a STATE how far each followed stream is.

    ``session`` holds the snapshot ``taken``; ``known`` are the tables' storages from before it. Parts may be handed out
    while others are being read; ``next`` is asked after every part that is finished. ``part_pages`` None: the table
    stays whole. ``is_due`` tells when the round should end: behind a part of a followed table, or between two tables.
    ``has_position``: rows say their place in the order of commits (emit_position). ``may_be_known``: an earlier attempt
    may have brought rows of streams that the state does not know.
    """

    def __init__(
        self,
        session: Connection,
        emitter: Emitter,
        taken: Snapshot,
        known: Mapping[int, Storage],
        streams: Iterable[Stream],
        state: State | None,
        *,
        part_pages: Callable[[Stream, Storage], int | None],
        is_due: Callable[[], bool],
        has_position: bool,
        may_be_known: bool,
    ) -> None:
        self._may_be_known = may_be_known
        self.completed: set[StreamName] = set()
        self._session = session
        self._emitter = emitter
        self._taken = taken
        self._known = known
        self._streams = deque(streams)
        self._state = state
        self._part_pages = part_pages
        self._is_due = is_due
        self._has_begun = False
        self._tables: dict[StreamName, _Table] = {}
        self._current: _Table | None = None
        self._tail = stamp.snapshot_tail(taken.lsn, stamp.now(), has_position=has_position)
        self._is_unsaid = False

    def next(self) -> Part | None:
        """The next part to be read; None when there is nothing left to hand out, or the round is due."""
        table = self._current
        if table is None or not table.waiting:
            # A table that is only read is never interrupted: nothing would mend what moved meanwhile.
            table = self._begin_next()
        elif table.stream.is_followed and self._ends_here():
            table = None
        self._say()
        if table is None:
            return None
        self._has_begun = True
        return table.waiting.popleft()

    def rows(self, part: Part, lines: bytes, count: int) -> None:
        """Finished lines of ``part``."""
        self._emitter.running((part.stream,))
        self._emitter.records(lines, count)
        self._tables[part.stream].rows += count

    def finished(self, part: Part) -> None:
        """Every line of ``part`` has been given."""
        table = self._tables[part.stream]
        table.left.remove(part.pages.first)
        if not table.left:
            self.completed.add(part.stream)
            log.info("%s.%s: %d rows read in %.1f s", *part.stream, table.rows, time.monotonic() - table.started)
        if self._state is not None and table.stream.is_followed:
            progress = self._state.streams[part.stream]
            if table.is_addition:
                self._add(progress, table.stream, part)
            elif table.left:
                progress.page = min(table.left)
            else:
                progress.is_complete, progress.page, progress.file = True, 0, None
            self._is_unsaid = True

    def _begin_next(self) -> _Table | None:
        while self._streams and not self._ends_here():
            stream = self._streams.popleft()
            try:
                return self._begin(stream)
            except snapshot.Rewritten as rewritten:
                if self._state is None or not stream.is_followed:
                    raise
                # It is left to the next round, which has a snapshot of its own.
                log.info("%s", rewritten.message)
        return None

    def _ends_here(self) -> bool:
        return self._has_begun and self._is_due()

    def _begin(self, stream: Stream) -> _Table:
        storage = snapshot.lock(self._session, stream.table, self._known)
        if stream.is_followed and stream.table.kind == "p" and self._state is not None:
            return self._begin_leaves(stream, self._state)
        part_pages = self._part_pages(stream, storage)
        can_be_split = part_pages is not None and snapshot.can_be_split(
            stream.table, storage, self._session.server_version
        )
        first, end = self._enter(stream, storage if can_be_split else None)
        ranges = snapshot.split(first, end, part_pages) if can_be_split and part_pages else [snapshot.WHOLE]
        if ranges == [Pages(0, ranges[0].end)]:
            ranges = [snapshot.WHOLE]
        return self._enqueue(stream, self._parts(stream, ranges))

    def _begin_leaves(self, stream: Stream, state: State) -> _Table:
        """A partitioned table is read partition by partition, in the order of their OIDs."""
        table = stream.table
        progress = state.streams.get(stream.id)
        is_addition = progress is not None and progress.is_complete
        if progress is None or not progress.is_complete:
            first, _ = self._enter(stream, Storage(table.oid, 0, is_heap=False))
            progress = state.streams[stream.id]
            if not first:
                progress.leaves = frozenset(leaf.oid for leaf in table.leaves)
            leaves = [leaf for leaf in table.leaves if leaf.oid in progress.leaves and leaf.oid >= first]
        else:
            leaves = [leaf for leaf in table.leaves if leaf.oid not in progress.leaves]
        # Who may read the whole may not read its parts.
        parts = self._parts(stream, [snapshot.WHOLE], leaves if table.has_open_leaves else ())
        return self._enqueue(stream, parts, is_addition=is_addition)

    def _add(self, progress: StreamProgress, stream: Stream, part: Part) -> None:
        """Rows of partitions that have come to a table since it was read are there now."""
        added = stream.new_leaves(progress) if part.pages == snapshot.WHOLE else {part.pages.first}
        for oid in added:
            progress.fresh_leaves[oid] = _begun(self._taken, sends_deletes=stream.is_deduplicated)
        progress.leaves |= added

    def _enqueue(self, stream: Stream, parts: Sequence[Part], *, is_addition: bool = False) -> _Table:
        first_pages = [part.pages.first for part in parts]
        table = _Table(stream, deque(parts), first_pages, time.monotonic(), is_addition=is_addition)
        self._tables[stream.id] = self._current = table
        return table

    def _enter(self, stream: Stream, storage: Storage | None) -> tuple[int, int]:
        """Enter ``stream`` in the state; returns the page to go on at, and how many there were when it was begun.

        ``storage``: None for a table kept whole.
        """
        pages = storage.pages if storage is not None else 0
        if self._state is None or not stream.is_followed:
            return 0, pages
        # What an earlier attempt began stays: only what its snapshot showed is surely at no destination twice.
        progress = self._state.streams.get(stream.id)
        if progress is None or progress.is_refreshed:
            sends_deletes = progress is not None or (stream.is_deduplicated and self._may_be_known)
            sweeps = progress is not None and progress.sweep > 0
            progress = self._state.streams[stream.id] = _begun(self._taken, sends_deletes=sends_deletes)
            progress.sweep = self._taken.lsn if sweeps else 0
        if progress.page and storage is not None and progress.file == storage.file:
            log.info("%s.%s: going on at page %d of %d", *stream.id, progress.page, storage.pages)
        else:
            progress.page, progress.pages = 0, pages
        progress.file = storage.file if storage is not None else None
        progress.identity = stream.identity
        self._is_unsaid = True
        return progress.page, progress.pages

    def _parts(self, stream: Stream, ranges: Sequence[Pages], leaves: Sequence[Leaf] = ()) -> list[Part]:
        """The parts of ``stream``: its ``leaves``, if there are any, or else ``ranges`` of its pages."""
        types = tables.load_types(self._session, {column.type_oid for column in stream.columns}, stream.rendering)
        key = stream.table.key if stream.is_followed else ()
        columns = tuple(
            types.plan_column(column.name, column.type_oid, column.typmod, is_key=column.name in key)
            for column in stream.columns
        )
        names = [column.name for column in stream.columns]
        stdout = snapshot.to_stdout(stream.rendering)
        if leaves:
            ranges = [Pages(leaf.oid, leaf.oid + 1) for leaf in leaves]
            statements = [snapshot.leaf_statement(leaf, names, stream.row_filter, stdout) for leaf in leaves]
        else:
            statements = [
                snapshot.copy_statement(stream.table, names, stream.row_filter, stdout, pages) for pages in ranges
            ]
        return [
            Part(
                stream.id,
                pages,
                sql.text(statement, self._session),
                columns,
                self._tail,
                has_functions=stream.table.kind not in "rp",
            )
            for pages, statement in zip(ranges, statements, strict=True)
        ]

    def _say(self) -> None:
        """A STATE, when there is something new to be said."""
        if self._is_unsaid and self._state is not None:
            # The session that keeps the tables from being rewritten must have been there all the time.
            server.value(self._session, "select 1")
            self._emitter.state(self._state)
            self._is_unsaid = False
