"""What has been received and not committed: rows as COPY takes them, STATE lines behind them, and when to flush."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from airbyte_pg.errors import StreamName
from destination_postgres.positions import Place
from destination_postgres.rowcode import Encoded, SpareRow

_STREAM_BYTES = 64 << 10
_MANY_STREAMS = 2
# Of a full batch: enough to keep a server busy that has nothing to do.
_IDLE_SHARE = 0.25


@dataclass(frozen=True)
class Limits:
    """When a batch is flushed: at the first STATE behind this size or age, or anywhere at twice as much.

    What has been cut once is in parts whatever is done: until its STATE comes, the next parts may be smaller.

    ``size_bytes`` counts raw and final rows together. One batch may be on its way to the server while the next is
    filled; batches larger than the default gained 5 % at most when measured. But each stream in a batch costs some
    round trips, so a batch of many streams may be twice as large. ``age_s``: rows of a slow stream become
    visible this long after they came.
    """

    size_bytes: int = 16 << 20
    row_count: int = 250_000
    age_s: float = 5.0

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

    def __init__(self, limits: Limits, *, is_cut: bool = False) -> None:
        """``is_cut``: it begins in the middle of what a STATE will end."""
        self._limits = limits
        self._is_cut = is_cut
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

    def is_due(self, now_s: float, *, at_state: bool, server_idle: bool = False) -> bool:
        """Whether to flush now; ``at_state``: the last thing that came was a STATE, so no transaction is cut.

        ``server_idle``: no batch is on its way.
        """
        if self._since is None:
            return False
        age_s = now_s - self._since
        limits = self._limits
        fullness = max(
            self._size / limits.size_for(len(self.streams)),
            self._row_count / limits.row_count,
            age_s / limits.age_s,
        )
        if self._is_cut and fullness >= (_IDLE_SHARE if server_idle else 1):
            return True
        return fullness >= 2 or (at_state and (fullness >= 1 or not self.has_rows))

    def patience_s(self, now_s: float) -> float | None:
        """How long to wait for more input before an idle input makes the batch due; None for ever."""
        return None if self._since is None else max(self._since + self._limits.age_s - now_s, 0.0)

    def _begin(self, now_s: float) -> None:
        if self._since is None:
            self._since = now_s
