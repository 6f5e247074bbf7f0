"""Following the changes up to a position: decoding sessions, rendered rows, and STATEs at commits on the way."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from psycopg2 import errors

from airbyte_pg.connect import Connection
from airbyte_pg.errors import CatalogOutdated, ConfigError
from source_postgres_cdc import barrier, server
from source_postgres_cdc.bulk import BulkReader
from source_postgres_cdc.changes import Changes
from source_postgres_cdc.cursor_slot import CopyImpossible
from source_postgres_cdc.definitions import Definitions
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.memory import Memory
from source_postgres_cdc.moments import Moments
from source_postgres_cdc.pace import Pace
from source_postgres_cdc.replication import ChangeStream
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.state import State, StreamProgress
from source_postgres_cdc.streams import Stream

# A STATE at the first commit after this many bytes of records (or the configured records or seconds): the price of a
# crash is reading this much again, and a destination may hold back this much before it commits.
CHECKPOINT_BYTES = 64 << 20
# A backlog from which on the bulk transport is worth its windows.
BULK_BYTES = 4 << 20
# How far it is still to go is said this often.
PROGRESS_S = 10.0
# While the rest of a transaction is waited for, it is asked this often whether the run is to end.
_IN_TRANSACTION_S = 0.5


log = logging.getLogger(__name__)


class Following:
    """Sends the changes of ``streams``; ``session`` holds the anchor's lock and answers what changes leave open.

    ``memory`` is of a continuous run: what had been taken when reading broke is there.
    """

    def __init__(
        self,
        session: Connection,
        facts: Server,
        settings: SourceSettings,
        emitter: Emitter,
        streams: Sequence[Stream],
        memory: Memory | None = None,
    ) -> None:
        self._memory = memory
        self._session = session
        self._server = facts
        self._settings = settings
        self._emitter = emitter
        self._streams = [stream for stream in streams if stream.is_followed]
        self._reported = time.monotonic()
        self._moments = Moments()
        self._moments.look(session)
        # A walsender looks at the attribute of the user itself: a member of a role reads through slot functions.
        self._role = server.replication_role(session)
        self._has_bulk = settings.transport != "stream" or self._role is not None
        self._may_stream = settings.transport != "bulk" and self._role is None

    def read_to(self, end: int, state: State) -> None:
        """Every change that committed between the state's position and ``end``; what is decoded ends there too. Less
        where a continuous run is to end.

        Raises ConfigError where changes are from before the publication was made, and no snapshot shows them.
        """
        while state.lsn < end and not self._is_stopped():
            try:
                self._decode(end, state)
            except errors.UndefinedObject as error:
                # What is decoded sees the catalogue of its own time.
                if not all(_is_shown(state.streams.get(stream.id), end) for stream in self._streams):
                    raise ConfigError(
                        f"The publication {self._settings.publication} was made, or made anew, after changes that are "
                        "still to be read: they cannot be decoded any more.",
                        remedy="Refresh every stream of this connection, or reset it: its tables must be read anew.",
                    ) from error
                log.warning(
                    "The publication is younger than changes that are still to be read. A snapshot shows them; rows "
                    "that were deleted before it stay at the destination until their stream is refreshed"
                )
                state.lsn = end

    def _decode(self, end: int, state: State) -> None:
        """One decoding session: to ``end``, or as far as its transport goes."""
        changes = self._changes(state)
        with self._told_where_it_breaks(changes, state), self._open(state.lsn, end) as reader:
            checkpoint_at = time.monotonic() + self._settings.checkpoint_seconds
            for position in reader.follow(end, changes):
                self._report(position, end)
                if self._is_due(changes.pending, checkpoint_at):
                    changes.flush()
                    self._remember(changes, state)
                    self._checkpoint(state, position)
                    checkpoint_at = time.monotonic() + self._settings.checkpoint_seconds
                    if self._is_stopped():
                        return
            changes.flush()
            self._remember(changes, state)
            state.lsn = reader.position
        # A bulk reader may end before the end: streaming goes on.
        if state.lsn < end:
            self._has_bulk = False

    def read_on(self, state: State, definitions: Definitions, memory: Memory) -> bool:
        """The changes as they are committed, until the run is to end: true; or tables must be met anew.

        Ends with a STATE. Raises CatalogOutdated behind it.
        """
        changes = self._changes(state)
        pace = Pace(self._settings.checkpoint_seconds, self._settings.idle_seconds)
        is_over = False
        gate = self._wait_for_standbys if self._settings.failover and not self._server.in_recovery else None
        with self._told_where_it_breaks(changes, state), self._stream(state.lsn) as reader:
            for is_drained in reader.follow_on(changes, gate):
                if is_drained:
                    changes.flush()
                    self._emitter.flush()
                    memory.is_well()
                is_over = memory.stop.is_asked
                if is_over and (memory.stop.is_urgent or not reader.in_transaction):
                    break
                has_news = self._emitter.count_since_state + changes.pending > 0
                if not reader.in_transaction:
                    if self._is_to_be_said(changes) or pace.is_due(reader, state.lsn, has_news=has_news):
                        self._say(changes, state, reader.position)
                        pace.restart()
                        has_news = False
                    if self._are_to_be_met(state, changes, definitions, reader.position):
                        break
                if is_drained:
                    self._emitter.expect_reader()
                    seconds = _IN_TRANSACTION_S if reader.in_transaction else pace.seconds_left(has_news=has_news)
                    reader.wait(seconds, memory.stop.woken)
            self._say(changes, state, reader.position)
        return is_over

    def _is_to_be_said(self, changes: Changes) -> bool:
        """Whether a STATE is due whatever the time: there is much to cover, or a stream is to be read anew."""
        is_to_be_read = self._settings.resnapshots and bool(changes.outdated or changes.thinned)
        return is_to_be_read or self._is_due(changes.pending, math.inf)

    def _are_to_be_met(self, state: State, changes: Changes, definitions: Definitions, position: int) -> bool:
        """Whether a stream is to be read anew, or a table was altered."""
        is_likely, changes.has_new_relations = changes.has_new_relations, False
        try:
            is_altered = definitions.have_changed(is_likely=is_likely)
        except CatalogOutdated:
            self._say(changes, state, position)
            raise
        return is_altered or not all(state.streams[stream.id].is_complete for stream in self._streams)

    def _wait_for_standbys(self, position: int) -> None:
        seconds = self._settings.replication_method.initial_waiting_seconds
        barrier.wait_for_standbys(self._session, position, seconds)

    def _say(self, changes: Changes, state: State, position: int) -> None:
        """A STATE of all that has been read."""
        changes.flush()
        self._remember(changes, state)
        if self._settings.failover and not self._server.in_recovery:
            self._wait_for_standbys(position)
        self._checkpoint(state, position)

    def _changes(self, state: State) -> Changes:
        return Changes(
            self._session,
            self._streams,
            {stream.id: progress for stream in self._streams if (progress := _left_out(stream, state)) is not None},
            self._emitter,
            numbered=self._settings.emit_position,
            truncate_handling=self._settings.truncate_handling,
            sweeps=self._settings.sweeps,
            leaf_progress={
                oid: fresh
                for stream in self._streams
                if (progress := state.streams.get(stream.id)) is not None
                for oid, fresh in progress.fresh_leaves.items()
            },
            taken=self._memory.taken if self._memory is not None else None,
        )

    @contextmanager
    def _told_where_it_breaks(self, changes: Changes, state: State) -> Iterator[None]:
        """A continuous run goes on behind the last row that was taken, in another session."""
        try:
            yield
        except BaseException:
            if self._memory is not None:
                self._remember(changes, state)
                self._memory.taken = changes.broken_off()
            raise

    def _is_stopped(self) -> bool:
        return self._memory is not None and self._memory.is_caught_up and self._memory.stop.is_asked

    def _remember(self, changes: Changes, state: State) -> None:
        """Have read anew what was sent in another form than the table has, or has lost rows that nobody can name."""
        if self._settings.resnapshots:
            for stream in (*changes.outdated, *changes.thinned):
                # One that is not known yet may have been sent by an attempt whose state got lost.
                progress = state.streams.setdefault(stream, StreamProgress(is_complete=False))
                progress.refresh(sweeps=stream in changes.thinned)
            changes.outdated.clear()
            changes.thinned.clear()

    def _report(self, position: int, end: int) -> None:
        if time.monotonic() - self._reported > PROGRESS_S:
            self._reported = time.monotonic()
            log.info("%.1f MB of WAL to go", (end - position) / 1e6)

    def _open(self, start: int, end: int) -> BulkReader | ChangeStream:
        settings = self._settings
        limit_s = settings.replication_method.initial_waiting_seconds
        arguments = (settings.slot, settings.publication, start, limit_s)
        if self._is_bulk(end - start):
            session = server.open_session(settings)
            server.become(session, self._role)
            server.take_bytes(session, self._server)
            try:
                return BulkReader(session, *arguments, is_bounded=self._may_stream)
            except CopyImpossible as error:
                if self._role is not None:
                    raise ConfigError(
                        "The server has no free replication slot for this sync's temporary copy, which a user that is "
                        "only a member of a REPLICATION role needs.",
                        remedy="Raise max_replication_slots, drop unused slots, or give the user REPLICATION.",
                    ) from error
                self._has_bulk = self._may_stream = False
        return self._stream(start)

    def _stream(self, start: int) -> ChangeStream:
        settings = self._settings
        limit_s = settings.replication_method.initial_waiting_seconds
        walsender = server.open_replication_session(settings, self._server)
        return ChangeStream(
            walsender,
            settings.slot,
            settings.publication,
            start,
            limit_s,
            told=self._session,
            confirmed=self._memory.confirmed if self._memory is not None else None,
        )

    def look(self, state: State) -> None:
        """Ask the server how late the state is; losing the lock's session ends the sync."""
        self._moments.look(self._session)
        state.at = self._moments.of(state.lsn) or state.at

    def _is_bulk(self, backlog: int) -> bool:
        return self._has_bulk and (backlog >= BULK_BYTES or not self._may_stream)

    def _is_due(self, pending: int, checkpoint_at: float) -> bool:
        return (
            self._emitter.count_since_state + pending >= self._settings.sync_checkpoint_records
            or self._emitter.bytes_since_state >= CHECKPOINT_BYTES
            or time.monotonic() >= checkpoint_at
        )

    def _checkpoint(self, state: State, position: int) -> None:
        state.lsn = position
        self.look(state)
        if self._memory is not None:
            self._memory.said(state)
        self._emitter.state(state)


def _left_out(stream: Stream, state: State) -> StreamProgress | None:
    """What of ``stream`` is left out from the state's position on; None: nothing."""
    progress = state.streams.get(stream.id)
    if progress is None or progress.is_refreshed:
        # Its snapshot comes behind all this. Only deletes are owed, if anything has been sent before.
        sends_deletes = progress is not None or stream.is_deduplicated
        return StreamProgress(False, position=sys.maxsize, deletes_below=sys.maxsize if sends_deletes else 0)
    return progress if progress.left_out_until > state.lsn else None


def _is_shown(progress: StreamProgress | None, end: int) -> bool:
    """Whether a snapshot shows, or will show, everything that committed before ``end``."""
    return progress is None or progress.is_refreshed or progress.left_out_until >= end
