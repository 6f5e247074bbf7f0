"""stdin -> messages: whole lines only, one message a line, nothing that may have been a record is skipped."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from airbyte_pg.errors import SystemFault
from destination_postgres.inbox import Inbox, Line, Message, TruncatedInput

RECORD = b'{"type":"RECORD","record":{"stream":"s","namespace":"n","emitted_at":1,"data":%s}}\n'
STATE = b'{"type":"STATE","state":{"data":{}}}\n'


class Pipes:
    """An inbox on a pipe, and the ends to write to."""

    def __init__(self) -> None:
        read_fd, self.write_fd = os.pipe()
        waiting_fd, self.waking_fd = os.pipe()
        self.inbox = Inbox(read_fd, waiting_fd)
        self._fds = [read_fd, waiting_fd, self.waking_fd]

    def write(self, text: bytes) -> None:
        os.write(self.write_fd, text)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.close()


def parse(text: bytes) -> list[Message | Line]:
    return Inbox(0, 0).parse(text)


def data_of(message: Message | Line) -> bytes:
    assert isinstance(message, Message)
    assert message.record is not None
    return bytes(message.record.data)


def test_reading_gives_whole_lines(pipes: Pipes):
    pipes.write(b"one\ntw")
    assert pipes.inbox.read(1.0) == b"one\n"
    pipes.write(b"o\nthree")
    assert pipes.inbox.read(1.0) == b"two\n"
    pipes.write(b" and more")
    assert pipes.inbox.read(1.0) == b""
    os.close(pipes.write_fd)
    assert pipes.inbox.read(1.0) == b"three and more"
    assert pipes.inbox.read(1.0) is None


def test_waiting_ends_in_time_or_when_woken(pipes: Pipes):
    assert pipes.inbox.read(0.0) == b""
    os.write(pipes.waking_fd, b".")
    assert pipes.inbox.read(None) == b""
    os.close(pipes.write_fd)


def test_records_keep_the_bytes_of_their_data():
    data = b'{"a": 1.0, "b" :1e400, "c":"\\u0000\\ud83d\\ude00"}'
    (message,) = parse(RECORD % data)
    assert data_of(message) == data


def test_other_messages_come_with_their_line():
    messages = parse(RECORD % b"{}" + STATE + RECORD % b'{"a":1}')
    assert [type(message) for message in messages] == [Message, Line, Message]
    assert isinstance(messages[1], Line)
    assert messages[1].text == STATE.rstrip()


def test_empty_lines_and_talk_are_skipped(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        messages = parse(b"\n  \n" + RECORD % b"{}" + b"Picked up JAVA_TOOL_OPTIONS: secret\n" + STATE + b"\n")
    assert [type(message) for message in messages] == [Message, Line]
    assert "no JSON object: line=4" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"RECORD","record":{"stream":"s","emitted_at":1,"data":{"a":"secret"}\n',
        b'{"type":"RECORD","record":{"stream":"s","emitted_at":1}}\n',
        b'{"type":"RECORD","record":{"stream":7,"emitted_at":1,"data":{}}}\n',
        b'{"type":"RECORD","record":{"stream":"s","emitted_at":"secret","data":{}}}\n',
        b'{"type":"RECORD","record":{"stream":"s","emitted_at":1.5,"data":{}}}\n',
        b'{"record":{"stream":"s","emitted_at":1,"data":{}}}\n',
        b'{"type":"STATE","state":{"data":"\\ud800"}}\n',
        b'{"type":"RECORD","record":{"stream":"s","emitted_at":1,"data":{"a":"secret\x01"}}}\n',
        b'{"type":"RECORD","record":{"stream":"s","emitted_at":1,\n"data":{"a":"secret"}}}\n',
        b'{"type":"STATE","state":{"data":"secret\xff"}}\n',
        b'{"type":"TRACE","trace":{"type":"secret\xff"}}\n',
        # As many messages as line feeds, but not one each.
        b'{"type":"RECORD","record":{"stream":"s","emitted_at":\n1,"data":{"a":"secret"}}}',
        b"{secret}\n",
        b"{\n",
    ],
)
def test_a_line_that_may_have_been_a_message_is_never_skipped(line: bytes):
    with pytest.raises(SystemFault) as caught:
        parse(RECORD % b"{}" + line + STATE)
    assert "secret" not in f"{caught.value.user_text}{caught.value.detail}"
    assert "line 2" in caught.value.detail


def test_a_byte_order_mark_hides_no_record():
    assert len(parse(b"\xef\xbb\xbf" + RECORD % b"{}" + RECORD % b"{}")) == 2


DEEP = b'{"b":["}\\"\\\\"],"a":' + b"[" * 100_000 + b"]" * 100_000 + b', "c" : -1.5e3 ,"d":{"e":[]},"f":null}'


@pytest.mark.parametrize(
    "line",
    [
        RECORD % DEEP,
        (RECORD % DEEP).replace(b'"emitted_at":1', b'"emitted_at":1.0'),
        b' { "x" : {} , "type":"RECORD" , "record" : { "data" : %s , "emitted_at" : 1 , "stream" : "s" } } \n' % DEEP,
        (RECORD % DEEP).replace(b'"n"', b'"n\\ud800"'),
    ],
)
def test_a_record_of_any_depth_keeps_the_bytes_of_its_data(line: bytes):
    message, _ = parse(line + STATE)
    assert data_of(message) == DEEP


@pytest.mark.parametrize(
    "line",
    [
        (RECORD % DEEP)[:-3] + b"\n",
        (RECORD % DEEP).replace(b"}}\n", b"}}{}\n"),
        (RECORD % DEEP).replace(b'"emitted_at":1', b'"emitted_at":"secret"'),
        (RECORD % DEEP).replace(b'"emitted_at"', b'"secret"'),
        (RECORD % DEEP).replace(b'"n"', b'"\xff"'),
        RECORD.replace(b'"data":%s', b'"data":{},"meta":%s') % DEEP,
        b'{"type":"STATE","state":{"data":%s}}\n' % DEEP,
    ],
)
def test_depth_hides_no_other_fault(line: bytes):
    with pytest.raises(SystemFault) as caught:
        parse(RECORD % b"{}" + line + STATE)
    assert "secret" not in f"{caught.value.user_text}{caught.value.detail}"


def test_the_last_line_may_lack_its_line_feed_but_not_its_end():
    assert len(parse(STATE.rstrip())) == 1
    with pytest.raises(TruncatedInput):
        parse(STATE.rstrip()[:-1])


@pytest.mark.parametrize("emitted_at", [b"1700000000000.0", b"1.7e12", b"1700000000000"])
def test_times_are_taken_in_every_spelling_of_a_whole_number(emitted_at: bytes):
    (message,) = parse(b'{"type":"RECORD","record":{"stream":"s","emitted_at":%s,"data":{}}}\n' % emitted_at)
    assert isinstance(message, Message)
    assert message.record is not None
    assert message.record.emitted_at == 1_700_000_000_000


def test_unknown_keys_are_tolerated():
    (message,) = parse(
        b'{"type":"RECORD","x":[1],"record":{"stream":"s","emitted_at":1,"data":{},"file_reference":null,"y":{}}}\n'
    )
    assert data_of(message) == b"{}"


def test_a_record_with_a_lone_surrogate_is_repaired_and_no_other_line_is_touched():
    messages = parse(RECORD % b'{"a":"\\ud800x\\\\ud800"}' + RECORD % b'{"b":"\\u0000"}')
    assert data_of(messages[0]) == b'{"a":"\\ufffdx\\\\ud800"}'
    assert data_of(messages[1]) == b'{"b":"\\u0000"}'
