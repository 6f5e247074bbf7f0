"""The phases of one sync: anchor, initial load behind the barrier, changes to the fence. Knows no bytes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from airbyte_pg.connect import Connection
from source_postgres_cdc import anchor, barrier, heartbeat, lsn, publication, server, tables
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.follow import Following
from source_postgres_cdc.initial import InitialLoad
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.state import State, StreamProgress, merged
from source_postgres_cdc.streams import Stream, expect_same, is_outdated, published

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
        for stream in followed:
            if progress := state.streams.get(stream.id):
                self._meet(stream, progress)
        load = self._initial_load()
        # Without a state, a slot that was there may be of an attempt whose state got lost, but not its rows.
        is_owed = given is not None or (not held.is_new and any(stream.is_deduplicated for stream in followed))
        while not load.read_new(streams, state, is_owed=is_owed):
            self._follow(followed, state)
            load.expect_time_left()
            is_owed = True
        if not self.server.in_recovery:
            heartbeat.beat(self.settings)
        self._follow(followed, state)

    def _meet(self, stream: Stream, progress: StreamProgress) -> None:
        """Meet a stream with what the state knows of it. Raises ConfigError where it cannot go on."""
        if progress.identity is not None:
            expect_same(stream, progress.identity)
            if is_outdated(stream, progress.identity, resnapshots=self.settings.resnapshots):
                if progress.is_complete:
                    progress.refresh()
                progress.page = 0  # the parts that were read lack a column
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
        self.emitter.state(state)

    def _publish(self, streams: list[Stream]) -> list[Stream]:
        followed = [stream.table for stream in streams if stream.is_followed]
        name = self.settings.publication
        publication.ensure(
            self.session, name, followed, slot=self.settings.slot, may_create=self.settings.create_if_missing
        )
        return published(streams, tables.load_members(self.session, self.server.version, name))

    def _initial_load(self) -> InitialLoad:
        return InitialLoad(self.session, self.server, self.settings, self.emitter)
