"""The STATE: what a sync must know to go on. Read in every shape that a runner keeps it in, written as GLOBAL.

``shared_state.state`` is Debezium's offset, as Airbyte's connector writes it, so that a user can switch back;
``shared_state.cdc`` and ``stream_state.cdc`` are ours and versioned (docs/state.md). A stream is complete only where
its state says so, and known before its first row leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from airbyte_pg.errors import ConfigError, StreamName
from source_postgres_cdc import lsn

VERSION = 1


@dataclass(frozen=True)
class StreamIdentity:
    """What must not change behind a followed stream: its table's OID, that of its membership in the publication, and
    the columns as last sent (name to type OID).
    """

    table: int
    member: int
    columns: dict[str, int]


@dataclass
class StreamProgress:
    """A followed stream. ``is_complete``: all its rows have been read in a snapshot.

    ``snapshot`` is the one in which its first row was read; until the position has passed ``snapshot_until``, the
    stream leaves out what it shows. None: nothing is left out, since rows from before may be at the destination.
    A decoding session ends at ``snapshot_until`` as well. ``identity`` is the table as it was last read.
    """

    is_complete: bool
    snapshot: str | None = None
    snapshot_until: int = 0
    identity: StreamIdentity | None = None


@dataclass
class State:
    """The position of a slot (``lsn``: every transaction that committed before it is done with) and its streams."""

    slot: str
    system_id: str
    timeline: int
    database: str
    lsn: int
    streams: dict[StreamName, StreamProgress] = field(default_factory=dict)

    def render(self, record_count: int) -> dict[str, Any]:
        """The AirbyteStateMessage; ``record_count`` is the number of records since the previous one."""
        return {
            "type": "GLOBAL",
            "global": {
                "shared_state": {
                    "state": self._debezium_offset(),
                    "cdc": {
                        "version": VERSION,
                        "slot": self.slot,
                        "database": self.database,
                        "system_id": self.system_id,
                        "timeline": self.timeline,
                        "lsn": lsn.render(self.lsn),
                    },
                },
                "stream_states": [
                    {"stream_descriptor": _descriptor(name), "stream_state": self._stream_state(name, progress)}
                    for name, progress in self.streams.items()
                ],
            },
            # The protocol's counts are doubles.
            "sourceStats": {"recordCount": float(record_count)},
        }

    def _stream_state(self, name: StreamName, progress: StreamProgress) -> dict[str, Any]:
        own: dict[str, Any] = {"version": VERSION, "complete": progress.is_complete}
        if progress.identity is not None:
            own |= asdict(progress.identity)
        if progress.snapshot_until > self.lsn:
            own |= {"snapshot": progress.snapshot, "snapshot_until": lsn.render(progress.snapshot_until)}
        return {"stream_name": name.name, "stream_namespace": name.namespace, "cursor_field": [], "cdc": own}

    def _debezium_offset(self) -> dict[str, str]:
        server = re.sub(r"[^A-Za-z0-9._-]", "_", self.database)
        key = orjson.dumps([self.database, {"server": server}]).decode()
        offset = {
            "transaction_id": None,
            "lsn_proc": self.lsn,
            "lsn_commit": self.lsn,
            "lsn": self.lsn,
            "txId": None,
            "ts_usec": None,
        }
        return {key: orjson.dumps(offset).decode()}


def load(path: Path | None, database: str) -> State | None:
    """The state in ``path``; None for a first sync (no file given, ``{}``, ``[]``, or output lines without a STATE).

    Accepted: an array of AirbyteStateMessages, a single one, a STATE message, or the lines that a destination printed
    (the last GLOBAL state wins). Raises ConfigError for anything else: a state that cannot be read is never taken for a
    first sync.
    """
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"The state file cannot be read: {error.strerror}.", detail=str(path)) from error
    found = [payload for payload in map(_payload, _documents(content)) if payload]
    return _parse(found[-1], database) if found else None


def _documents(content: bytes) -> list[Any]:
    if not content.strip():
        raise _unreadable("the file is empty (a first sync has {} or no file at all)")
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return _lines(content)
    return document if isinstance(document, list) else [document]


def _lines(content: bytes) -> list[Any]:
    documents = []
    is_output = False
    for number, line in enumerate(content.splitlines(), start=1):
        # A destination's output has LOG lines too, and now and then a line that is no JSON.
        if not line.lstrip().startswith(b"{"):
            continue
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _unreadable(f"line {number} is not JSON") from error
        is_output = is_output or "type" in document
        if document.get("type") == "STATE":
            documents.append(document)
    if not is_output:
        raise _unreadable("it is neither JSON nor a destination's output lines")
    return documents


def _payload(document: Any) -> dict[str, Any] | None:
    """The AirbyteStateMessage of a document; None where it says nothing."""
    if not isinstance(document, dict):
        raise _unreadable("a state must be a JSON object")
    payload: dict[str, Any] = (document.get("state") or {}) if document.get("type") == "STATE" else document
    says = {key for key, value in payload.items() if value} - {"type", "sourceStats", "destinationStats"}
    return payload if says else None


def _parse(payload: Mapping[str, Any], database: str) -> State:
    shape = payload.get("global") or payload.get("global_")
    if not isinstance(shape, Mapping):
        raise _unreadable("only GLOBAL states are supported yet")
    try:
        own = (shape.get("shared_state") or {}).get("cdc")
        if own is None:
            raise ConfigError(
                "The state was written by another connector; continuing from it is not supported yet.",
                remedy="Reset the connection, or keep the other connector.",
            )
        if own["version"] != VERSION:
            raise _unreadable("it was written by a newer version")
        if own["database"] != database:
            raise ConfigError(
                f"The state belongs to the database {own['database']}.",
                remedy="Connect to that database, or reset the connection.",
            )
        streams = dict(map(_parse_stream, shape.get("stream_states") or ()))
        return State(
            slot=own["slot"],
            system_id=own["system_id"],
            timeline=own["timeline"],
            database=database,
            lsn=lsn.parse(own["lsn"]),
            streams=streams,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable("its contents are not what this connector writes") from error


def _parse_stream(entry: Mapping[str, Any]) -> tuple[StreamName, StreamProgress]:
    named = entry["stream_descriptor"]
    name = StreamName(named.get("namespace"), named["name"])
    own = (entry.get("stream_state") or {}).get("cdc")
    if not own:
        # A refresh sends null: the stream was followed, and is read anew.
        return name, StreamProgress(is_complete=False)
    until = own.get("snapshot_until")
    return name, StreamProgress(
        is_complete=own.get("complete") is True,
        snapshot=own.get("snapshot"),
        snapshot_until=lsn.parse(until) if until else 0,
        identity=StreamIdentity(own["table"], own["member"], own["columns"]) if "table" in own else None,
    )


def _descriptor(name: StreamName) -> dict[str, str | None]:
    return {"name": name.name, "namespace": name.namespace}


def _unreadable(why: str) -> ConfigError:
    return ConfigError(
        f"The state cannot be read: {why}.", remedy="Give the last state that the destination returned, or reset."
    )


def merged(
    known: Mapping[StreamName, StreamProgress], wanted: Iterable[StreamName]
) -> dict[StreamName, StreamProgress]:
    """Progress of the streams that are still configured; a removed one is forgotten, and read anew when it returns."""
    return {name: known[name] for name in wanted if name in known}
