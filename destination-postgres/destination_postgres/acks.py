"""STATE lines: which stream's records one covers, and the line that goes back once they are committed."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from airbyte_pg.errors import StreamName, SystemFault
from destination_postgres.jsontext import INVALID


class _Descriptor(msgspec.Struct):
    name: str
    namespace: str | None = None


class _StreamState(msgspec.Struct):
    stream_descriptor: _Descriptor


class _Head(msgspec.Struct):
    type: str | None = None
    stream: _StreamState | None = None


class _Global(msgspec.Struct):
    stream_states: list[_StreamState] | None = None


class _GlobalHead(msgspec.Struct):
    of_all: _Global | None = msgspec.field(default=None, name="global")
    global_: _Global | None = None


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_global = msgspec.json.Decoder(_GlobalHead).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


class RecordCounts:
    """Counts the records of each stream since the last STATE that covered them."""

    def __init__(self) -> None:
        self._counts: dict[StreamName, int] = {}

    def add(self, stream: StreamName, count: int) -> None:
        """``count`` more records of ``stream`` have come."""
        self._counts[stream] = self._counts.get(stream, 0) + count

    def take(self, stream: StreamName | None) -> int:
        """The records that a STATE of ``stream`` covers (None: of all streams), counted from here on anew."""
        if stream is not None:
            return self._counts.pop(stream, 0)
        total = sum(self._counts.values())
        self._counts.clear()
        return total


def covered_stream(state: Raw) -> StreamName | None:
    """The stream that a STATE is about, or None: GLOBAL and LEGACY ones are about all.

    Raises SystemFault for a STREAM state without a descriptor.
    """
    try:
        head = _decode_head(state)
    except INVALID:
        raise SystemFault("A STATE of the input is not valid.") from None
    if head.stream is not None:
        descriptor = head.stream.stream_descriptor
        return StreamName(descriptor.namespace, descriptor.name)
    if head.type == "STREAM":
        raise SystemFault("A STREAM state of the input names no stream.")
    return None


def named_streams(state: Raw) -> set[StreamName]:
    """The streams whose progress a STATE tells: those that a source could resume by it. A LEGACY one names none."""
    if (stream := covered_stream(state)) is not None:
        return {stream}
    try:
        head = _decode_global(state)
    except INVALID:
        return set()
    found = head.of_all or head.global_ or _Global()
    descriptors = (each.stream_descriptor for each in found.stream_states or ())
    return {StreamName(descriptor.namespace, descriptor.name) for descriptor in descriptors}


def acknowledgement(line: bytes, record_count: int) -> bytes:
    """``line`` with ``destinationStats``: every key and every value that came is returned byte for byte.

    Raises SystemFault for a line that is no valid message.
    """
    try:
        message: dict[str, Any] = _decode_object(line)
        state = _decode_object(message["state"])
    except INVALID:
        raise SystemFault("A STATE of the input is not valid.") from None
    # The protocol's type is a double; the platform compares numbers, some readers types.
    stats = b'{"recordCount":%d.0}' % record_count
    given = bytes(message["state"])
    if line.count(given) == 1 and "destinationStats" not in state:
        return line.replace(given, b'%s,"destinationStats":%s}' % (given[:-1].rstrip(), stats)) + b"\n"
    state["destinationStats"] = Raw(stats)
    message["state"] = state
    return msgspec.json.encode(message) + b"\n"
