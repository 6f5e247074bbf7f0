"""Following the changes up to a position: decoding sessions, rendered rows, and STATEs at commits on the way."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence

from psycopg2 import errors

from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConfigError
from source_postgres_cdc import server
from source_postgres_cdc.bulk import BulkReader
from source_postgres_cdc.changes import Changes
from source_postgres_cdc.cursor_slot import CopyImpossible
from source_postgres_cdc.emitter import Emitter
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


log = logging.getLogger(__name__)


class Following:
    """Sends the changes of ``streams``; ``session`` holds the anchor's lock and answers what changes leave open."""

    def __init__(
        self,
        session: Connection,
        facts: Server,
        settings: SourceSettings,
        emitter: Emitter,
        streams: Sequence[Stream],
    ) -> None:
        self._session = session
        self._server = facts
        self._settings = settings
        self._emitter = emitter
        self._streams = [stream for stream in streams if stream.is_followed]
        self._reported = time.monotonic()
        # A walsender looks at the attribute of the user itself: a member of a role reads through slot functions.
        self._role = server.replication_role(session)
        self._has_bulk = settings.transport != "stream" or self._role is not None
        self._may_stream = settings.transport != "bulk" and self._role is None

    def read_to(self, end: int, state: State) -> None:
        """Every change that committed between the state's position and ``end``; what is decoded ends there too.

        Raises ConfigError where changes are from before the publication was made, and no snapshot shows them.
        """
        while state.lsn < end:
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
        changes = Changes(
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
        )
        with self._open(state.lsn, end) as reader:
            checkpoint_at = time.monotonic() + self._settings.checkpoint_seconds
            for position in reader.follow(end, changes):
                self._report(position, end)
                if self._is_due(changes.pending, checkpoint_at):
                    changes.flush()
                    self._remember(changes, state)
                    self._checkpoint(state, position)
                    checkpoint_at = time.monotonic() + self._settings.checkpoint_seconds
            changes.flush()
            self._remember(changes, state)
            state.lsn = reader.position
        # A bulk reader may end before the end: streaming goes on.
        if state.lsn < end:
            self._has_bulk = False

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
        walsender = server.open_replication_session(settings, self._server)
        return ChangeStream(walsender, *arguments, told=self._session)

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
        server.value(self._session, "select 1")  # losing the lock's session ends the sync
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
