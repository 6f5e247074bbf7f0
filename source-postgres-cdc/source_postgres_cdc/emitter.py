"""What leaves the source, in order: records, their count since the last STATE, statuses, progress."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from airbyte_pg import messages
from airbyte_pg.errors import StreamName
from airbyte_pg.lines import LineWriter
from source_postgres_cdc import stamp
from source_postgres_cdc.state import State

_PROGRESS_S = 10.0
# The part of a line's head that says the stream (stamp.head): no quote stands bare inside of a name.
_HEAD = re.compile(rb'^(.*?),"emitted_at":', re.MULTILINE)

log = logging.getLogger(__name__)


class Emitter:
    """The one door from the sync to stdout. Counts records so that every STATE can say how many it covers.

    ``state_per_stream``: each checkpoint is a STATE of every stream (of those that have something new to say).
    """

    def __init__(self, lines: LineWriter, streams: Sequence[StreamName], *, state_per_stream: bool = False) -> None:
        self.count_since_state = 0
        self.bytes_since_state = 0
        self._lines = lines
        self._open = dict.fromkeys(streams)
        self._new = list(streams)
        self._running: set[StreamName] = set()
        self._state_per_stream = state_per_stream
        self._counts: Counter[bytes] = Counter()
        self._said: dict[StreamName, dict[str, Any]] = {}
        self._total = 0
        self._total_bytes = 0
        self._started = self._reported = time.monotonic()

    def started(self) -> None:
        """STARTED for every stream, the first time."""
        streams, self._new = self._new, []
        for stream in streams:
            self._lines.emit(messages.stream_status(stream, "STARTED"))

    def records(self, lines: bytes, count: int) -> None:
        """Finished RECORD lines."""
        self._lines.put(lines)
        if self._state_per_stream:
            self._counts.update(_HEAD.findall(lines))
        self.count_since_state += count
        self.bytes_since_state += len(lines)
        self._total += count
        self._total_bytes += len(lines)
        now = time.monotonic()
        if now - self._reported > _PROGRESS_S:
            self._reported = now
            self._report(now)

    def flush(self) -> None:
        """Let nothing wait that has been given."""
        self._lines.flush()

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
        """A STATE (or one per stream) that covers every record given so far; flushed."""
        if self._state_per_stream:
            self._lines.emit(b"".join(map(messages.state, self._new_states(state))))
        else:
            self._lines.emit(messages.state(state.render(self.count_since_state)))
        self.count_since_state = self.bytes_since_state = 0

    def _new_states(self, state: State) -> Iterable[dict[str, Any]]:
        for name in state.streams:
            rendered = state.render_stream(name, self._counts.pop(_head(name), 0))
            if rendered["sourceStats"]["recordCount"] or rendered["stream"] != self._said.get(name):
                self._said[name] = rendered["stream"]
                yield rendered

    def complete(self) -> None:
        """COMPLETE for every stream: after the last STATE."""
        self._report(time.monotonic())
        self._end("COMPLETE")

    def incomplete(self, streams: Iterable[StreamName] | None = None) -> None:
        """INCOMPLETE for every stream that has not completed, or for those of ``streams``."""
        if streams is None:
            self._end("INCOMPLETE")
            return
        for stream in streams:
            if stream in self._open:
                del self._open[stream]
                self._lines.emit(messages.stream_status(stream, "INCOMPLETE"))

    def _end(self, status: str) -> None:
        for stream in self._open:
            self._lines.emit(messages.stream_status(stream, status))
        self._open = {}

    def _report(self, now: float) -> None:
        seconds = max(now - self._started, 1e-3)
        log.info("%d records, %.1f MB, %.0f records/s", self._total, self._total_bytes / 1e6, self._total / seconds)


def _head(stream: StreamName) -> bytes:
    return stamp.head(stream, 0).encode("latin-1").rpartition(b',"emitted_at":')[0]
