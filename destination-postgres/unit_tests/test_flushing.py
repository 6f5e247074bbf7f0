"""When a batch is flushed, and that no STATE leaves before the rows it covers are written."""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial

import pytest

from airbyte_pg.errors import ConnectorError, StreamName, SystemFault, TransientError
from destination_postgres.buffers import Batch, Limits, StreamBuffer
from destination_postgres.columns import columns_of
from destination_postgres.flusher import Flusher
from destination_postgres.inbox import Inbox
from destination_postgres.raw_ids import RawIds
from destination_postgres.rowcode import Encoded, RowEncoder
from destination_postgres.writer import Writer

LIMITS = Limits()
USERS, ORDERS = StreamName("public", "users"), StreamName("public", "orders")


def rows(size: int) -> Encoded:
    return Encoded(b"", b"x" * size, 1, size)


def is_due(
    batch: Batch, now_s: float = 0.0, *, at_state: bool, paused: bool = False, server_idle: bool = False
) -> bool:
    return batch.due_s(at_state=at_state, paused=paused, server_idle=server_idle) <= now_s


def test_a_batch_waits_for_a_state_up_to_a_limit():
    batch = Batch(LIMITS)
    assert not is_due(batch, at_state=True)
    batch.add(USERS, rows(LIMITS.size_bytes), 0.0)
    assert not is_due(batch, at_state=False)
    assert is_due(batch, at_state=True)
    batch.add(USERS, rows(LIMITS.size_bytes), 0.0)
    assert is_due(batch, at_state=False)


