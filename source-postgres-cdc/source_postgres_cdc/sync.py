"""The phases of one sync: anchor, initial load behind the barrier, changes to the fence. Knows no bytes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

import msgspec

from airbyte_pg import messages
from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConfigError
from source_postgres_cdc import anchor, barrier, heartbeat, lsn, publication, server, stamp, tables
from source_postgres_cdc.acknowledge import Acknowledging
from source_postgres_cdc.definitions import Definitions
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.follow import BULK_BYTES, Following
from source_postgres_cdc.initial import InitialLoad
from source_postgres_cdc.memory import Memory
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.state import SWEEP, State, StreamProgress, merged
from source_postgres_cdc.streams import Stream, is_outdated, published, what_happened

log = logging.getLogger(__name__)


class _Begun(msgspec.Struct):
    """Streams that have been met with the state. ``is_owed``: changes since its position are."""

    streams: list[Stream]
    followed: list[Stream]
    state: State
    is_owed: bool


class Sync(msgspec.Struct):
    """One run of ``read``, or of a continuous one what is done in one session: its settings and output.

    ``session`` is an ordinary session: it holds the lock on the anchor, the snapshot, and the catalogue. ``memory`` is
    of a continuous run.
    """

    session: Connection
    server: Server
    settings: SourceSettings
    emitter: Emitter
    memory: Memory | None = None

    def run(self, streams: Sequence[Stream], given: State | None) -> None:
        """Read ``streams``, going on from the state ``given``; ends at the fence with COMPLETE."""
        self.emitter.started()
        if any(stream.is_followed for stream in streams):
            self._catch_up(self._begin(self._publish(list(streams)), given))
        else:
            self._initial_load().read(streams)
        self.emitter.complete()

    def run_on(self, streams: Sequence[Stream], given: State | None, state_file: Path | None, memory: Memory) -> bool:
        """Like ``run``, and on: until the run is to end, or until tables must be met anew: then false.

        What came back is read from ``state_file``. COMPLETE is the caller's to say. Raises CatalogOutdated.
        """
        self.emitter.started()
        if not any(stream.is_followed for stream in streams):
            self._initial_load().read(streams)
            return True
        if server.replication_role(self.session) is not None:
            raise ConfigError(
                "A continuous run streams changes, which takes a user with the attribute REPLICATION itself.",
                remedy=f'Run: ALTER ROLE "{self.settings.username}" REPLICATION; or leave run_mode at batch.',
            )
        streams = self._publish(list(streams))
        oids = [stream.table.oid for stream in streams if stream.is_followed]
        definitions = memory.definitions = Definitions(self.session, self.settings, oids, memory.definitions)
        begun = self._begin(streams, given)
        with ExitStack() as threads:
            threads.enter_context(heartbeat.beating(self.settings))
            if state_file is not None and self.settings.acknowledge_from_state_file:
                threads.enter_context(self._acknowledging(state_file, begun, memory))
            self._catch_up(begun)
            following = self._following(begun.followed)
            with memory.stop.heeded():
                before = sys.maxsize
                while not memory.stop.is_asked and BULK_BYTES < (left := self._backlog(begun.state)) < before // 2:
                    before = left
                    self._follow(begun.followed, begun.state)
                return following.read_on(begun.state, definitions, memory)

    def _begin(self, streams: list[Stream], given: State | None) -> _Begun:
        followed = [stream for stream in streams if stream.is_followed]
        if self.memory is not None and self.memory.state is not None:
            state, is_owed = self.memory.state, True
            anchor.hold_again(self.session, self.server, self.settings, state)
            self.memory.resume(self.session, self.emitter, state)
            self._say_origin(state)
        else:
            state, is_owed = self._hold(followed, given)
        for stream in list(followed):
            if progress := state.streams.get(stream.id):
                try:
                    self._meet(stream, progress)
                except ConfigError as error:
                    if self.memory is None or not self.memory.is_caught_up:
                        raise
                    self.memory.set_aside(stream.id, error)
                    followed.remove(stream)
                    streams.remove(stream)
        return _Begun(streams, followed, state, is_owed)

    def _hold(self, followed: list[Stream], given: State | None) -> tuple[State, bool]:
        """The state to go on from with the anchor held, and whether changes since then are owed."""
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
            at=given.at if given else None,
        )
        if self.memory is not None:
            self.memory.begin(state)
        if given is not None:
            self._say_origin(state)
        # Without a state, a slot that was there may be of an attempt whose state got lost, but not its rows.
        return state, given is not None or (not held.is_new and any(stream.is_deduplicated for stream in followed))

    def _say_origin(self, state: State) -> None:
        """A destination must know of which slot and server positions are, before the first of them."""
        if self.settings.emit_position:
            self.emitter.state(state)

    def _catch_up(self, begun: _Begun) -> None:
        """Read what is to be read whole, and the changes up to the present."""
        load = self._initial_load()
        state, is_owed, is_over = begun.state, begun.is_owed, False
        while not is_over:
            is_over = load.read_new(begun.streams, state, is_owed=is_owed)
            if is_over and not self.server.in_recovery:
                heartbeat.beat(self.settings)
            with self.memory.heeding(is_over) if self.memory is not None else nullcontext():
                self._follow(begun.followed, state)
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
        following = self._following(followed)
        fence = barrier.fence(self.session)
        if self.settings.failover and not self.server.in_recovery:
            barrier.wait_for_standbys(self.session, fence, self.settings.replication_method.initial_waiting_seconds)
        behind = max(fence - state.lsn, 0) / 1e6
        log.info("following changes from %s to %s: %.1f MB", lsn.render(state.lsn), lsn.render(fence), behind)
        for end in sorted({*state.cuts, fence}):
            following.read_to(end, state)
        following.look(state)  # the lock is still ours
        self._sweep(followed, state)
        if self.memory is not None:
            self.memory.said(state)
        self.emitter.state(state)

    def _following(self, followed: Sequence[Stream]) -> Following:
        return Following(self.session, self.server, self.settings, self.emitter, followed, self.memory)

    def _backlog(self, state: State) -> int:
        """The bytes of WAL that have been written behind the state's position."""
        return barrier.flushed_position(self.session) - state.lsn

    def _acknowledging(self, state_file: Path, begun: _Begun, memory: Memory) -> Acknowledging:
        followed = [stream.id for stream in begun.followed]
        pid = self.session.info.backend_pid
        return Acknowledging(
            state_file, self.settings, self.server, begun.state, memory.confirmed, followed=followed, lock_pid=pid
        )

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
        done = self.memory.read if self.memory is not None else None
        return InitialLoad(self.session, self.server, self.settings, self.emitter, done)
