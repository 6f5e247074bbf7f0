"""``airbyte-pg sync --continuous``: both sides run until a signal comes; what fails is started again.

A run begins with an ordinary sync where something must be read whole and put in place when that is complete: tables
that cannot be followed, and refreshes. From then on only the followed tables are in it, and nothing is ever complete.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping

from airbyte_pg.configure import Json, configure, is_followed, is_replaced, name_of, refreshable
from airbyte_pg.errors import (
    CONFIG_EXIT,
    CONTINUOUS,
    HAS_WORKED,
    ONCE,
    REFRESHES,
    CatalogOutdated,
    ConfigError,
    RefreshNeeded,
    StreamName,
)
from airbyte_pg.pair import Ended, Pair
from airbyte_pg.pipe import Processes

_FIRST_PAUSE_S = 1.0
# After so long a time of running the next failure is a new one.
HEALTHY_S = 120.0
_STOPPED = 128 + signal.SIGTERM
_KILLED = 128 + signal.SIGKILL


class Continuous:
    """One continuous run of ``pair``."""

    def __init__(self, pair: Pair, processes: Processes) -> None:
        self._pair = pair
        self._processes = processes
        self._pause_s = _FIRST_PAUSE_S
        self._is_open = False
        self._refreshed: list[StreamName] = []
        self._told: set[str] = set()

    def run(self) -> int:
        """Run until a signal comes (0), the source ends by itself (0), or the user must change something (1)."""
        while True:
            began = time.monotonic()
            ended = self._attempt()
            if self._processes.stopped_by is not None:
                return self._stopped(ended, self._processes.stopped_by)
            if ended.worst == 0:
                self._end_well()
                sys.stdout.write(f"synced {self._pair.progress.summary()}\n")
                return 0
            if (code := self._judge(ended)) is not None:
                return code
            if time.monotonic() - began >= HEALTHY_S:
                self._pause_s = _FIRST_PAUSE_S
            self._processes.renew()
            if not self._processes.pause(self._next_pause(ended)):
                return 0

    def _attempt(self) -> Ended:
        """Both sides, from the last saved state, until one of them ends."""
        pair = self._pair
        code, catalog = pair.catalog(self._environment("1"))
        if code or self._processes.stopped_by is not None:
            return Ended(code, 0)
        configured = configure(catalog, pair.generations)
        pair.generations.save()
        self._refreshed = refreshable(configured, pair.generations)
        followed = self._followed(configured)
        if not self._is_open and (len(followed) < len(configured["streams"]) or any(map(is_replaced, followed))):
            ended = pair.move(configured, self._environment(ONCE))
            if ended.worst or self._processes.stopped_by is not None:
                return ended
            self._processes.renew()
            self._end_well()
            for stream in followed:
                if name_of(stream) in pair.generations.numbered:
                    stream["minimum_generation_id"] = 0
        self._is_open = True
        return pair.move({"streams": followed}, self._environment("1"), for_long=True)

    def _followed(self, configured: Json) -> list[Json]:
        """The streams of a configured catalog that go on; of each of the others the user hears once."""
        followed = [stream for stream in configured["streams"] if is_followed(stream)]
        if not followed:
            raise ConfigError(
                "No stream of the catalog can be followed.",
                remedy="A continuous run needs one that is incremental, and appended to or deduplicated.",
            )
        others = [".".join(filter(None, name_of(stream))) for stream in configured["streams"] if stream not in followed]
        if untold := [name for name in others if name not in self._told]:
            self._told.update(untold)
            self._pair.progress.say(
                "warning: tables that cannot be followed are read whole when a run begins, and not again in it: "
                + ", ".join(untold)
            )
        return followed

    def _environment(self, continuous: str) -> Mapping[str, str]:
        # A server that was there and is not there now will be there again.
        more = {REFRESHES: bool(self._refreshed), HAS_WORKED: not self._pair.states.is_empty}
        return {CONTINUOUS: continuous, **{name: "1" for name, holds in more.items() if holds}}

    def _judge(self, ended: Ended) -> int | None:
        """What ``ended`` means for the run: its exit code, or None where it goes on."""
        pair = self._pair
        if ended.source == RefreshNeeded.exit_code and self._refreshed:
            pair.refresh(self._refreshed)
            self._is_open = False
        elif ended.source == CatalogOutdated.exit_code:
            # A catalog of the user's is met with the tables as they are now, as in any sync.
            pair.progress.say("the tables have changed: the run goes on with them as they are now")
        elif CONFIG_EXIT in ended.codes.values():
            pair.progress.say(f"the run is over: {ended}; something must be changed first")
            return 1
        return None

    def _next_pause(self, ended: Ended) -> float:
        """How long to wait before the next attempt: longer each time that something failed."""
        if ended.source in (RefreshNeeded.exit_code, CatalogOutdated.exit_code):
            return _FIRST_PAUSE_S
        pause_s = min(self._pause_s, self._pair.plan.max_pause_s)
        self._pause_s = pause_s * 2
        self._pair.progress.say(f"{ended}; both are started again in {pause_s:.0f} s")
        return pause_s

    def _stopped(self, ended: Ended, signum: int) -> int:
        self._pair.progress.say("stopped; the next run goes on from the last saved state")
        if _KILLED in ended.codes.values():
            return 128 + signum
        if ended.source == _STOPPED:
            # In the middle of an initial load, which the destination cannot call complete.
            return 0
        if ended.worst == 0:
            self._end_well()
        return ended.worst

    def _end_well(self) -> None:
        self._pair.generations.end_well()
        self._pair.generations.save()
