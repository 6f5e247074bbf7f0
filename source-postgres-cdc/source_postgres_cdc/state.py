"""The STATE: what a sync must know to go on. Read in every shape that a runner keeps it in; GLOBAL, or one per stream.

``shared_state.state`` is Debezium's offset, as Airbyte's connector writes it, so that a user can switch back;
``shared_state.cdc`` and ``stream_state.cdc`` are ours and versioned (docs/state.md). A stream is complete only where
its state says so, and known before its first row leaves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson

from airbyte_pg.errors import ConfigError, StreamName
from source_postgres_cdc import foreign_state, lsn, pgtypes
from source_postgres_cdc.foreign_state import Foreign

VERSION = 1


class SentColumn(msgspec.Struct, frozen=True, array_like=True):
    """A column as last sent: its type, the type's modifier, its number in the table (None: not known).

    A column that was dropped and made anew has another number, whatever its name.
    """

    type_oid: int
    typmod: int | None = None
    number: int | None = None

    def goes_on_as(self, now: SentColumn) -> bool:
        """Whether ``now`` has the values that were sent: the same column, its type the same or only widened."""
        types = (self.type_oid, self.typmod), (now.type_oid, now.typmod)
        return self.number in (None, now.number) and pgtypes.keeps_values(*types)


class StreamIdentity(msgspec.Struct, frozen=True):
    """What must not change behind a followed stream: its table's OID, that of its membership in the publication, and
    the columns as last sent, by name.
    """

    table: int
    member: int
    columns: dict[str, SentColumn]

    def changed(self, now: StreamIdentity) -> list[str]:
        """The columns of ``now`` whose values have not been sent, or were other ones."""
        known = self.columns
        return [name for name, column in now.columns.items() if name not in known or not known[name].goes_on_as(column)]


SWEEP = 1


class StreamProgress(msgspec.Struct):
    """A followed stream. ``is_complete``: all its rows have been read in a snapshot.

    ``snapshot`` is the one in which its first row was read; until the position has passed ``snapshot_until``, the
    stream leaves out what it shows. None: nothing is left out, since rows from before may be at the destination.
    ``identity`` is the table as it was last read; None: unknown.
    Where rows are deduplicated, deletes among what is left out are sent all the same, stamped below ``deletes_below``,
    the stamp of the snapshot's rows: an earlier attempt, whose state got lost, may have brought the rows.
    ``position``: every transaction that committed before it is done with for this stream, where that lies ahead of
    the state's own position.
    Of a table in parts every page before ``page`` is done, of ``pages`` that it had when it was begun, as long as its
    rows are in ``file``. The parts of a partitioned table are its partitions: ``leaves`` are those that have been read,
    or are to be; ``page`` is the OID of the first that is not done, and ``file`` the table's own OID. Of
    ``fresh_leaves``, which have come later and were read in this sync, is left out what their snapshots show.
    ``sweep``: once all is read anew, what is older is to be removed from the destination (``SWEEP``: it has not begun;
    else the stamp of the first rows).
    """

    is_complete: bool
    snapshot: str | None = None
    snapshot_until: int = 0
    identity: StreamIdentity | None = None
    deletes_below: int = 0
    position: int = 0
    page: int = 0
    pages: int = 0
    file: int | None = None
    leaves: frozenset[int] = frozenset()
    fresh_leaves: dict[int, StreamProgress] = msgspec.field(default_factory=dict)
    sweep: int = 0

    @property
    def is_refreshed(self) -> bool:
        """Whether rows from before may be at the destination, and the stream is to be read anew."""
        return not self.is_complete and self.identity is None

    def refresh(self, *, sweeps: bool = False) -> None:
        """The stream is to be read anew; rows from before are at the destination.

        ``sweeps``: some of them have gone unseen, so those that are not read again are to be removed.
        """
        if sweeps:
            self.sweep = SWEEP
        self.is_complete, self.identity, self.page, self.file = False, None, 0, None
        self.snapshot, self.snapshot_until, self.deletes_below = None, 0, 0
        self.leaves = frozenset()

    @property
    def left_out_until(self) -> int:
        """The position from which on nothing of the stream is left out any more."""
        return max(self.snapshot_until, self.position)


class State(msgspec.Struct):
    """The position of a slot (``lsn``: every transaction that committed before it is done with) and its streams.

    A decoding session ends at each of ``cuts`` (barrier.py says why), which a stream that is refreshed does not forget.
    A state of another connector does not know ``slot``, ``system_id`` and ``timeline``; it may have moved the slot as
    far as ``confirmable``. At the moment ``at``, by the server's clock, nothing was written behind ``lsn`` yet.
    """

    slot: str | None
    system_id: str | None
    timeline: int | None
    database: str
    lsn: int
    streams: dict[StreamName, StreamProgress] = msgspec.field(default_factory=dict)
    confirmable: int = 0
    cuts: set[int] = msgspec.field(default_factory=set)
    at: str | None = None

    @property
    def furthest(self) -> int:
        """The furthest position that any stream has seen; ``timeline`` is of it."""
        return max([self.lsn, *(progress.position for progress in self.streams.values())])

    def without_stale(self, confirmed: int) -> State:
        """This state without the streams whose own state is from before ``confirmed``, where others are not.

        They were removed from the connection for a while (a runner keeps the last state of each), and are read anew.
        """
        own = {name: progress.position for name, progress in self.streams.items() if progress.position}
        current = {name: position for name, position in own.items() if position >= confirmed}
        if self.lsn >= confirmed or self.lsn not in own.values() or not current:
            return self
        streams = {name: progress for name, progress in self.streams.items() if name in current or name not in own}
        return msgspec.structs.replace(self, lsn=min(current.values()), streams=streams)

    def render(self, record_count: int) -> dict[str, Any]:
        """The AirbyteStateMessage; ``record_count`` is the number of records since the previous one."""
        return {
            "type": "GLOBAL",
            "global": {
                "shared_state": {"state": self._debezium_offset(), "cdc": self._shared(self.lsn)},
                "stream_states": [
                    {"stream_descriptor": _descriptor(name), "stream_state": self._stream_state(name, progress)}
                    for name, progress in self.streams.items()
                ],
            },
            "sourceStats": _stats(record_count),
        }

    def render_stream(self, name: StreamName, record_count: int) -> dict[str, Any]:
        """The AirbyteStateMessage of one stream, by itself enough to go on with that stream."""
        progress = self.streams[name]
        stream_state = self._stream_state(name, progress)
        stream_state["cdc"].pop("position", None)
        stream_state["cdc"]["shared"] = self._shared(max(self.lsn, progress.position))
        return {
            "type": "STREAM",
            "stream": {"stream_descriptor": _descriptor(name), "stream_state": stream_state},
            "sourceStats": _stats(record_count),
        }

    def _shared(self, position: int) -> dict[str, Any]:
        cuts = [lsn.render(cut) for cut in sorted(self.cuts) if cut > self.lsn]
        return {
            "version": VERSION,
            "slot": self.slot,
            "database": self.database,
            "system_id": self.system_id,
            "timeline": self.timeline,
            "lsn": lsn.render(position),
            **({"cuts": cuts} if cuts else {}) | ({"at": self.at} if self.at else {}),
        }

    def _stream_state(self, name: StreamName, progress: StreamProgress) -> dict[str, Any]:
        own: dict[str, Any] = {"version": VERSION, "complete": progress.is_complete}
        if progress.identity is not None:
            own |= msgspec.to_builtins(progress.identity)
        if not progress.is_complete and progress.file is not None:
            own |= {"page": progress.page, "pages": progress.pages, "file": progress.file}
        if progress.sweep:
            own["sweep"] = lsn.render(progress.sweep)
        if progress.leaves:
            own["leaves"] = sorted(progress.leaves)
        if progress.snapshot_until > max(self.lsn, progress.position):
            own |= {"snapshot": progress.snapshot, "snapshot_until": lsn.render(progress.snapshot_until)}
        if progress.deletes_below and progress.left_out_until > self.lsn:
            own["deletes_below"] = lsn.render(progress.deletes_below)
        if progress.position > self.lsn:
            own["position"] = lsn.render(progress.position)
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


def load(path: Path | None, database: str, followed: Collection[StreamName]) -> State | None:
    """The state in ``path``; None for a first sync (no file given, ``{}``, ``[]``, or output lines without a STATE).

    Accepted: an array of AirbyteStateMessages, a single one, a STATE message, or the lines that a destination printed
    (the last GLOBAL state wins; of STREAM states the last of each of the streams ``followed``). Raises ConfigError for
    anything else: a state that cannot be read is never taken for a first sync.
    """
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"The state file cannot be read: {error.strerror}.", detail=str(path)) from error
    found = [payload for payload in map(_payload, _documents(content)) if payload]
    try:
        return _parse(found, database, followed) if found else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable("its contents are not what this connector or Airbyte's own writes") from error


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


def _parse(payloads: Sequence[Mapping[str, Any]], database: str, followed: Collection[StreamName]) -> State | None:
    last = payloads[-1]
    if last.get("type") == "STREAM":
        entries = []
        for payload in reversed(payloads):
            if payload.get("type") != "STREAM":
                break  # from before the kind was changed
            entries.append(payload["stream"])
        return _of_streams(reversed(entries), database, followed)
    shape = last.get("global") or last.get("global_")
    if shape:
        if not shape.keys() & {"shared_state", "stream_states"}:
            raise _unreadable("its global part holds neither a shared state nor streams")
        shared = shape.get("shared_state") or {}
        entries = shape.get("stream_states") or []
        if own := shared.get("cdc"):
            return _own(own, dict(map(_parse_stream, entries)), database)
        return _adopted(foreign_state.of_global(shared, entries, database), database)
    if last.get("type") in (None, "LEGACY"):
        return _adopted(foreign_state.of_legacy(last.get("data") or last, database), database)
    raise _unreadable("it is of a type that is not known")


def _own(shared: Mapping[str, Any], streams: dict[StreamName, StreamProgress], database: str) -> State:
    if shared["version"] != VERSION:
        raise _unreadable("it was written by a newer version")
    foreign_state.expect_database(shared["database"], database)
    return State(
        slot=shared["slot"],
        system_id=shared["system_id"],
        timeline=shared["timeline"],
        database=database,
        lsn=lsn.parse(shared["lsn"]),
        streams=streams,
        cuts=set(map(lsn.parse, shared.get("cuts") or ())),
        at=shared.get("at"),
    )


def _of_streams(entries: Iterable[Mapping[str, Any]], database: str, followed: Collection[StreamName]) -> State | None:
    """One state of many: the lowest position, and for each stream how far ahead of it that one is."""
    named = ((_name(entry["stream_descriptor"]), entry) for entry in entries)
    last = {name: entry for name, entry in named if name in followed}
    streams = {}
    states = []
    for name, entry in last.items():
        _, streams[name] = _parse_stream(entry)
        if (stream_state := entry.get("stream_state")) and "cdc" not in stream_state:
            raise foreign_state.other_mode()
        if stream_state:
            states.append(_own(stream_state["cdc"]["shared"], {}, database))
            streams[name].position = states[-1].lsn
    if not states:
        return None
    if len({state.system_id for state in states}) > 1:
        raise _unreadable("its streams are of different servers")
    lowest, highest = (pick(states, key=lambda state: state.lsn) for pick in (min, max))
    cuts = set[int]().union(*(state.cuts for state in states))
    return State(
        lowest.slot, highest.system_id, highest.timeline, database, lowest.lsn, streams, cuts=cuts, at=lowest.at
    )


def _adopted(foreign: Foreign | None, database: str) -> State | None:
    """A state of another connector: it says nothing of server, timeline, slot and tables."""
    if foreign is None:
        return None
    streams = {name: StreamProgress(is_complete=is_complete) for name, is_complete in foreign.streams.items()}
    return State(None, None, None, database, foreign.lsn, streams, foreign.confirmable)


def _parse_stream(entry: Mapping[str, Any]) -> tuple[StreamName, StreamProgress]:
    name = _name(entry["stream_descriptor"])
    own = (entry.get("stream_state") or {}).get("cdc")
    if not own:
        # A refresh sends null: the stream was followed, and is read anew.
        return name, StreamProgress(is_complete=False)
    if (text := own.get("snapshot")) is not None and not re.fullmatch(r"\d+:\d+:[\d,]*", text):
        raise ValueError("no snapshot")
    until, position = own.get("snapshot_until"), own.get("position")
    deletes_below = own.get("deletes_below")
    return name, StreamProgress(
        is_complete=own.get("complete") is True,
        snapshot=own.get("snapshot"),
        snapshot_until=lsn.parse(until) if until else 0,
        identity=StreamIdentity(own["table"], own["member"], _columns(own["columns"])) if "table" in own else None,
        deletes_below=lsn.parse(deletes_below) if deletes_below else 0,
        position=lsn.parse(position) if position else 0,
        page=int(own.get("page") or 0),
        pages=int(own.get("pages") or 0),
        file=own.get("file"),
        leaves=frozenset(map(int, own.get("leaves") or ())),
        sweep=lsn.parse(own["sweep"]) if own.get("sweep") else 0,
    )


def _columns(columns: Mapping[str, Any]) -> dict[str, SentColumn]:
    # The first states had nothing but the types.
    return {name: SentColumn(*([sent] if isinstance(sent, int) else map(int, sent))) for name, sent in columns.items()}


def _name(descriptor: Mapping[str, Any]) -> StreamName:
    return StreamName(descriptor.get("namespace"), descriptor["name"])


def _stats(record_count: int) -> dict[str, float]:
    # The protocol's counts are doubles.
    return {"recordCount": float(record_count)}


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
