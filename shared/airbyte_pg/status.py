"""``airbyte-pg status``: how a connection stands, for people and for alarms. It runs beside syncs and disturbs none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from airbyte_pg import known, watch
from airbyte_pg.errors import StreamName
from airbyte_pg.known import Known
from airbyte_pg.settings import load_settings
from airbyte_pg.watch import DestinationAddress, Lag, Slot, Source, SourceAddress

# Something is to be looked after; 1 is an error of ours, 2 a wrong argument.
ALERT_EXIT = 3


@dataclass(frozen=True)
class Question:
    """What is asked for, and what is too much."""

    source_config: Path
    destination_config: Path | None = None
    state: Path | None = None
    max_lag_s: float | None = None
    max_retained_bytes: int | None = None


class StreamStatus(msgspec.Struct, frozen=True):
    """A stream: how much of its snapshot is read (0 to 1), and about how many rows the tables have; None: unknown."""

    namespace: str | None
    name: str
    snapshot: float | None
    source_rows: int | None
    destination_rows: int | None


class Alert(NamedTuple):
    """What is to be looked after: a word for machines, a sentence for people."""

    kind: str
    message: str


class Status(msgspec.Struct, frozen=True):
    """Everything that ``status`` says. ``lag.position`` is the state's, without a state the slot's."""

    source: Source
    lag: Lag
    streams: list[StreamStatus]
    alerts: list[Alert]

    def as_json(self) -> bytes:
        """For machines."""
        alerts = [alert._asdict() for alert in self.alerts]
        content = {**msgspec.to_builtins(self), "alerts": alerts}
        return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def look(question: Question) -> Status:
    """How the connection stands. Raises ConnectorError where a server cannot be asked or a file cannot be read."""
    settings = load_settings(question.source_config, SourceAddress)
    with watch.looking(settings) as cursor:
        source = watch.source(cursor, settings.replication_method.replication_slot)
        # Behind the slot, which moves only to what the file says.
        said = known.load(question.state) if question.state is not None else None
        confirmed = source.slot.confirmed_lsn if source.slot is not None else None
        position = said.position if said is not None else confirmed
        lag = watch.lag(cursor, position, said.at if said is not None else None)
        names = [stream.name for stream in said.streams] if said is not None else []
        names = names or watch.published(cursor, settings.replication_method.publication)
        rows = watch.estimates(cursor, names)
    arrived: Mapping[StreamName, int | None] = {}
    if question.destination_config is not None:
        target = load_settings(question.destination_config, DestinationAddress)
        with watch.looking(target) as cursor:
            found = watch.estimates(cursor, [target.table_of(name) for name in names])
        arrived = {name: found.get(target.table_of(name)) for name in names}
    streams = list(_streams(names, said, rows, arrived))
    alerts = [*_of_slot(settings.replication_method.replication_slot, source.slot, question), *_of_lag(lag, question)]
    return Status(source, lag, streams, alerts)


def _streams(
    names: list[StreamName],
    said: Known | None,
    rows: Mapping[StreamName, int | None],
    arrived: Mapping[StreamName, int | None],
) -> Iterator[StreamStatus]:
    snapshots = {stream.name: stream.snapshot for stream in said.streams} if said is not None else {}
    for name in names:
        yield StreamStatus(*name, snapshots.get(name), rows.get(name), arrived.get(name))


def _of_slot(name: str, slot: Slot | None, question: Question) -> Iterator[Alert]:
    if slot is None:
        yield Alert("slot_missing", f"The replication slot {name} does not exist.")
    elif slot.is_lost:
        why = f" ({slot.invalidation})" if slot.invalidation else ""
        yield Alert("slot_lost", f"The replication slot {name} is lost{why}: its tables must be read anew.")
    elif slot.wal_status == "unreserved":
        yield Alert("slot_unreserved", f"The replication slot {name} is about to be lost: sync now.")
    elif question.max_retained_bytes is not None and (slot.retained_bytes or 0) > question.max_retained_bytes:
        kept, limit = size(slot.retained_bytes), size(question.max_retained_bytes)
        yield Alert("retained_bytes", f"The replication slot {name} keeps {kept} of WAL, more than {limit}.")


def _of_lag(lag: Lag, question: Question) -> Iterator[Alert]:
    if question.max_lag_s is None:
        return
    if lag.seconds is None:
        yield Alert("lag_unknown", "The state does not say how far the destination is behind.")
    elif lag.seconds > question.max_lag_s:
        text = f"The destination may be {lag.seconds:,.1f} s behind, more than {question.max_lag_s:,.1f} s."
        yield Alert("lag_seconds", text)


def size(count: int | None) -> str:
    """A number of bytes for people."""
    if count is None:
        return "unknown"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count} bytes"


def text(status: Status) -> str:
    """The status for people."""
    source, lag = status.source, status.lag
    lines = [*_slot_lines(source)]
    if lag.position is not None:
        seconds = "" if lag.seconds is None else f", at most {lag.seconds:,.1f} s"
        lines.append(f"position  {lag.position}, the server is at {source.position}: {size(lag.bytes)} behind{seconds}")
    else:
        lines.append(f"position  none; the server is at {source.position}")
    lines += ["", *_table(status.streams)] if status.streams else []
    lines += ["", *(f"ALERT: {alert.message}" for alert in status.alerts)] if status.alerts else []
    return "\n".join(lines) + "\n"


def _slot_lines(source: Source) -> Iterator[str]:
    slot = source.slot
    if slot is None:
        yield "slot      none"
    else:
        facts = [slot.wal_status, f"keeps {size(slot.retained_bytes)} of WAL"]
        facts += [f"{size(slot.safe_bytes)} more before it is lost"] if slot.safe_bytes is not None else []
        facts += [f"catalog_xmin age {slot.catalog_xmin_age:,}"] if slot.catalog_xmin_age is not None else []
        facts += [f"in use by pid {slot.active_pid}"] if slot.active_pid is not None else []
        yield f"slot      {slot.name}: {', '.join(filter(None, facts))}"
        yield f"          restart_lsn {slot.restart_lsn}, confirmed_flush_lsn {slot.confirmed_lsn}"
    yield f"source    {f'{source.sessions} sessions of a sync' if source.sessions else 'no sync is reading'}"


def _table(streams: list[StreamStatus]) -> Iterator[str]:
    heads = ("stream", "snapshot", "rows at the source, about", "at the destination, about")
    cells = [heads, *(_row(stream) for stream in streams)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        left = "  ".join(cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True))
        yield left + "".join("  " + cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))


def _row(stream: StreamStatus) -> tuple[str, str, str, str]:
    snapshot = "-" if stream.snapshot is None else "complete" if stream.snapshot == 1 else f"{stream.snapshot:.0%}"
    rows = ["-" if count is None else f"{count:,}" for count in (stream.source_rows, stream.destination_rows)]
    return ".".join(filter(None, (stream.namespace, stream.name))), snapshot, rows[0], rows[1]
