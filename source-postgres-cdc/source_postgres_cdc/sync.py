"""The phases of one sync: anchor, initial load behind the barrier, changes to the fence. Knows no bytes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from airbyte_pg import messages
from airbyte_pg.connect import Connection
from source_postgres_cdc import anchor, barrier, heartbeat, lsn, publication, server, stamp, tables
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.follow import Following
from source_postgres_cdc.initial import InitialLoad
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.state import SWEEP, State, StreamProgress, merged
from source_postgres_cdc.streams import Stream, is_outdated, published, what_happened

log = logging.getLogger(__name__)


class Sync(msgspec.Struct):
    """One run of ``read``: its sessions, settings and output.

    ``session`` is an ordinary session: it holds the lock on the anchor, the snapshot, and the catalogue.
    """

    session: Connection
    server: Server
    settings: SourceSettings
    emitter: Emitter

    def run(self, streams: Sequence[Stream], given: State | None) -> None:
        """Read ``streams``, going on from the state ``given``; ends at the fence with COMPLETE."""
        self.emitter.started()
        if any(stream.is_followed for stream in streams):
            self._read_followed(list(streams), given)
        else:
            self._initial_load().read(streams)
        self.emitter.complete()

    def _read_followed(self, streams: list[Stream], given: State | None) -> None:
        streams = self._publish(streams)
        followed = [stream for stream in streams if stream.is_followed]
        is_refresh = all(stream.is_truncating for stream in followed)
        held = anchor.hold(self.session, self.server, self.settings, given, is_refresh=is_refresh)
        given = held.given
        state = State(
            slot=held.slot,
            system_id=held.system_id,
            timeline=held.timeline,
            database=self.server.database,
            lsn=held.lsn,
            streams=merged(given.streams if given else {}, [stream.id for stream in followed]),
            cuts=set(given.cuts) if given else set(),
        )
        if given is not None and self.settings.emit_position:
            # A destination must know of which slot and server the positions are, before the first of them.
            self.emitter.state(state)
        for stream in followed:
            if progress := state.streams.get(stream.id):
                self._meet(stream, progress)
        load = self._initial_load()
        # Without a state, a slot that was there may be of an attempt whose state got lost, but not its rows.
        is_owed = given is not None or (not held.is_new and any(stream.is_deduplicated for stream in followed))
        is_over = False
        while not is_over:
            is_over = load.read_new(streams, state, is_owed=is_owed)
            if is_over and not self.server.in_recovery:
                heartbeat.beat(self.settings)
            self._follow(followed, state)
            if any(progress.sweep == SWEEP for progress in state.streams.values()):
                is_over = False
            if not is_over:
                load.expect_time_left()
            is_owed = True

    def _meet(self, stream: Stream, progress: StreamProgress) -> None:
        """Meet a stream with what the state knows of it. Raises ConfigError where it cannot go on."""
        settings = self.settings
        if not settings.sweeps:
            progress.sweep = 0  # it was begun under other settings
        if progress.identity is not None:
            if (happened := what_happened(stream, progress.identity)) is not None:
                if not settings.sweeps:
                    raise happened
                log.warning("%s It is read anew, and what is not there any more is removed", happened.message)
                progress.refresh(sweeps=True)
            elif is_outdated(stream, progress.identity, resnapshots=settings.resnapshots):
                if progress.is_complete:
                    progress.refresh()
                progress.page = 0  # the parts that were read lack a column
        if gone := progress.leaves - {leaf.oid for leaf in stream.table.leaves}:
            log.warning(
                "%s.%s: %d partitions were detached or dropped: %s",
                *stream.id,
                len(gone),
                "the whole is read anew, and their rows are removed"
                if settings.sweeps
                else "their rows stay at the destination until the stream is refreshed",
            )
            progress.leaves -= gone
            if settings.sweeps:
                progress.refresh(sweeps=True)
        if not progress.is_refreshed:
            progress.identity = stream.identity

    def _follow(self, followed: Sequence[Stream], state: State) -> None:
        """Read the changes up to the present, and say so in a STATE."""
        fence = barrier.fence(self.session)
        if self.settings.failover and not self.server.in_recovery:
            barrier.wait_for_standbys(self.session, fence, self.settings.replication_method.initial_waiting_seconds)
        behind = max(fence - state.lsn, 0) / 1e6
        log.info("following changes from %s to %s: %.1f MB", lsn.render(state.lsn), lsn.render(fence), behind)
        following = Following(self.session, self.server, self.settings, self.emitter, followed)
        for end in sorted({*state.cuts, fence}):
            following.read_to(end, state)
        server.value(self.session, "select 1")  # the lock is still ours
        self._sweep(followed, state)
        self.emitter.state(state)

    def _sweep(self, followed: Sequence[Stream], state: State) -> None:
        """Say of streams that were read anew, because rows had gone unseen, that everything older is to be removed."""
        for stream in followed:
            progress = state.streams.get(stream.id)
            if progress is None or not progress.is_complete or progress.sweep <= SWEEP:
                continue
            has_position = self.settings.emit_position
            before, behind = stamp.around_lsn(stamp.now(), progress.sweep if has_position else None, deleted=True)
            # Without a place in the order of changes, like the snapshot's rows.
            tail = f"{before}{progress.sweep}{behind}{0 if has_position else ''}"
            line = stamp.truncation(stamp.head(stream.id, messages.now_ms()), stream.table.key, tail)
            self.emitter.records(line.encode("latin-1"), 1)
            progress.sweep = 0

    def _publish(self, streams: list[Stream]) -> list[Stream]:
        followed = [stream.table for stream in streams if stream.is_followed]
        name = self.settings.publication
        publication.ensure(
            self.session, name, followed, slot=self.settings.slot, may_create=self.settings.create_if_missing
        )
        return published(streams, tables.load_members(self.session, self.server.version, name))

    def _initial_load(self) -> InitialLoad:
        return InitialLoad(self.session, self.server, self.settings, self.emitter)
