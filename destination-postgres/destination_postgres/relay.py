"""What the source says besides records and states: statuses are judged, warnings and errors passed on."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from airbyte_pg.errors import ConnectorError, StreamName, SystemFault, TransientError
from destination_postgres.inbox import Message
from destination_postgres.jsontext import INVALID
from destination_postgres.streams import meant

_LEVELS = {"FATAL": logging.CRITICAL, "ERROR": logging.ERROR, "WARN": logging.WARNING}
_TERMINAL = frozenset({"COMPLETE", "INCOMPLETE"})
# Types that a destination is sent by some runner and has no use for.
_IGNORED = frozenset({"SPEC", "CONNECTION_STATUS", "CATALOG", "CONTROL", "DESTINATION_CATALOG"})

_log = logging.getLogger(__name__)


class _Descriptor(msgspec.Struct):
    name: str
    namespace: str | None = None


class _Status(msgspec.Struct):
    stream_descriptor: _Descriptor
    status: str


class _StatusTrace(msgspec.Struct):
    stream_status: _Status


_decode_status = msgspec.json.Decoder(_StatusTrace).decode


class Relay:
    """Keeps the terminal status of each of ``streams`` and the first error that the source reported.

    ``end_completes``: for runners that send no statuses, see ``end``.
    """

    def __init__(self, streams: Collection[StreamName], *, end_completes: bool = False) -> None:
        self._streams = streams
        self._end_completes = end_completes
        self._has_statuses = False
        self._statuses: dict[StreamName, str] = {}
        self._source_error: str | None = None
        self._unknown_types: set[str] = set()

    def take(self, message: Message) -> None:
        """Take a message that is neither RECORD nor STATE. Raises SystemFault for a status that cannot be."""
        if message.type == "LOG":
            self._take_log(_object(message.log))
        elif message.type == "TRACE":
            trace = _object(message.trace)
            if trace.get("type") == "STREAM_STATUS":
                self._take_status(message.trace)
            elif trace.get("type") == "ERROR":
                self._take_error(_nested(trace, "error"))
        elif message.type not in _IGNORED and message.type not in self._unknown_types:
            self._unknown_types.add(message.type)
            _log.info("ignored messages of an unknown type: type=%s", message.type[:40])

    def end(self) -> None:
        """The input has ended behind a whole line: the end of every stream, if that is to be so.

        Not of a source that sends statuses, so would have said COMPLETE, or that has reported an error.
        """
        if self._end_completes and not self._has_statuses and self._source_error is None:
            self._statuses = dict.fromkeys(self._streams, "COMPLETE")

    def is_complete(self, stream: StreamName) -> bool:
        """Whether the source said that it sent all of ``stream``."""
        return self._statuses.get(stream) == "COMPLETE"

    @property
    def has_source_error(self) -> bool:
        """Whether the source said why it failed."""
        return self._source_error is not None

    def expect_records(self, stream: StreamName) -> None:
        """Raise SystemFault if ``stream`` has ended: a record after its end would be of no generation."""
        if stream in self._statuses:
            raise SystemFault("The input has a record after the stream's last status.", stream=stream)

    def failure(self, incomplete: Sequence[StreamName]) -> ConnectorError:
        """What to fail with when ``incomplete`` streams were left; the source's own words where it had any."""
        detail = f"{len(incomplete)} streams without COMPLETE"
        if self._source_error is not None:
            return TransientError(f"The source failed: {self._source_error}", detail=detail)
        return TransientError(
            "Some streams were unsuccessful due to a source error. See logs for details.", detail=detail
        )

    def _take_log(self, log: dict[str, Any]) -> None:
        level = _LEVELS.get(str(log.get("level")))
        if level is not None:
            _log.log(level, "source: %s", log.get("message"))

    def _take_error(self, error: dict[str, Any]) -> None:
        text = str(error.get("message") or error.get("internal_message") or "no message")
        _log.error("source: %s", text)
        if self._source_error is None:
            self._source_error = text

    def _take_status(self, trace: Raw) -> None:
        self._has_statuses = True
        try:
            status = _decode_status(trace).stream_status
        except INVALID:
            raise SystemFault("The input has a stream's status that is not valid.") from None
        if status.status not in _TERMINAL:
            return
        given = StreamName(status.stream_descriptor.namespace, status.stream_descriptor.name)
        stream = meant(given, self._streams)
        if stream is None:
            raise SystemFault("The input has the status of a stream that is not in the catalog.", stream=given)
        if self._statuses.setdefault(stream, status.status) != status.status:
            raise SystemFault("The input has two different last statuses of one stream.", stream=stream)


def _object(raw: Raw) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(raw or b"{}")
    except INVALID:
        found = None
    return found if isinstance(found, dict) else {}


def _nested(parent: dict[str, Any], key: str) -> dict[str, Any]:
    found = parent.get(key)
    return found if isinstance(found, dict) else {}
