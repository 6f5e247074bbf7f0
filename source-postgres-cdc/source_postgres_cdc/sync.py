"""The phases of one sync: anchor, snapshot behind the barrier, stream to the fence. Emits STATE; knows no bytes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

from airbyte_pg import messages
from airbyte_pg.connect import Connection
from airbyte_pg.errors import StreamName, TransientError
from source_postgres_cdc import barrier, lsn, publication, server, slot, snapshot, stamp, tables
from source_postgres_cdc.barrier import Snapshot, Visibility
from source_postgres_cdc.changes import Changes
from source_postgres_cdc.core.pgoutput import Commit
from source_postgres_cdc.core.plan import CopyPlan
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.replication import ChangeStream
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.slot import Slot
from source_postgres_cdc.state import State, StreamProgress, merged
from source_postgres_cdc.streams import Stream, expect_same, published

# A STATE at the first commit after this many bytes of records (or the configured records or seconds): the price of a
# crash is reading this much again, and a destination may hold back this much before it commits.
CHECKPOINT_BYTES = 64 << 20

log = logging.getLogger(__name__)


@dataclass
class Sync:
    """One run of ``read``: its sessions, settings and output.

    ``session`` is an ordinary session: it holds the lock on the anchor, the snapshot, and the catalogue.
    """

    session: Connection
    server: Server
    settings: SourceSettings
    emitter: Emitter
    _files: dict[int, int | None] = field(default_factory=dict, init=False)

    def run(self, streams: Sequence[Stream], given: State | None) -> None:
        """Read ``streams``, going on from the state ``given``; ends at the fence with COMPLETE."""
        self.emitter.started()
        if any(stream.is_followed for stream in streams):
            self._read_followed(list(streams), given)
        else:
            taken = self._begin_snapshot(streams)
            for stream in streams:
                self._read_table(stream, taken)
            self._end_snapshot()
        self.emitter.complete()

    def _read_followed(self, streams: list[Stream], given: State | None) -> None:
        streams = self._publish(streams)
        with closing(server.open_replication_session(self.settings, self.server)) as walsender:
            system_id, timeline = _identify(walsender)
        slot.lock(self.session, self.settings.slot)
        anchor = self._anchor(given, system_id)
        followed = [stream for stream in streams if stream.is_followed]
        state = State(
            slot=anchor.name,
            system_id=system_id,
            timeline=timeline,
            database=self.server.database,
            lsn=given.lsn if given else anchor.confirmed_lsn or 0,
            streams=merged(given.streams if given else {}, [stream.id for stream in followed]),
        )
        for stream in followed:
            if (progress := state.streams.get(stream.id)) and progress.identity is not None:
                expect_same(stream, progress.identity)
                progress.identity = stream.identity
        self._read_new_tables(streams, state, has_position=given is not None)
        fence = barrier.fence(self.session)
        log.info("following changes from %s to %s", lsn.render(state.lsn), lsn.render(fence))
        # A newly published table ends the decoding session: servers without the fix for concurrent invalidations keep
        # "not published" for a table once an older transaction was decoded (design section 3). The state remembers it.
        for end in sorted({*(progress.snapshot_until for progress in state.streams.values()), fence}):
            self._follow(followed, state, end)
        server.value(self.session, "select 1")  # the lock is still ours
        self.emitter.state(state)

    def _publish(self, streams: list[Stream]) -> list[Stream]:
        followed = [stream.table for stream in streams if stream.is_followed]
        name = self.settings.publication
        publication.ensure(self.session, name, followed, may_create=self.settings.create_if_missing)
        return published(streams, tables.load_members(self.session, self.server.version, name))

    def _anchor(self, given: State | None, system_id: str) -> Slot:
        name = self.settings.slot
        found = slot.find(self.session, self.server.version, name)
        if found is None:
            if given is not None or not self.settings.create_if_missing:
                raise slot.missing(name, had_state=given is not None)
            log.info("making the replication slot %s", name)
            slot.create(self.session, name)
            found = slot.find(self.session, self.server.version, name)
        if found is None:
            raise TransientError(f"The replication slot {name} vanished just after it was made.")
        if (trouble := slot.problem(found, self.server.database)) is not None:
            raise trouble
        if found.active_pid is not None:
            raise TransientError(
                f"The replication slot {name} is in use by another consumer (pid {found.active_pid}).",
                remedy="Give this connection a slot of its own.",
            )
        if given is not None:
            slot.judge(found, given, system_id, barrier.flushed_position(self.session))
            slot.advance(self.session, found, given.lsn)
        return found

    def _read_new_tables(self, streams: Sequence[Stream], state: State, *, has_position: bool) -> None:
        """Read what has to be read whole; what its snapshot shows is left out of the stream by what the state says."""
        wanted = [stream for stream in streams if not _is_complete(stream, state)]
        if not wanted:
            return
        taken = self._begin_snapshot(wanted)
        followed = [stream for stream in wanted if stream.is_followed]
        if self.settings.initial_load:
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
            if not self.settings.initial_load:
                state.streams[stream.id] = StreamProgress(is_complete=True, snapshot_until=taken.until)
            state.streams[stream.id].identity = stream.identity
        # Known before the first row leaves: should this attempt die, the next one sends the deletes in between.
        self.emitter.state(state)
        for stream in wanted:
            self._read_table(stream, taken)
            if stream.is_followed:
                state.streams[stream.id].is_complete = True
                self.emitter.state(state)
        self._end_snapshot()

    def _begin_snapshot(self, streams: Sequence[Stream]) -> Snapshot:
        for stream in streams:
            self.emitter.estimate(stream.id, stream.table.estimated_rows, stream.table.size)
        self._files = snapshot.files(self.session, [stream.table for stream in streams])
        return barrier.take_snapshot(self.session)

    def _end_snapshot(self) -> None:
        with self.session.cursor() as cursor:
            cursor.execute("rollback")

    def _read_table(self, stream: Stream, taken: Snapshot) -> None:
        started = time.monotonic()
        types = tables.load_types(self.session, {column.type_oid for column in stream.columns})
        key = stream.table.key if stream.is_followed else ()
        plan = CopyPlan(
            [types.plan_column(column.name, column.type_oid, is_key=column.name in key) for column in stream.columns]
        )
        tail = stamp.tail(taken.lsn, stamp.now())
        total = 0

        def take_lines(chunk: bytes) -> None:
            nonlocal total
            lines, count = plan.render(chunk, stamp.head(stream.id, messages.now_ms()), tail)
            self.emitter.running((stream.id,))
            self.emitter.records(lines, count)
            total += count

        names = [column.name for column in stream.columns]
        snapshot.lock(self.session, stream.table, self._files)
        snapshot.read(self.session, stream.table, names, stream.row_filter, take_lines)
        log.info("%s.%s: %d rows read in %.1f s", *stream.id, total, time.monotonic() - started)

    def _follow(self, streams: Sequence[Stream], state: State, end: int) -> None:
        """One decoding session, from the state's position to ``end``; STATEs at commits on the way."""
        if state.lsn >= end:
            return
        changes = Changes(self.session, streams, _visibilities(state), self.emitter)
        limit_s = self.settings.replication_method.initial_waiting_seconds
        session = server.open_replication_session(self.settings, self.server)
        with ChangeStream(session, self.settings.slot, self.settings.publication, state.lsn, limit_s) as stream:
            checkpoint_at = time.monotonic() + self.settings.sync_checkpoint_seconds
            for change_lsn, frame in stream.frames(end):
                commit = changes.take(change_lsn, frame)
                if commit is not None and self._is_due(changes.pending, checkpoint_at):
                    changes.flush()
                    self._checkpoint(state, commit)
                    checkpoint_at = time.monotonic() + self.settings.sync_checkpoint_seconds
            changes.flush()
            state.lsn = stream.position

    def _is_due(self, pending: int, checkpoint_at: float) -> bool:
        return (
            self.emitter.count_since_state + pending >= self.settings.sync_checkpoint_records
            or self.emitter.bytes_since_state >= CHECKPOINT_BYTES
            or time.monotonic() >= checkpoint_at
        )

    def _checkpoint(self, state: State, commit: Commit) -> None:
        state.lsn = commit.end_lsn
        server.value(self.session, "select 1")  # losing the lock's session ends the sync
        self.emitter.state(state)


def _is_complete(stream: Stream, state: State) -> bool:
    return stream.is_followed and stream.id in state.streams and state.streams[stream.id].is_complete


def _visibilities(state: State) -> dict[StreamName, Visibility]:
    return {
        name: Visibility(progress.snapshot)
        for name, progress in state.streams.items()
        if progress.snapshot is not None and progress.snapshot_until > state.lsn
    }


def _identify(session: Connection) -> tuple[str, int]:
    system_id, timeline, *_ = server.rows(session, "IDENTIFY_SYSTEM")[0]
    return str(system_id), int(timeline)
