"""Acknowledgements of a continuous run: nothing flows back through a pipe, but the runner keeps the states that came
back in the file that it gave us; the anchor is moved to the position found there.

The same rule as at the start of a sync, oftener. Each move makes the server read its WAL anew from the anchor's
``restart_lsn`` on: so it is rare, and rarer while that stands still (an old transaction is open).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

import psycopg2
from psycopg2 import errors

from airbyte_pg.errors import ConfigError, ConnectorError, StreamName
from source_postgres_cdc import lsn, server, slot
from source_postgres_cdc import state as states
from source_postgres_cdc.replication import Confirmed
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.state import State

_LOOK_S = 0.5
# The anchor is moved after so many seconds (a setting), or so many bytes; ten times as many while it keeps WAL anyway.
_BYTES = 256 << 20
_MOST_PATIENCE = 10

log = logging.getLogger(__name__)


class Acknowledging:
    """Inside the ``with`` block a thread looks at the state file ``path`` and moves the anchor, in sessions of its own.

    ``held`` is the state of the run, for the slot and the server that it is of; ``lock_pid`` the server's process that
    holds the anchor's lock. Nothing here ends the run: what cannot be used is warned of, once.
    """

    def __init__(
        self,
        path: Path,
        settings: SourceSettings,
        facts: Server,
        held: State,
        confirmed: Confirmed,
        *,
        followed: Collection[StreamName],
        lock_pid: int,
    ) -> None:
        self._path = path
        self._settings = settings
        self._server = facts
        self._held = held
        self._confirmed = confirmed
        self._followed = set(followed)
        self._lock_pid = lock_pid
        self._seen: tuple[int, ...] | None = None
        self._position = 0
        self._moved_at = -math.inf
        self._patience = 1
        self._restart: int | None = None
        self._warned: set[str] = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="acknowledge", daemon=True)

    def __enter__(self) -> Acknowledging:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        # It may stand in a move that takes long; that is the server's, and goes with the process.
        self._thread.join(1.0)

    def _watch(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            try:
                self._look()
            except (ConnectorError, psycopg2.Error) as error:
                self._warn(error.message if isinstance(error, ConnectorError) else type(error).__name__)

    def _look(self) -> None:
        found = _version(self._path)
        if found is not None and found != self._seen:
            # One that is replaced while it is read is looked at again.
            self._seen = found
            self._position = max(self._position, self._read())
        if self._position > self._confirmed.acknowledged and self._is_due():
            self._move(self._position)

    def _read(self) -> int:
        """The position in the file; 0 where it says nothing that can be used."""
        state = states.load(self._path, self._held.database, self._followed)
        if state is None:
            return 0
        held = self._held
        if (state.slot, state.system_id) != (held.slot, held.system_id):
            raise ConfigError("The state file is of another replication slot or server.")
        if state.lsn > self._confirmed.sent:
            raise ConfigError("The state file is ahead of what this run has sent.")
        return state.lsn

    def _is_due(self) -> bool:
        if self._confirmed.is_read:
            return True  # a word to the server that costs nothing
        waited = time.monotonic() - self._moved_at
        size = self._position - self._confirmed.acknowledged
        return waited >= self._settings.acknowledge_seconds * self._patience or (
            self._confirmed.acknowledged > 0 and size >= _BYTES * self._patience
        )

    def _move(self, position: int) -> None:
        if self._confirmed.is_read:
            # The anchor itself is read: its reader says so with its next answer.
            self._confirmed.acknowledged = position
            return
        if self._server.version < 110000:
            return
        self._moved_at = time.monotonic()
        with closing(server.open_session(self._settings)) as session:
            if not slot.is_locked_by(session, self._settings.slot, self._lock_pid):
                return  # the run has lost its session, and will soon know
            found = slot.find(session, self._server.version, self._settings.slot)
            if found is None:
                return
            try:
                wait_s = self._settings.replication_method.initial_waiting_seconds
                slot.advance(session, found, position, wait_s)
            except errors.ObjectInUse:
                return  # it is read itself for the moment
            now = slot.find(session, self._server.version, self._settings.slot)
        self._confirmed.acknowledged = position
        restart = now.restart_lsn if now is not None else None
        self._patience = min(2 * self._patience, _MOST_PATIENCE) if restart == found.restart_lsn else 1
        log.info("the slot %s was moved to %s", self._settings.slot, lsn.render(position))

    def _warn(self, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning("The slot stays where it is: %s", what)


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
