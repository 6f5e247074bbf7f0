"""stdin bytes -> typed messages. A RECORD's data stays the bytes that it is.

The common case is decoded a megabyte at a time; a line that the decoder does not take is looked at by itself, and is
either repaired (lone surrogates, which PostgreSQL cannot store), or ignored (no JSON object), or the end of the sync.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
from typing import Final

import msgspec
from msgspec import Raw

from airbyte_pg.errors import SystemFault, TransientError
from airbyte_pg.escapes import repair_escapes
from destination_postgres import jsontext

# As much as a pipe can hold (/proc/sys/fs/pipe-max-size): fewer, larger chunks to decode.
CHUNK_BYTES = 1 << 20
# fcntl.F_SETPIPE_SZ, which Python 3.10's fcntl does not know everywhere.
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)

_log = logging.getLogger(__name__)


# Not ``Raw | None``: msgspec takes only null for that. What is missing is an empty Raw.
_MISSING: Final = Raw()


class Record(msgspec.Struct, gc=False):
    """AirbyteRecordMessage: ``data`` and ``meta`` as they came, ``emitted_at`` in milliseconds."""

    stream: str
    data: Raw
    emitted_at: int
    namespace: str | None = None
    meta: Raw = _MISSING


class Message(msgspec.Struct, gc=False):
    """AirbyteMessage, as deep as the type of it needs."""

    type: str
    record: Record | None = None
    state: Raw = _MISSING
    trace: Raw = _MISSING
    log: Raw = _MISSING


class Line(msgspec.Struct, gc=False):
    """A message that is no RECORD, with the bytes of its line."""

    message: Message
    text: bytes


class TruncatedInput(TransientError):
    """The input ended inside a line: the source, or what stands in between, has died."""


class _LooseRecord(msgspec.Struct, gc=False):
    # emitted_at as some writers spell it: 1.7e12, 1700000000000.0.
    stream: str
    data: Raw
    emitted_at: float
    namespace: str | None = None
    meta: Raw = _MISSING


class _LooseMessage(msgspec.Struct, gc=False):
    record: _LooseRecord


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_decoder: Final = msgspec.json.Decoder(Message)
_loose_decoder: Final = msgspec.json.Decoder(_LooseMessage)


class Inbox:
    """Reads whole lines from a file descriptor; ``wake_fd`` readable ends the waiting."""

    def __init__(self, fd: int, wake_fd: int) -> None:
        self._fd = fd
        self._wake_fd = wake_fd
        self._parts: list[bytes] = []
        self._lines_read = 0
        self._unknown_types: set[str] = set()
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, _F_SETPIPE_SZ, CHUNK_BYTES)

    def read(self, timeout_s: float | None) -> bytes | None:
        """Whole lines, each with its line feed (the input's last may lack it).

        ``b""`` when none came in time or when woken; None at the end.
        """
        readable, _, _ = select.select([self._fd, self._wake_fd], [], [], timeout_s)
        if self._wake_fd in readable:
            os.read(self._wake_fd, 4096)
        if self._fd not in readable:
            return b""
        chunk = os.read(self._fd, CHUNK_BYTES)
        if not chunk:
            rest = b"".join(self._parts)
            self._parts = []
            return rest or None
        end = chunk.rfind(b"\n") + 1
        if not end:
            # The middle of a long line: joined once, when it ends.
            self._parts.append(chunk)
            return b""
        lines = b"".join([*self._parts, memoryview(chunk)[:end]])
        self._parts = [chunk[end:]] if end < len(chunk) else []
        return lines

    @property
    def has_read(self) -> bool:
        """Whether any line has come."""
        return self._lines_read > 0

    @property
    def is_within_line(self) -> bool:
        """Whether the beginning of a line has been read, and not its end."""
        return bool(self._parts)

    def parse(self, lines: bytes) -> list[Message | Line]:
        """The messages in ``lines``, in order; those that are no RECORDs with their line.

        Raises SystemFault for a line that is no message but may have been one, TruncatedInput if it is the last.
        """
        try:
            messages = _decoder.decode_lines(lines)
        except jsontext.INVALID:
            return self._parse_each(lines)
        count = len(messages)
        # One message a line, or the lines must be looked at one by one: two halves must not become a whole.
        if count != lines.count(b"\n") or not lines.endswith(b"\n"):
            return self._parse_each(lines)
        if all(message.type == "RECORD" for message in messages):
            self._lines_read += count
            return messages  # type: ignore[return-value] # list is invariant; nobody writes to it
        # The others are told by their lines, so each must be its own; what is counted is in no string and between no
        # two members. (Not above: it would take a third of what decoding takes.)
        if count != 1 + lines.count(b"}\n{"):
            return self._parse_each(lines)
        found: list[Message | Line] = []
        for message, text in zip(messages, lines.split(b"\n"), strict=False):
            self._lines_read += 1
            found.append(message if message.type == "RECORD" else self._line(message, text))
        return found

    def _parse_each(self, lines: bytes) -> list[Message | Line]:
        found: list[Message | Line] = []
        complete = lines.endswith(b"\n")
        texts = lines.split(b"\n")
        for position, given in enumerate(texts):
            self._lines_read += 1
            text = given.strip().removeprefix(_BYTE_ORDER_MARK)
            if not text:
                continue
            if not text.startswith(b"{"):
                _log.info("ignored a line of the input that is no JSON object: line=%d", self._lines_read)
                continue
            message = self._parse_one(text, last=not complete and position == len(texts) - 1)
            found.append(message if message.type == "RECORD" else self._line(message, text))
        return found

    def _line(self, message: Message, text: bytes) -> Line:
        try:
            # The decoder looks at no more of a Raw than where it ends.
            text.decode()
        except UnicodeDecodeError:
            raise self._invalid(text) from None
        return Line(message, text)

    def _parse_one(self, text: bytes, *, last: bool) -> Message:
        try:
            return _decoder.decode(text)
        except jsontext.INVALID:
            repaired = _repaired(text)
        if repaired is not None:
            return repaired
        if last:
            raise TruncatedInput("The input ended inside a line.", detail=self._place(text))
        raise self._invalid(text)

    def _invalid(self, text: bytes) -> SystemFault:
        return SystemFault("A line of the input is no valid Airbyte message.", detail=self._place(text))

    def _place(self, text: bytes) -> str:
        return f"line {self._lines_read}, {len(text)} bytes"


def _repaired(text: bytes) -> Message | None:
    # A STATE must come back as it came, so only records are repaired.
    message: Message | None
    for candidate in (text, repair_escapes(text, drop_nul=False)):
        try:
            message = _decoded(candidate)
        except RecursionError:
            message = _deeply(candidate)
        if message is not None:
            return message if candidate is text or message.type == "RECORD" else None
    return None


def _decoded(text: bytes) -> Message | None:
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _loosely(text)


def _loosely(text: bytes) -> Message | None:
    try:
        record = _loose_decoder.decode(text).record
        kind = msgspec.json.decode(text, type=dict[str, Raw]).get("type")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if kind is None or bytes(kind) != b'"RECORD"' or not record.emitted_at.is_integer():
        return None
    return Message("RECORD", Record(record.stream, record.data, int(record.emitted_at), record.namespace, record.meta))


def _deeply(text: bytes) -> Message | None:
    """A RECORD whose data is nested deeper than the decoder goes: decoded without its data, which is put in again."""
    try:
        members = jsontext.members(text)
        record = jsontext.members(bytes(members.get("record", _MISSING)))
        data = record.pop("data")
        shallow = msgspec.json.encode({**members, "record": {**record, "data": {}}})
        message = _decoded(shallow)
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if message is None or message.record is None or message.type != "RECORD":
        return None
    message.record.data = data
    return message
