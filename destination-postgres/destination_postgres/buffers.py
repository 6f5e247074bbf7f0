"""What has been received and not committed: rows as COPY takes them, STATE lines behind them, and when to flush."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field

from airbyte_pg.errors import StreamName
from destination_postgres.positions import Place
from destination_postgres.rowcode import Encoded, SpareRow

_STREAM_BYTES = 64 << 10
_MANY_STREAMS = 2
# Of a full batch: enough to keep a server busy that has nothing to do.
_IDLE_SHARE = 0.25
# Of the age at which rows are to be visible: the rest is for the server to write them.
_WAITING_SHARE = 0.5
# A transaction of the source that comes without a pause is cut by its age so much later.
_PATIENCE = 10


@dataclass(frozen=True)
class Limits:
    """When a batch is flushed: at the first STATE behind this size or age, or anywhere at twice the size.

    What has been cut once is in parts whatever is done: until its STATE comes, the next parts may be smaller.

    ``size_bytes`` counts raw and final rows together. One batch may be on its way to the server while the next is
    filled; batches larger than the default gained 5 % at most when measured. But each stream in a batch costs some
    round trips, so a batch of many streams may be twice as large.

    ``age_s``: what ends in a STATE is visible so long after it came, if the server is quick. The server is given a
    batch as soon as its STATE comes if it was given none for half of that time, but never while it is busy: then the
    batch grows, whatever its age. So there are two flushes in that time at most that are not full.
    """

    size_bytes: int = 16 << 20
    row_count: int = 250_000
    age_s: float = 1.0

    def size_for(self, stream_count: int) -> int:
        """Bytes of a full batch with rows of so many streams."""
        return max(self.size_bytes, min(stream_count * _STREAM_BYTES, self.size_bytes * _MANY_STREAMS))


@dataclass
class StreamBuffer:
    """The rows of one stream as pieces of what COPY takes.

    ``spares``: Encoded.spare of each piece, and the position of its first row; ``truncations``: see Encoded; ``place``:
    of the last change among them, where that counts.
    """

    raw: list[bytes] = field(default_factory=list)
    final: list[bytes] = field(default_factory=list)
    spares: list[tuple[int, SpareRow]] = field(default_factory=list)
    row_count: int = 0
    data_bytes: int = 0
    truncations: list[str] = field(default_factory=list)
    place: Place | None = None

    def spare_raw_row(self, position: int, raw_id: str) -> bytes:
        """The raw row of the row at ``position`` (from 0); empty if there is one already, or must be none."""
        before = bisect.bisect_right(self.spares, position, key=lambda spare: spare[0])
        if not before:
            return b""
        first, spare = self.spares[before - 1]
        return spare(position - first, raw_id)


class Batch:
    """What one flush writes, and the STATE lines that its commit releases, in their order."""

    def __init__(self, limits: Limits, *, is_cut: bool = False, before_s: float = -math.inf) -> None:
        """``is_cut``: it begins in the middle of what a STATE will end; ``before_s``: when the batch before left."""
        self._limits = limits
        self._is_cut = is_cut
        self._before_s = before_s
        self.streams: dict[StreamName, StreamBuffer] = {}
        self.acknowledgements: list[bytes] = []
        # Streams of which these tell for the first time how far they are, where that matters.
        self.told: set[StreamName] = set()
        self._size = 0
        self._row_count = 0
        self._since: float | None = None

    def add(self, stream: StreamName, rows: Encoded, now_s: float, place: Place | None = None) -> None:
        """Take rows of ``stream``; ``now_s`` is a monotonic clock, ``place`` that of the last change among them."""
        buffer = self.streams.setdefault(stream, StreamBuffer())
        buffer.raw.append(rows.raw)
        buffer.final.append(rows.final)
        size = len(rows.raw) + len(rows.final)
        if rows.spare is not None:
            buffer.spares.append((buffer.row_count, rows.spare))
            # It holds on to the records.
            size += rows.data_bytes
        buffer.truncations += rows.truncations
        buffer.place = place or buffer.place
        buffer.row_count += rows.row_count
        buffer.data_bytes += rows.data_bytes
        self._row_count += rows.row_count
        self._size += size
        self._begin(now_s)

    def acknowledge(self, line: bytes, now_s: float) -> None:
        """Queue a STATE line behind the rows that have come so far."""
        self.acknowledgements.append(line)
        self._is_cut = False
        # A GLOBAL state of many streams is as large as some batches.
        self._size += len(line)
        self._begin(now_s)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write and nothing to release."""
        return self._since is None

    @property
    def has_rows(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.streams)

    def due_s(self, *, at_state: bool, paused: bool, server_idle: bool) -> float:
        """When to flush it if nothing more comes, on the clock of ``add``: now, if that has passed.

        ``at_state``: the last thing that came was a STATE, so no transaction is cut. ``paused``: nothing more is there
        yet. ``server_idle``: no batch is on its way; the end of one is waited for otherwise.
        """
        if self._since is None:
            return math.inf
        limits = self._limits
        fullness = max(self._size / limits.size_for(len(self.streams)), self._row_count / limits.row_count)
        if fullness >= 2 or (at_state and fullness >= 1):
            return self._since
        if self._is_cut and fullness >= (_IDLE_SHARE if server_idle else 1):
            return self._since
        if not server_idle:
            return math.inf
        if at_state:
            if not self.has_rows:
                return self._since
            # In the middle of what has been read the next STATE is near, and a batch that was just begun waits for it.
            return (self._before_s if paused else self._since) + limits.age_s * _WAITING_SHARE
        return self._since + limits.age_s * (1 if paused or self._is_cut else _PATIENCE)

    def _begin(self, now_s: float) -> None:
        if self._since is None:
            self._since = now_s
