"""States of Airbyte's own connectors, old (Java) and new (bulk): continued without a reset (reference/source.md 4.1).

They know a position and which streams have been read; they do not know which server and which tables they are of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import orjson

from airbyte_pg.errors import ConfigError, StreamName
from source_postgres_cdc import lsn

# What the bulk connector and the old one call a table that is (or was) read in ranges of ctid.
_BY_CTID = ("ctid", "ctid_based")
_OTHER_MODES = ("xmin", "cursor_based", "standard")


class Foreign(msgspec.Struct, frozen=True):
    """What such a state says: the position, and for each stream whether its snapshot is complete.

    ``confirmable``: as far as this the connector that wrote it may have moved the slot.
    """

    lsn: int
    confirmable: int
    streams: dict[StreamName, bool]


def of_global(shared: Mapping[str, Any], streams: Iterable[Mapping[str, Any]], database: str) -> Foreign | None:
    """The contents of a GLOBAL state; None where it knows nothing yet.

    Raises ConfigError for one of another database or another update method, ValueError and the like for nonsense.
    """
    entries = list(streams)
    found = dict(map(_stream, entries))
    offsets = shared.get("state") or {}
    if offsets:
        return Foreign(*_positions(offsets, database), found)
    if any(entry.get("stream_state") for entry in entries):
        raise ValueError("streams without a position")
    return None


def of_legacy(data: Mapping[str, Any], database: str) -> Foreign | None:
    """The contents of a LEGACY state: one object, from before states had types. As ``of_global``."""
    if not data.get("cdc"):
        raise other_mode()
    offsets = (data.get("cdc_state") or {}).get("state") or {}
    if not offsets:
        return None
    streams = (StreamName(entry.get("stream_namespace"), entry["stream_name"]) for entry in data.get("streams") or ())
    return Foreign(*_positions(offsets, database), dict.fromkeys(streams, True))


def other_mode() -> ConfigError:
    """The error for a state that was written by another update method."""
    return ConfigError(
        "The state was written by another update method (Xmin or cursor): it knows no position in the write-ahead log.",
        remedy="Clear the connection's state, so that its tables are read anew, or keep the other method.",
    )


def expect_database(written: object, database: str) -> None:
    """Raise ConfigError where a state is of another database."""
    if written != database:
        raise ConfigError(
            f"The state belongs to the database {written}.",
            remedy="Connect to that database, or reset the connection.",
        )


def _stream(entry: Mapping[str, Any]) -> tuple[StreamName, bool]:
    named = entry["stream_descriptor"]
    return StreamName(named.get("namespace"), named["name"]), _is_complete(entry.get("stream_state"))


def _is_complete(state: Mapping[str, Any] | None) -> bool:
    """Whether a stream's snapshot is complete. Said explicitly or not at all: what is unknown is read anew."""
    if state is None:
        # An empty table.
        return True
    kind = state.get("state_type")
    if kind in _OTHER_MODES or (kind is None and state.get("cursor")):
        raise other_mode()
    if kind in _BY_CTID:
        # The old connector writes another object when it is done; the new one the same without a ctid.
        return kind == "ctid_based" and state.get("ctid") is None
    return kind is None and "stream_name" in state


def _positions(offsets: Mapping[str, Any], database: str) -> tuple[int, int]:
    """Of Debezium's offset: the position before which every transaction was sent, and the last commit."""
    ((key, written),) = offsets.items()
    expect_database(orjson.loads(key)[0], database)
    offset = orjson.loads(written) if isinstance(written, str) else written
    done = [int(offset[name]) for name in ("lsn_commit", "lsn_proc") if offset.get(name) is not None]
    done = done or [int(offset["lsn"])]
    if min(done) <= 0:
        raise ValueError("no position")
    # The old connector confirms the last commit, the new one the lower of both.
    return lsn.before_header(min(done)), lsn.before_header(done[0])