def test_what_has_been_cut_once_goes_on_in_smaller_parts_until_its_state():
    batch = Batch(LIMITS, is_cut=True)
    batch.add(USERS, rows(LIMITS.size_bytes // 4), 0.0)
    assert is_due(batch, at_state=False, server_idle=True)
    assert not is_due(batch, at_state=False)
    batch.add(USERS, rows(LIMITS.size_bytes), 0.0)
    assert is_due(batch, at_state=False)
    batch.acknowledge(b"state\n", 0.0)
    assert not is_due(batch, at_state=False, server_idle=True)
    assert not is_due(Batch(LIMITS, is_cut=True), at_state=False, server_idle=True)


def due_s(batch: Batch, *, at_state: bool = False, paused: bool = False, server_idle: bool = True) -> float:
    return batch.due_s(at_state=at_state, paused=paused, server_idle=server_idle)


def test_a_state_in_a_pause_is_due_at_once_when_the_server_was_left_alone():
    first, next_one = Batch(LIMITS), Batch(LIMITS, before_s=99.9)
    for batch in (first, next_one):
        assert due_s(batch, at_state=True, paused=True) == math.inf
        batch.add(USERS, rows(1), 100.0)
        batch.acknowledge(b"state\n", 100.0)
    assert due_s(first, at_state=True, paused=True) <= 100.0
    assert due_s(next_one, at_state=True, paused=True) == 99.9 + LIMITS.age_s / 2
    # More has been read already, and may end in a STATE as well.
    assert due_s(first, at_state=True) == 100.0 + LIMITS.age_s / 2


def test_a_busy_server_is_waited_for_and_the_batch_grows():
    batch = Batch(LIMITS)
    batch.add(USERS, rows(1), 100.0)
    for at_state, paused in itertools.product((False, True), repeat=2):
        assert due_s(batch, at_state=at_state, paused=paused, server_idle=False) == math.inf
    batch.add(USERS, rows(LIMITS.size_bytes), 100.0)
    assert due_s(batch, at_state=True, server_idle=False) <= 100.0
    assert due_s(batch, server_idle=False) == math.inf


def test_rows_without_a_state_are_due_by_age_sooner_in_a_pause():
    batch = Batch(LIMITS, before_s=50.0)
    batch.add(USERS, rows(1), 100.0)
    assert due_s(batch, paused=True) == 100.0 + LIMITS.age_s
    assert due_s(batch) == 100.0 + 10 * LIMITS.age_s
    cut = Batch(LIMITS, is_cut=True)
    cut.add(USERS, rows(1), 100.0)
    assert due_s(cut) == 100.0 + LIMITS.age_s


def test_rows_count_as_well():
    batch = Batch(Limits(row_count=2))
    for due_at_state, due in ((False, False), (True, False), (True, False), (True, True)):
        batch.add(USERS, rows(1), 0.0)
        assert is_due(batch, at_state=True) is due_at_state
        assert is_due(batch, at_state=False) is due


def test_what_is_kept_for_the_server_to_refuse_counts_as_well():
    batch = Batch(LIMITS)
    batch.add(USERS, Encoded(b"", b"x", 2, 0, lambda position, raw_id: b"%d" % position + raw_id.encode()), 0.0)
    assert not is_due(batch, at_state=True)
    batch.add(USERS, Encoded(b"", b"x", 3, LIMITS.size_bytes, lambda position, raw_id: b"+%d" % position), 0.0)
    assert is_due(batch, at_state=True)
    buffer = batch.streams[USERS]
    assert [buffer.spare_raw_row(position, "a") for position in range(5)] == [b"0a", b"1a", b"+0", b"+1", b"+2"]
    assert StreamBuffer().spare_raw_row(0, "a") == b""


def test_a_batch_of_many_streams_may_be_twice_as_large():
    batch = Batch(LIMITS)
    for number in range(1000):
        batch.add(StreamName("public", str(number)), rows(LIMITS.size_bytes // 500 - 100), 0.0)
        assert not is_due(batch, at_state=False)
    batch.add(USERS, rows(200_000), 0.0)
    assert is_due(batch, at_state=True)


def test_large_states_count_as_well():
    batch = Batch(LIMITS)
    batch.add(USERS, rows(1), 0.0)
    batch.acknowledge(b"x" * LIMITS.size_bytes, 0.0)
    assert is_due(batch, at_state=True)


def test_states_alone_are_due_at_once():
    batch = Batch(LIMITS)
    batch.acknowledge(b"state\n", 0.0)
    assert is_due(batch, at_state=True, server_idle=True)
    assert not is_due(batch, at_state=True)
    assert not batch.has_rows


class Log:
    """Records in which order things happened, from whichever thread."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._lock = threading.Lock()

    def add(self, event: str) -> None:
        with self._lock:
            self.events.append(event)


def record(stream: StreamName, number: int) -> bytes:
    return b'{"type":"RECORD","record":{"stream":"%s","namespace":"%s","emitted_at":1,"data":{"id":%d}}}\n' % (
        stream.name.encode(),
        (stream.namespace or "").encode(),
        number,
    )


def state(stream: StreamName | None, number: int) -> bytes:
    if stream is None:
        return b'{"type":"STATE","state":{"type":"GLOBAL","global":{"shared_state":%d}}}\n' % number
    return (
        b'{"type":"STATE","state":{"type":"STREAM","stream":{"stream_descriptor":{"name":"%s","namespace":"%s"},'
        b'"stream_state":%d}}}\n' % (stream.name.encode(), (stream.namespace or "").encode(), number)
    )


def status(stream: StreamName, value: str = "COMPLETE") -> bytes:
    return (
        b'{"type":"TRACE","trace":{"type":"STREAM_STATUS","emitted_at":1,"stream_status":{"stream_descriptor":'
        b'{"name":"%s","namespace":"%s"},"status":"%s"}}}\n'
        % (stream.name.encode(), (stream.namespace or "").encode(), value.encode())
    )


def _log_done(log: Log, stream: StreamName) -> None:
    log.add(f"done {stream.name}")


def write(
    lines: Iterable[bytes],
    log: Log,
    store: Callable[[Batch], None] | None = None,
    limits: Limits = LIMITS,
    streams: Iterable[StreamName] = (USERS, ORDERS),
) -> None:
    """Run a writer over ``lines``; what is stored and released is appended to ``log``."""

    def stored(batch: Batch) -> None:
        if store is not None:
            store(batch)
        for stream, buffer in batch.streams.items():
            log.add(f"{stream.name} {buffer.row_count}")

    input_fd, output_fd = os.pipe()
    waiting_fd, waking_fd = os.pipe()
    feeder = threading.Thread(target=_feed, args=(output_fd, b"".join(lines)))
    feeder.start()
    try:
        columns, ids = columns_of({"id": {"type": "integer"}}), RawIds()
        encoders = {stream: RowEncoder(stream, columns, ids, generation_id=1, sync_id=1) for stream in streams}
        flusher = Flusher(stored, lambda text: log.add(text.decode()), lambda: _wake(waking_fd))
        complete = partial(_log_done, log)
        Writer(Inbox(input_fd, waiting_fd), encoders, flusher, complete, limits).run()
    finally:
        os.close(input_fd)
        feeder.join()
        os.close(waiting_fd)
        os.close(waking_fd)


def _feed(fd: int, text: bytes) -> None:
    try:
        while text:
            text = text[os.write(fd, text) :]
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)


def _wake(fd: int) -> None:
    os.write(fd, b".")


def test_states_come_behind_the_rows_they_cover_and_streams_are_completed_last():
    log = Log()
    lines = [record(USERS, 1), record(ORDERS, 1), record(USERS, 2), state(USERS, 1), record(USERS, 3), state(None, 2)]
    write([*lines, status(USERS), status(ORDERS)], log)
    assert log.events[:2] == ["users 3", "orders 1"]
    assert log.events[2].splitlines() == [
        '{"type":"STATE","state":{"type":"STREAM","stream":{"stream_descriptor":{"name":"users","namespace":"public"},'
        '"stream_state":1},"destinationStats":{"recordCount":2.0}}}',
        '{"type":"STATE","state":{"type":"GLOBAL","global":{"shared_state":2},"destinationStats":{"recordCount":2.0}}}',
    ]
    assert log.events[3:] == ["done users", "done orders"]


def test_no_state_of_a_failed_flush_leaves():
    log, flushes = Log(), itertools.count()

    def fail_second(batch: Batch) -> None:
        if next(flushes) == 1:
            raise TransientError("the server is gone")

    lines = [line for number in range(4) for line in (record(USERS, number), state(USERS, number))]
    with pytest.raises(TransientError, match="the server is gone"):
        write([*lines, status(USERS), status(ORDERS)], log, fail_second, Limits(size_bytes=1))
    assert log.events[0] == "users 1"
    assert len(log.events) == 2
    assert '"stream_state":0' in log.events[1]


@pytest.mark.parametrize("limit", [1, 10_000])
def test_every_row_and_every_state_comes_through_in_order(limit: int):
    log = Log()
    lines = [record(USERS, number) + (state(USERS, number) if number % 100 == 99 else b"") for number in range(5000)]
    write([*lines, status(USERS), status(ORDERS, "COMPLETE")], log, limits=Limits(size_bytes=limit))
    stored = released = 0
    for event in log.events:
        if event.startswith("users "):
            stored += int(event.split()[1])
        elif not event.startswith("done"):
            for line in event.splitlines():
                released += 100
                assert f'"stream_state":{released - 1}}}' in line
                assert '"recordCount":100.0' in line
                assert released <= stored
    assert stored == released == 5000


def test_a_sync_of_states_only_returns_them():
    log = Log()
    write([state(None, 1), state(None, 2), status(USERS), status(ORDERS)], log)
    assert sum(event.count('"type":"STATE"') for event in log.events) == 2


@pytest.mark.parametrize("last", [[], [status(ORDERS, "INCOMPLETE")], [status(ORDERS, "RUNNING")]])
def test_a_stream_without_complete_fails_the_sync_after_everything_was_written(last: list[bytes]):
    log = Log()
    with pytest.raises(TransientError, match="source error"):
        write([record(USERS, 1), record(ORDERS, 1), state(None, 1), status(USERS), *last], log)
    assert log.events[:2] == ["users 1", "orders 1"]
    assert '"recordCount":2.0' in log.events[2]
    assert log.events[3:] == ["done users"]


def test_the_sources_own_error_is_told():
    error = b'{"type":"TRACE","trace":{"type":"ERROR","emitted_at":1,"error":{"message":"disk full"}}}\n'
    other = b'{"type":"TRACE","trace":{"type":"ERROR","emitted_at":1,"error":{"message":"second"}}}\n'
    with pytest.raises(TransientError, match="The source failed: disk full"):
        write([error, other, status(USERS)], Log())


def test_input_that_ends_inside_a_line_is_a_failure_after_what_was_whole_is_written():
    log = Log()
    with pytest.raises(TransientError, match="ended inside a line"):
        write([record(USERS, 1), state(USERS, 1), status(USERS), status(ORDERS), record(USERS, 2)[:-20]], log)
    assert log.events[0] == "users 1"
    assert '"stream_state":1' in log.events[1]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([record(StreamName("public", "nobody"), 1)], "not in the catalog"),
        ([record(StreamName(None, "users"), 1)], "not in the catalog"),
        ([status(StreamName("public", "nobody"))], "not in the catalog"),
        ([status(USERS), record(USERS, 1)], "after the stream's last status"),
        ([status(USERS), status(USERS, "INCOMPLETE")], "two different last statuses"),
        ([b'{"type":"RECORD"}\n'], "no record"),
        ([b'{"type":"STATE"}\n'], "no state"),
    ],
)
def test_input_that_contradicts_itself_is_refused(lines: list[bytes], text: str):
    with pytest.raises(ConnectorError, match=text):
        write([*lines, state(None, 1)], Log())


def test_a_status_may_be_repeated_and_other_messages_are_ignored():
    ignored = [b'{"type":"%s"}\n' % kind for kind in (b"CONTROL", b"SPEC", b"NEVER_HEARD_OF", b"LOG", b"TRACE")]
    log = Log()
    write([status(USERS), *ignored, status(USERS), status(ORDERS)], log)
    assert log.events == ["done users", "done orders"]


def test_a_failure_is_raised_again_and_again():
    def fail(batch: Batch) -> None:
        raise SystemFault("no")

    flusher = Flusher(fail, lambda text: None, lambda: None)
    flusher.submit(Batch(LIMITS))
    for call in (flusher.wait, flusher.check, lambda: flusher.submit(Batch(LIMITS))):
        with pytest.raises(SystemFault):
            call()
