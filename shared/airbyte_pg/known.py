"""What a state file says of a source's position and its streams; for people and alarms, not for syncs.

Of the state only what docs/state.md promises is read; a state of another source has no position that is known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import orjson

from airbyte_pg.errors import StreamName
from airbyte_pg.state_file import StateFile


class KnownStream(msgspec.Struct, frozen=True):
    """``snapshot``: how much of the table has been read, 0 to 1; None where the state does not know."""

    name: StreamName
    is_complete: bool
    snapshot: float | None


class Known(msgspec.Struct, frozen=True):
    """``position``: everything that committed before it is at the destination. ``at``: when, by the source's clock,
    that was all there was (ISO 8601)."""

    position: str | None = None
    at: str | None = None
    streams: tuple[KnownStream, ...] = ()


def load(path: Path) -> Known:
    """What is known by the state file ``path``; nothing where there is none. Raises ConfigError for a broken one."""
    shared: list[Mapping[str, Any]] = []
    streams: list[KnownStream] = []
    for payload in map(orjson.loads, StateFile.load(path).payloads):
        for entry in _streams(payload):
            own = (entry.get("stream_state") or {}).get("cdc") or {}
            streams.append(_known(entry["stream_descriptor"], own))
            shared += [own["shared"]] if "shared" in own else []
        if payload.get("type") == "GLOBAL":
            shared += [cdc] if (cdc := (payload["global"].get("shared_state") or {}).get("cdc")) else []
    # Of states per stream the lowest position counts: from there the next sync goes on.
    lowest = min(shared, key=lambda each: _number(each["lsn"]), default=None)
    if lowest is None:
        return Known(streams=tuple(streams))
    return Known(lowest["lsn"], lowest.get("at"), tuple(streams))


def _streams(payload: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if payload.get("type") == "GLOBAL":
        yield from payload["global"].get("stream_states") or ()
    elif payload.get("type") == "STREAM":
        yield payload["stream"]


def _known(descriptor: Mapping[str, Any], own: Mapping[str, Any]) -> KnownStream:
    name = StreamName(descriptor.get("namespace"), descriptor["name"])
    is_complete = bool(own.get("complete"))
    if is_complete or not own:
        return KnownStream(name, is_complete, float(is_complete))
    # In a partitioned table `page` is the number of a partition.
    pages = own.get("pages") if "leaves" not in own else None
    return KnownStream(name, is_complete, min(own["page"] / pages, 1.0) if pages else None)


def _number(position: str) -> int:
    high, _, low = position.partition("/")
    return int(high, 16) << 32 | int(low, 16)
