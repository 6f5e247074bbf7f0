"""The initial load: what has to be read whole, in rounds.

Each round has a snapshot behind a barrier, whose W stamps its rows; between two rounds the changes are read, so that a
long load does not keep WAL for ever.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing

from airbyte_pg.connect import Connection
from airbyte_pg.errors import StreamName, TransientError
from source_postgres_cdc import barrier, server, snapshot, standby, workers
from source_postgres_cdc.barrier import Snapshot
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.rounds import Round
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.snapshot import Storage
from source_postgres_cdc.state import State, StreamProgress
from source_postgres_cdc.streams import Stream

# Of a table that several connections share: some parts each, so that they end at about the same time, but none so small
# that its start counts (in pages of 8 KiB).
_PARTS_PER_CONNECTION = 4
_SMALLEST_PART = 1024


class InitialLoad:
    """Reads tables in ``session``, which holds the snapshot meanwhile; rows leave through ``emitter``.

    ``done``: the streams that are not followed and have been read; more are added.
    """

    def __init__(
        self,
        session: Connection,
        facts: Server,
        settings: SourceSettings,
        emitter: Emitter,
        done: set[StreamName] | None = None,
    ) -> None:
        self._session = session
        self._server = facts
        self._settings = settings
        self._emitter = emitter
        self._limit = time.monotonic() + settings.replication_method.initial_load_timeout_hours * 3600
        # Streams that are not followed have no progress in the state.
        self._done = done if done is not None else set()
        self._estimated: set[StreamName] = set()

    def read(self, streams: Sequence[Stream]) -> None:
        """Read ``streams`` whole, in one round, without a state: nothing of them is followed."""
        self._round(streams, None, *self._begin(streams))

    def read_new(self, streams: Sequence[Stream], state: State, *, is_owed: bool) -> bool:
        """One round over what ``state`` does not call complete; false when something is left for another one.

        What the snapshot of a stream's first part shows is left out of the changes by the state. ``is_owed``:
        the state's position was given, or changes were read up to it, and those since then are owed.
        """
        wanted = [stream for stream in streams if not self._is_complete(stream, state)]
        if not wanted:
            return True
        # Only read, so without progress in the state: last, so that an attempt that ends early has not read them.
        wanted.sort(key=lambda stream: not stream.is_followed)
        known, taken = self._begin(wanted)
        state.cuts.add(taken.cut)
        if not self._settings.initial_load:
            wanted = self._leave_out(wanted, state, taken)
        elif not is_owed:
            # Everything is read now or later: no transaction that committed before the cut has anything to add.
            state.lsn = max(state.lsn, taken.cut)
        self._round(wanted, state, known, taken, may_be_known=is_owed)
        return all(self._is_complete(stream, state) for stream in wanted)

    def expect_time_left(self) -> None:
        """Raise TransientError when the load has lasted as long as it may; to be asked when the changes were read."""
        hours = self._settings.replication_method.initial_load_timeout_hours
        if time.monotonic() >= self._limit:
            raise TransientError(
                f"The initial load is not over after {hours:g} hours (initial_load_timeout_hours).",
                remedy="Nothing is lost: it goes on with the next attempt, which lets the server remove old WAL first.",
            )

    def _begin(self, streams: Sequence[Stream]) -> tuple[dict[int, Storage], Snapshot]:
        for stream in streams:
            if stream.id not in self._estimated:
                self._estimated.add(stream.id)
                self._emitter.estimate(stream.id, stream.table.estimated_rows, stream.table.size)
        known = snapshot.storages(self._session, [stream.table for stream in streams])
        if self._server.in_recovery:
            return known, standby.take_snapshot(self._session, self._settings, self._server)
        taken = barrier.take_snapshot(self._session)
        if barrier.flushed_position(self._session) < taken.until:
            # A snapshot shows what a crash of the server would undo (synchronous_commit off): nothing leaves before.
            with closing(server.open_session(self._settings)) as session:
                barrier.flush(session)
        if self._settings.failover:
            # No row leaves that a promoted standby might not have.
            seconds = self._settings.replication_method.initial_waiting_seconds
            barrier.wait_for_standbys(self._session, taken.until, seconds)
        return known, taken

    def _leave_out(self, streams: Sequence[Stream], state: State, taken: Snapshot) -> list[Stream]:
        """Follow from the slot on, without the rows that are there; the snapshot only ends a decoding session."""
        for stream in streams:
            if stream.is_followed:
                progress = state.streams.get(stream.id)
                if progress is None or not progress.is_complete:
                    progress = state.streams[stream.id] = StreamProgress(is_complete=True, identity=stream.identity)
                progress.leaves = frozenset(leaf.oid for leaf in stream.table.leaves)
        self._emitter.state(state)
        return [stream for stream in streams if not stream.is_followed]

    def _round(
        self,
        streams: Sequence[Stream],
        state: State | None,
        known: dict[int, Storage],
        taken: Snapshot,
        *,
        may_be_known: bool = False,
    ) -> None:
        """Read ``streams`` until all are done or the round is due; the snapshot is over then."""
        ends_at = min(time.monotonic() + self._settings.snapshot_drain_seconds, self._limit)
        work = Round(
            self._session,
            self._emitter,
            taken,
            known,
            streams,
            state,
            part_pages=self._part_pages,
            is_due=lambda: state is not None and time.monotonic() >= ends_at,
            has_position=self._settings.emit_position,
            may_be_known=may_be_known,
        )
        workers.read(self._session, self._settings, work)
        self._done |= work.completed
        with self._session.cursor() as cursor:
            cursor.execute("rollback")

    def _part_pages(self, stream: Stream, storage: Storage) -> int | None:
        """How many pages of ``stream`` a part has; None: the table stays whole."""
        connections = workers.count(self._settings)
        if not stream.is_followed and connections == 1:
            return None  # an attempt that dies has nothing to go on from
        shared = max(storage.pages // (connections * _PARTS_PER_CONNECTION), _SMALLEST_PART)
        return min(self._settings.snapshot_part_pages, shared if connections > 1 else sys.maxsize)

    def _is_complete(self, stream: Stream, state: State) -> bool:
        if not stream.is_followed:
            return stream.id in self._done
        progress = state.streams.get(stream.id)
        return progress is not None and progress.is_complete and not stream.new_leaves(progress)
