"""Following the changes up to a position: decoding sessions, rendered rows, and STATEs at commits on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence

from airbyte_pg.connect import Connection
from airbyte_pg.errors import StreamName
from source_postgres_cdc import server
from source_postgres_cdc.barrier import Visibility
from source_postgres_cdc.changes import Changes
from source_postgres_cdc.core.pgoutput import Commit
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.replication import ChangeStream
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.state import State
from source_postgres_cdc.streams import Stream

# A STATE at the first commit after this many bytes of records (or the configured records or seconds): the price of a
# crash is reading this much again, and a destination may hold back this much before it commits.
CHECKPOINT_BYTES = 64 << 20


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
        self._streams = streams

    def read_to(self, end: int, state: State) -> None:
        """One decoding session, from the state's position to ``end``."""
        if state.lsn >= end:
            return
        changes = Changes(self._session, self._streams, _visibilities(state), self._emitter)
        limit_s = self._settings.replication_method.initial_waiting_seconds
        session = server.open_replication_session(self._settings, self._server)
        with ChangeStream(session, self._settings.slot, self._settings.publication, state.lsn, limit_s) as stream:
            checkpoint_at = time.monotonic() + self._settings.sync_checkpoint_seconds
            for change_lsn, frame in stream.frames(end):
                commit = changes.take(change_lsn, frame)
                if commit is not None and self._is_due(changes.pending, checkpoint_at):
                    changes.flush()
                    self._checkpoint(state, commit)
                    checkpoint_at = time.monotonic() + self._settings.sync_checkpoint_seconds
            changes.flush()
            state.lsn = stream.position

    def _is_due(self, pending: int, checkpoint_at: float) -> bool:
        return (
            self._emitter.count_since_state + pending >= self._settings.sync_checkpoint_records
            or self._emitter.bytes_since_state >= CHECKPOINT_BYTES
            or time.monotonic() >= checkpoint_at
        )

    def _checkpoint(self, state: State, commit: Commit) -> None:
        state.lsn = commit.end_lsn
        server.value(self._session, "select 1")  # losing the lock's session ends the sync
        self._emitter.state(state)


def _visibilities(state: State) -> dict[StreamName, Visibility]:
    return {
        name: Visibility(progress.snapshot)
        for name, progress in state.streams.items()
        if progress.snapshot is not None and progress.snapshot_until > state.lsn
    }
