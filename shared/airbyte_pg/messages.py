"""Protocol lines as bytes: LOG, TRACE, SPEC, CONNECTION_STATUS, CATALOG, STATE. RECORD lines are rendered elsewhere.

Shapes: Airbyte protocol 0.x, AirbyteMessage (reference/destination.md section 2).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from airbyte_pg.errors import ConnectorError, StreamName

Json = Mapping[str, Any]


def message(kind: str, field: str, payload: Any) -> bytes:
    """One protocol line: ``{"type": kind, field: payload}`` and a line feed."""
    return orjson.dumps({"type": kind, field: payload}, option=orjson.OPT_APPEND_NEWLINE)


def log(level: str, text: str, stack_trace: str | None = None) -> bytes:
    """A LOG line; ``level`` is one of FATAL, ERROR, WARN, INFO, DEBUG, TRACE."""
    payload = {"level": level, "message": text}
    if stack_trace:
        payload["stack_trace"] = stack_trace
    return message("LOG", "log", payload)


def spec(document: Any) -> bytes:
    """A SPEC line; ``document`` is the ConnectorSpecification, as an object or as orjson.Fragment."""
    return message("SPEC", "spec", document)


def connection_status(*, succeeded: bool, text: str = "") -> bytes:
    """A CONNECTION_STATUS line; a failure carries its text."""
    payload = {"status": "SUCCEEDED" if succeeded else "FAILED"}
    if text:
        payload["message"] = text
    return message("CONNECTION_STATUS", "connectionStatus", payload)


def catalog(streams: Iterable[Json]) -> bytes:
    """A CATALOG line of AirbyteStream objects."""
    return message("CATALOG", "catalog", {"streams": list(streams)})


def state(payload: Json) -> bytes:
    """A STATE line; ``payload`` is the AirbyteStateMessage."""
    return message("STATE", "state", payload)


def descriptor(stream: StreamName) -> dict[str, str]:
    """A StreamDescriptor; the namespace is left out where there is none."""
    named = {"name": stream.name}
    if stream.namespace is not None:
        named["namespace"] = stream.namespace
    return named


def stream_status(stream: StreamName, status: str) -> bytes:
    """A STREAM_STATUS trace; ``status`` is STARTED, RUNNING, COMPLETE or INCOMPLETE."""
    return _trace("STREAM_STATUS", "stream_status", {"stream_descriptor": descriptor(stream), "status": status})


def estimate(stream: StreamName, rows: int, size: int) -> bytes:
    """An ESTIMATE trace of one stream: rows and bytes to come."""
    return _trace(
        "ESTIMATE",
        "estimate",
        {**descriptor(stream), "type": "STREAM", "row_estimate": rows, "byte_estimate": size},
    )


def error(failure: ConnectorError) -> bytes:
    """The ERROR trace of a failed command: the user's text, the internal detail and where it happened."""
    payload: dict[str, Any] = {
        "message": failure.user_text,
        "internal_message": _internal_text(failure),
        "stack_trace": _where(failure),
        "failure_type": failure.failure_type,
    }
    if failure.stream is not None:
        payload["stream_descriptor"] = descriptor(failure.stream)
    return _trace("ERROR", "error", payload)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _trace(kind: str, field: str, payload: Json) -> bytes:
    # The protocol's emitted_at is a double: written with a point.
    return message("TRACE", "trace", {"type": kind, "emitted_at": float(now_ms()), field: payload})


def _internal_text(failure: ConnectorError) -> str:
    cause = failure.__cause__
    # A cause's own text may quote row values (PostgreSQL does): its class and SQLSTATE are enough.
    named = f"{type(cause).__name__} {getattr(cause, 'pgcode', None) or ''}".strip() if cause else ""
    return "; ".join(part for part in (failure.detail, named) if part) or failure.message


def _where(failure: ConnectorError) -> str:
    # Frames only: the exception lines of a formatted traceback would repeat texts with values.
    parts: list[str] = []
    link: BaseException | None = failure
    while link is not None:
        frames = "".join(traceback.format_tb(link.__traceback__))
        parts.append(f"{type(link).__name__}\n{frames}")
        link = link.__cause__
    return "caused by ".join(parts)
