"""The write loop: messages in, rows and STATE lines into batches, batches to the flusher. No SQL and no values.

Order of things, which is what this module is about:

1. Records are encoded in the order of their arrival; a STATE line is queued behind them, in the same batch.
2. A batch is flushed when it is due (buffers.py); its STATE lines leave right after its commit.
3. At the end of the input the last batch is flushed, whatever went wrong at the source. Then each stream that was
   reported complete takes its new generation; if one was not, the sync fails.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from airbyte_pg.errors import ConfigError, StreamName, SystemFault
from airbyte_pg.messages import now_ms
from destination_postgres.acks import RecordCounts, acknowledgement, covered_stream, named_streams
from destination_postgres.buffers import Batch, Limits
from destination_postgres.flusher import Flusher
from destination_postgres.inbox import Inbox, Line, Message, Record, TruncatedInput
from destination_postgres.positions import Place, Progress, epoch_of
from destination_postgres.relay import Relay
from destination_postgres.rowcode import RowEncoder
from destination_postgres.streams import meant

_log = logging.getLogger(__name__)


class Writer:
    """Writes one sync. ``complete`` is called for each stream that may take its new generation.

    ``places``: how far the streams have come that say where in the order of changes their rows stand.
    ``untold``: streams of which it is to be remembered that a STATE told how far they are. ``end_completes``: the end
    of an input without statuses is that of every stream.
    """

    def __init__(
        self,
        inbox: Inbox,
        encoders: Mapping[StreamName, RowEncoder],
        flusher: Flusher,
        complete: Callable[[StreamName], None],
        limits: Limits,
        untold: Iterable[StreamName] = (),
        places: Mapping[StreamName, Place | None] = MappingProxyType({}),
        *,
        end_completes: bool = False,
    ) -> None:
        self._inbox = inbox
        self._encoders = encoders
        self._flusher = flusher
        self._complete = complete
        self._limits = limits
        self._untold = set(untold)
        self._batch = Batch(limits)
        self._counts = RecordCounts()
        self._relay = Relay(encoders, end_completes=end_completes)
        self._progress = {stream: Progress(place) for stream, place in places.items()}
        self._epoch: str | None = None
        self._known = 0
        self._at_state = False

    def run(self) -> None:
        """Write until the input ends. Raises ConnectorError when anything, here or at the source, went wrong."""
        truncated = self._take_all()
        if self._known:
            _log.info("changes that an earlier sync has written came again and were left out: rows=%d", self._known)
        self._flush()
        self._flusher.wait()
        if truncated is None and self._inbox.has_read:
            self._relay.end()
        failure: Exception | None = None
        for stream in self._encoders:
            if self._relay.is_complete(stream):
                try:
                    self._flusher.call(partial(self._complete, stream))
                except Exception as error:  # noqa: BLE001 - the first one is raised when the others are done
                    failure = failure or error
        if failure is not None:
            raise failure
        incomplete = [stream for stream in self._encoders if not self._relay.is_complete(stream)]
        if truncated is not None and not self._relay.has_source_error:
            raise truncated
        if incomplete:
            raise self._relay.failure(incomplete)

    def _take_all(self) -> TruncatedInput | None:
        while True:
            lines = self._inbox.read(self._patience_s())
            self._flusher.check()
            if lines is None:
                return None
            if not lines:
                # Woken by a flush that is done, or nothing came for so long that what there is should be shown.
                self._flush_if_due(paused=True)
                continue
            try:
                messages = self._inbox.parse(lines)
            except TruncatedInput as truncated:
                # It came alone: the whole lines before it have been taken.
                return truncated
            self._take(messages)
            # Not to be held while the next lines are read: one may be very long.
            del lines, messages
            self._flush_if_due(paused=self._at_state)

    def _take(self, messages: Sequence[Message | Line]) -> None:
        """Take the messages of one chunk: records up to the next other message at a time, stream by stream."""
        groups: dict[tuple[str | None, str], list[Record]] = {}
        group: list[Record] = []
        namespace: str | None = None
        name = ""
        for message in messages:
            if isinstance(message, Line):
                self._encode(groups)
                groups, group, name = {}, [], ""
                self._take_line(message)
                continue
            record = message.record
            if record is None:
                raise SystemFault("A RECORD message of the input has no record.")
            if record.stream != name or record.namespace != namespace or not group:
                namespace, name = record.namespace, record.stream
                group = groups.setdefault((namespace, name), [])
            group.append(record)
        self._encode(groups)

    def _encode(self, groups: Mapping[tuple[str | None, str], list[Record]]) -> None:
        if not groups:
            return
        self._at_state = False
        now_s = time.monotonic()
        loaded_ms = now_ms()
        for (namespace, name), records in groups.items():
            stream = meant(StreamName(namespace, name), self._encoders)
            if stream is None:
                raise ConfigError(
                    "The input has a record of a stream that is not in the catalog.",
                    remedy="Give the destination the catalog that the source was given.",
                    stream=StreamName(namespace, name),
                )
            self._relay.expect_records(stream)
            self._counts.add(stream, len(records))
            new: Sequence[Record] = records
            place = None
            if (progress := self._progress.get(stream)) is not None:
                new, place = progress.take(records, self._epoch)
                self._known += len(records) - len(new)
            if new:
                self._batch.add(stream, self._encoders[stream].encode(new, loaded_ms), now_s, place)

    def _take_line(self, line: Line) -> None:
        if line.message.type != "STATE":
            self._relay.take(line.message)
            return
        if not line.message.state:
            raise SystemFault("A STATE message of the input has no state.")
        if self._progress:
            self._epoch = epoch_of(line.message.state) or self._epoch
        covered = self._counts.take(covered_stream(line.message.state))
        self._batch.acknowledge(acknowledgement(line.text, covered), time.monotonic())
        if self._untold and (told := self._untold & named_streams(line.message.state)):
            self._batch.told |= told
            self._untold -= told
        self._at_state = True
        self._flush_if_due()

    def _due_s(self, *, paused: bool) -> float:
        # The middle of a line is no end of anything.
        paused = paused and (self._at_state or not self._inbox.is_within_line)
        return self._batch.due_s(at_state=self._at_state, paused=paused, server_idle=not self._flusher.is_busy)

    def _patience_s(self) -> float | None:
        """How long to wait for more input; None for ever."""
        due_s = self._due_s(paused=True)
        return None if due_s == math.inf else max(due_s - time.monotonic(), 0.0)

    def _flush_if_due(self, *, paused: bool = False) -> None:
        if self._due_s(paused=paused) <= time.monotonic():
            self._flush()

    def _flush(self) -> None:
        if not self._batch.is_empty:
            batch = self._batch
            self._batch = Batch(self._limits, is_cut=not self._at_state, before_s=time.monotonic())
            self._flusher.submit(batch)
