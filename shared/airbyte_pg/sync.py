"""``airbyte-pg sync``: one sync of a source and a destination, for people without an orchestrator.

Discovers and configures where no catalog is given, joins the two connectors, keeps the STATEs that come back.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airbyte_pg.configure import configure, refreshable
from airbyte_pg.continuous import Continuous
from airbyte_pg.errors import REFRESHES, ConfigError, RefreshNeeded
from airbyte_pg.pair import Pair, Plan
from airbyte_pg.pipe import Processes


def sync(plan: Plan) -> int:
    """Run one sync and return the exit code: 0, the worse one of the two connectors, or 128 + signal.

    Raises ConnectorError for what is wrong before, between and after them (files, state, catalog).
    """
    with _begun(plan) as (pair, processes):
        code = _Sync(pair, processes).run()
        return code if processes.stopped_by is None else 128 + processes.stopped_by


def sync_continuously(plan: Plan) -> int:
    """Run both sides until a signal comes; the exit code is then 0. Otherwise as ``sync``."""
    with _begun(plan) as (pair, processes):
        return Continuous(pair, processes).run()


@contextmanager
def _begun(plan: Plan) -> Iterator[tuple[Pair, Processes]]:
    with (
        _locked(plan.state),
        tempfile.TemporaryDirectory(prefix="airbyte-pg-") as folder,
        Processes() as processes,
    ):
        pair = Pair(plan, processes, Path(folder))
        pair.warn_of_missing_state()
        yield pair, processes


class _Sync:
    def __init__(self, pair: Pair, processes: Processes) -> None:
        self._pair = pair
        self._processes = processes

    def run(self) -> int:
        code, catalog = self._pair.catalog({})
        if code:
            self._pair.progress.say(f"sync failed: discover ended with exit code {code}")
        if code or self._processes.stopped_by is not None:
            return code
        code = self._move(catalog)
        if code == 0:
            self._pair.generations.end_well()
            self._pair.generations.save()
        return code

    def _move(self, catalog: bytes, *, may_refresh: bool = True) -> int:
        pair = self._pair
        configured = configure(catalog, pair.generations)
        pair.generations.save()
        refreshed = refreshable(configured, pair.generations) if may_refresh else []
        ended = pair.move(configured, {REFRESHES: "1"} if refreshed else {})
        if refreshed and ended.source == RefreshNeeded.exit_code and self._processes.stopped_by is None:
            pair.refresh(refreshed)
            return self._move(catalog, may_refresh=False)
        if self._processes.stopped_by is not None:
            pair.progress.say("stopped; the next sync goes on from the last saved state")
        elif ended.worst:
            pair.progress.say(f"sync failed: {ended}")
        else:
            sys.stdout.write(f"synced {pair.progress.summary()}\n")
            sys.stdout.flush()
        return ended.worst


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One sync at a time per state file: a second one (cron) would read a state that the first is about to replace."""
    path = state.with_name(f"{state.name}.lock")
    try:
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ConfigError(f"The state file's directory {state.parent} is not usable: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"Another sync is using the state file {state}.", remedy="Let it end first.") from error
        yield
    finally:
        # The lock goes with the descriptor; the file stays, or two could hold locks on different files of one name.
        os.close(fd)
