"""What a continuous run remembers from one session with the server to the next: how far it has come, to the row."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import msgspec

from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConfigError, ConnectorError, StreamName, TransientError
from source_postgres_cdc import lsn
from source_postgres_cdc.changes import Taken
from source_postgres_cdc.definitions import Columns
from source_postgres_cdc.emitter import Emitter
from source_postgres_cdc.replication import Confirmed
from source_postgres_cdc.state import State
from source_postgres_cdc.stop import Stop

# Between two attempts to come back: soon at first. A failover takes a minute or two; who waits longer than the limit
# should be told.
_SHORTEST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 15.0
_LIMIT_S = 600.0

log = logging.getLogger(__name__)


class Memory(msgspec.Struct):
    """``state``: None until the anchor was held for the first time. ``taken``: where the last session broke off.

    ``read``: streams that are not followed and have been read. ``aside``: streams that cannot be gone on with.
    ``is_caught_up``: the initial load is over. ``columns``: what the tables looked like when the run began, for one
    that ends when that changes.
    """

    stop: Stop
    confirmed: Confirmed
    state: State | None = None
    taken: Taken | None = None
    read: set[StreamName] = msgspec.field(default_factory=set)
    aside: set[StreamName] = msgspec.field(default_factory=set)
    columns: Columns | None = None
    in_recovery: bool | None = None
    is_caught_up: bool = False
    failing_since: float | None = None
    pause_s: float = _SHORTEST_PAUSE_S

    def begin(self, state: State) -> None:
        """The anchor is held for the first time, at the position of ``state``."""
        self.state = state
        self.confirmed.sent = self.confirmed.acknowledged = state.lsn

    @contextmanager
    def heeding(self, is_caught_up: bool) -> Iterator[None]:
        """While changes are read: behind the initial load the run can end between any two of them."""
        self.is_caught_up = is_caught_up
        with self.stop.heeded() if is_caught_up else nullcontext():
            yield

    def set_aside(self, stream: StreamName, why: ConfigError) -> None:
        """Go on without ``stream``; its progress stays in the state as it is."""
        self.aside.add(stream)
        log.error("%s %s The other streams go on without it", why.message, why.remedy)

    def said(self, state: State) -> None:
        """A STATE has left: all is well."""
        self.confirmed.sent = max(self.confirmed.sent, state.lsn)
        self.is_well()

    def is_well(self) -> None:
        """Changes are read."""
        self.failing_since, self.pause_s = None, _SHORTEST_PAUSE_S

    def resume(self, session: Connection, emitter: Emitter, state: State) -> None:
        """Send what had been taken when the last session broke; ``state`` is then where it broke off."""
        if self.taken is not None:
            self.taken.send(session, emitter)
            state.lsn = max(state.lsn, self.taken.position)

    def pause(self, failure: ConnectorError) -> None:
        """Wait before the next attempt. Raises ``failure`` when there have been enough."""
        now = time.monotonic()
        self.failing_since = self.failing_since or now
        if now - self.failing_since > _LIMIT_S:
            raise TransientError(
                f"{failure.message} It has not come back for {_LIMIT_S / 60:.0f} minutes.",
                remedy=failure.remedy,
                detail=failure.detail,
            ) from failure
        position = lsn.render(self.state.lsn) if self.state is not None else "the start"
        log.warning("%s Going on from %s in %.1f s", failure.message, position, self.pause_s)
        self.stop.wait(self.pause_s)
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)
