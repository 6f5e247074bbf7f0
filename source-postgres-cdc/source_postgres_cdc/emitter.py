"""What leaves the source, in order: records, their count since the last STATE, statuses, progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from airbyte_pg import messages
from airbyte_pg.errors import StreamName
from airbyte_pg.lines import LineWriter
from source_postgres_cdc.state import State

_PROGRESS_S = 10.0

log = logging.getLogger(__name__)


class Emitter:
    """The one door from the sync to stdout. Counts records so that every STATE can say how many it covers."""

    def __init__(self, lines: LineWriter, streams: Sequence[StreamName]) -> None:
        self.count_since_state = 0
        self.bytes_since_state = 0
        self._lines = lines
        self._open = dict.fromkeys(streams)
        self._running: set[StreamName] = set()
        self._total = 0
        self._total_bytes = 0
        self._started = self._reported = time.monotonic()

    def started(self) -> None:
        """STARTED for every stream."""
        for stream in self._open:
            self._lines.emit(messages.stream_status(stream, "STARTED"))

    def records(self, lines: bytes, count: int) -> None:
        """Finished RECORD lines."""
        self._lines.put(lines)
        self.count_since_state += count
        self.bytes_since_state += len(lines)
        self._total += count
        self._total_bytes += len(lines)
        now = time.monotonic()
        if now - self._reported > _PROGRESS_S:
            self._reported = now
            self._report(now)

    def running(self, streams: Iterable[StreamName]) -> None:
        """RUNNING for those of ``streams`` that have just begun to give records."""
        for stream in streams:
            if stream not in self._running:
                self._running.add(stream)
                self._lines.emit(messages.stream_status(stream, "RUNNING"))

    def estimate(self, stream: StreamName, rows: int, size: int) -> None:
        """How much a snapshot will give, by the catalogue's own estimate."""
        self._lines.emit(messages.estimate(stream, rows, size))

    def state(self, state: State) -> None:
        """A STATE that covers every record given so far; flushed."""
        self._lines.emit(messages.state(state.render(self.count_since_state)))
        self.count_since_state = self.bytes_since_state = 0

    def complete(self) -> None:
        """COMPLETE for every stream: after the last STATE."""
        self._report(time.monotonic())
        self._end("COMPLETE")

    def incomplete(self) -> None:
        """INCOMPLETE for every stream that has not completed."""
        self._end("INCOMPLETE")

    def _end(self, status: str) -> None:
        for stream in self._open:
            self._lines.emit(messages.stream_status(stream, status))
        self._open = {}

    def _report(self, now: float) -> None:
        seconds = max(now - self._started, 1e-3)
        log.info("%d records, %.1f MB, %.0f records/s", self._total, self._total_bytes / 1e6, self._total / seconds)
