"""The initial load: what has to be read whole, in snapshots behind a barrier, each row stamped with the barrier's W."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from airbyte_pg import messages
from airbyte_pg.connect import Connection
from source_postgres_cdc import barrier, snapshot, stamp, tables
from source_postgres_cdc.barrier import Snapshot
from source_postgres_cdc.core.plan import CopyPlan
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.state import State, StreamProgress
from source_postgres_cdc.streams import Stream

log = logging.getLogger(__name__)


class InitialLoad:
    """Reads tables in ``session``, which holds the snapshot meanwhile; rows leave through ``emitter``."""

    def __init__(self, session: Connection, settings: SourceSettings, emitter: Emitter) -> None:
        self._session = session
        self._settings = settings
        self._emitter = emitter
        self._files: dict[int, int | None] = {}

    def read(self, streams: Sequence[Stream]) -> None:
        """Read ``streams`` whole, without a state: nothing of them is followed."""
        taken = self._begin(streams)
        for stream in streams:
            self._read_table(stream, taken)
        self._end()

    def read_new(self, streams: Sequence[Stream], state: State, *, has_position: bool) -> None:
        """Read what ``state`` does not call complete; what its snapshot shows is left out of the stream by the state.

        ``has_position``: the state's position was given, and the changes since then are owed.
        """
        wanted = [stream for stream in streams if not _is_complete(stream, state)]
        if not wanted:
            return
        taken = self._begin(wanted)
        followed = [stream for stream in wanted if stream.is_followed]
        if self._settings.initial_load:
            if not has_position:
                # Everything is read now: no transaction that committed before W has anything to add.
                state.lsn = max(state.lsn, taken.lsn)
        else:
            # From the slot on, without the rows that are there; their snapshot only ends a decoding session.
            wanted = [stream for stream in wanted if not stream.is_followed]
        for stream in followed:
            # What an earlier attempt began stays: only what its snapshot showed is surely at no destination twice.
            if stream.id not in state.streams:
                state.streams[stream.id] = StreamProgress(
                    is_complete=False, snapshot=taken.text, snapshot_until=taken.until
                )
            if not self._settings.initial_load:
                state.streams[stream.id] = StreamProgress(is_complete=True, snapshot_until=taken.until)
            state.streams[stream.id].identity = stream.identity
        # Known before the first row leaves: should this attempt die, the next one sends the deletes in between.
        self._emitter.state(state)
        for stream in wanted:
            self._read_table(stream, taken)
            if stream.is_followed:
                state.streams[stream.id].is_complete = True
                self._emitter.state(state)
        self._end()

    def _begin(self, streams: Sequence[Stream]) -> Snapshot:
        for stream in streams:
            self._emitter.estimate(stream.id, stream.table.estimated_rows, stream.table.size)
        self._files = snapshot.files(self._session, [stream.table for stream in streams])
        return barrier.take_snapshot(self._session)

    def _end(self) -> None:
        with self._session.cursor() as cursor:
            cursor.execute("rollback")

    def _read_table(self, stream: Stream, taken: Snapshot) -> None:
        started = time.monotonic()
        types = tables.load_types(self._session, {column.type_oid for column in stream.columns})
        key = stream.table.key if stream.is_followed else ()
        plan = CopyPlan(
            [types.plan_column(column.name, column.type_oid, is_key=column.name in key) for column in stream.columns]
        )
        tail = stamp.snapshot_tail(taken.lsn, stamp.now(), has_position=self._settings.emit_position)
        total = 0

        def take_lines(chunk: bytes) -> None:
            nonlocal total
            lines, count = plan.render(chunk, stamp.head(stream.id, messages.now_ms()), tail)
            self._emitter.running((stream.id,))
            self._emitter.records(lines, count)
            total += count

        names = [column.name for column in stream.columns]
        snapshot.lock(self._session, stream.table, self._files)
        snapshot.read(self._session, stream.table, names, stream.row_filter, take_lines)
        log.info("%s.%s: %d rows read in %.1f s", *stream.id, total, time.monotonic() - started)


def _is_complete(stream: Stream, state: State) -> bool:
    return stream.is_followed and stream.id in state.streams and state.streams[stream.id].is_complete
