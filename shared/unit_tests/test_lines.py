"""One writer of stdout: whole lines in order, and no line cut in two by a signal."""

from __future__ import annotations

import json
import os
import threading

import pytest

from airbyte_pg.errors import OutputClosed, Stopped
from airbyte_pg.lines import BUFFER_BYTES, LineWriter


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def drain(reader: int, into: list[bytes]) -> threading.Thread:
    def run() -> None:
        while chunk := os.read(reader, 1 << 16):
            into.append(chunk)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_records_wait_and_everything_else_goes_through_in_order(pipe):
    reader, fd = pipe
    lines = LineWriter(fd)
    lines.put(b"record\n")
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 10)
    lines.emit(b"state\n")
    assert os.read(reader, 100) == b"record\nstate\n"


def test_large_chunks_and_many_writers_keep_their_lines_whole(pipe):
    reader, fd = pipe
    lines = LineWriter(fd)
    got: list[bytes] = []
    thread = drain(reader, got)

    def write(worker: int) -> None:
        for i in range(200):
            line = json.dumps([worker, i, "x" * (BUFFER_BYTES if i % 50 == 0 else 10)]).encode() + b"\n"
            (lines.emit if i % 7 == 0 else lines.put)(line)

    workers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines.flush()
    os.close(fd)
    thread.join()
    seen = [json.loads(line)[:2] for line in b"".join(got).splitlines()]
    assert sorted(seen) == [[number, i] for number in range(4) for i in range(200)]
    for number in range(4):
        assert [i for of, i in seen if of == number] == list(range(200))


def test_an_interruption_waits_for_the_write_that_it_would_cut(pipe, monkeypatch):
    reader, fd = pipe
    lines = LineWriter(fd)
    line = b"x" * 100 + b"\n"
    plain_write = os.write

    def write_a_little(target: int, view: memoryview) -> int:
        # A signal arrives while a part of the line is out.
        if len(view) == len(line):
            lines.interrupt(Stopped(15))
        return plain_write(target, view[:30])

    monkeypatch.setattr(os, "write", write_a_little)
    with pytest.raises(Stopped):
        lines.emit(line)
    assert os.read(reader, 1000) == line
    monkeypatch.undo()
    lines.emit(b"last\n")
    assert os.read(reader, 1000) == b"last\n"
    with pytest.raises(Stopped):
        lines.interrupt(Stopped(15))


def test_a_reader_that_has_gone_is_an_error_of_its_own(pipe):
    reader, fd = pipe
    os.close(reader)
    with pytest.raises(OutputClosed):
        LineWriter(fd).emit(b"state\n")
