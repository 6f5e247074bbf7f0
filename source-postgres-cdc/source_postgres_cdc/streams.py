"""The configured catalog met with the server's tables: what is followed, what only read, and with which columns."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from airbyte_pg.catalog import ConfiguredStream
from airbyte_pg.errors import ConfigError, StreamName
from source_postgres_cdc.discover import META_COLUMNS, POSITION_COLUMNS
from source_postgres_cdc.pgtypes import Rendering
from source_postgres_cdc.state import SentColumn, StreamIdentity, StreamProgress
from source_postgres_cdc.tables import Column, Membership, Table

log = logging.getLogger(__name__)


class Stream(msgspec.Struct, frozen=True):
    """A stream to be read. ``columns`` are those that its records hold, in the table's order.

    ``is_truncating``: this sync's rows replace those at the destination. ``is_deduplicated``: it keeps one row per key.
    """

    id: StreamName
    table: Table
    is_followed: bool
    columns: tuple[Column, ...]
    row_filter: str | None
    rendering: Rendering
    member_oid: int = 0
    is_truncating: bool = False
    is_deduplicated: bool = False

    @property
    def fields(self) -> frozenset[str]:
        """Names of the columns that are sent."""
        return frozenset(column.name for column in self.columns)

    def new_leaves(self, progress: StreamProgress) -> set[int]:
        """The partitions that have come to the table since it was read."""
        return {leaf.oid for leaf in self.table.leaves} - progress.leaves

    @property
    def identity(self) -> StreamIdentity:
        """What the state keeps of the table, to be told when it is another one."""
        columns = {column.name: SentColumn(column.type_oid, column.typmod, column.number) for column in self.columns}
        return StreamIdentity(self.table.oid, self.member_oid, columns)


def resolve(configured: Sequence[ConfiguredStream], tables: Sequence[Table], rendering: Rendering) -> list[Stream]:
    """The streams of the catalog with their tables, before the publication is known.

    Raises ConfigError for a stream whose table is not there, or cannot be followed as it is configured.
    """
    by_name = {table.id: table for table in tables}
    streams = []
    for entry in configured:
        table = by_name.get(entry.id)
        if table is None:
            raise ConfigError(
                f"The table {_shown(entry.id)} does not exist, or this user may not read it.",
                remedy="Refresh the catalog, or grant SELECT on the table and USAGE on its schema.",
                stream=entry.id,
            )
        if not table.is_populated:
            raise ConfigError(
                f"The materialised view {_shown(entry.id)} has never been filled.",
                remedy="Run REFRESH MATERIALIZED VIEW, or leave it out.",
                stream=entry.id,
            )
        is_followed = entry.sync_mode == "incremental"
        if is_followed:
            _expect_followable(entry, table)
        columns = _selected(entry, table, is_followed)
        streams.append(
            Stream(
                entry.id,
                table,
                is_followed,
                columns,
                None,
                rendering,
                is_truncating=entry.is_truncating,
                is_deduplicated=entry.is_deduplicated,
            )
        )
    return streams


def published(streams: Sequence[Stream], members: Mapping[StreamName, Membership]) -> list[Stream]:
    """``streams`` with what the publication sends of them: its column lists and row filters hold for snapshots too."""
    narrowed = []
    for stream in streams:
        member = members.get(stream.table.id)
        if not stream.is_followed or member is None:
            narrowed.append(stream)
            continue
        # In no change before 18, and later only where the publication says so: then not in the snapshot either.
        unsent = [column.name for column in stream.columns if column.is_generated and not member.sends(column)]
        if unsent:
            log.warning(
                "%s: generated columns that the publication does not send: %s", _shown(stream.id), ", ".join(unsent)
            )
        columns = tuple(column for column in stream.columns if column.name not in unsent)
        if not member.identifies(stream.table):
            raise ConfigError(
                f"The publication does not send the key of {_shown(stream.id)}.",
                remedy="Add it to the publication's column list, or configure the stream as full_refresh.",
                stream=stream.id,
            )
        if missing := {column.name for column in columns if not member.sends(column)}:
            raise ConfigError(
                f"The publication does not send columns of {_shown(stream.id)}: {', '.join(sorted(missing))}.",
                remedy="Add them to the publication's column list, or refresh the catalog and the stream.",
                stream=stream.id,
            )
        sent = {"columns": columns, "row_filter": member.row_filter, "member_oid": member.oid}
        narrowed.append(msgspec.structs.replace(stream, **sent))
    return narrowed


def what_happened(stream: Stream, known: StreamIdentity) -> ConfigError | None:
    """The error of a stream whose table is another one since its state, or was not published for a while."""
    now = stream.identity
    if now.table != known.table:
        what = "was dropped and made anew, or another table has taken its name"
    elif now.member != known.member:
        what = "was not in the publication for a while"
    else:
        return None
    return ConfigError(
        f"The table {_shown(stream.id)} {what}: what happened meanwhile is not known.",
        remedy="Refresh the stream: its rows must be read anew.",
        stream=stream.id,
    )


def is_outdated(stream: Stream, known: StreamIdentity, *, resnapshots: bool) -> bool:
    """Whether the rows of ``stream`` are to be read anew: they were sent without columns, or with other values in them.

    If they are not to be, that is only said.
    """
    changed = known.changed(stream.identity)
    if not changed:
        return False
    log.warning(
        "%s: columns that are new or have another type: %s. %s",
        _shown(stream.id),
        ", ".join(changed),
        "The table is read anew"
        if resnapshots
        else "Rows that do not change keep what was sent before, until the stream is refreshed",
    )
    return resnapshots


def _selected(entry: ConfiguredStream, table: Table, is_followed: bool) -> tuple[Column, ...]:
    wanted = entry.stream.properties
    columns = tuple(
        # Of a followed stream generated ones only where the catalog names them: few publications send them.
        column
        for column in table.columns
        if (column.name in wanted if wanted else not (is_followed and column.is_generated))
    )
    found = {column.name for column in columns}
    if denied := sorted(table.unreadable & wanted.keys()):
        raise ConfigError(
            f"The user may not read columns of {_shown(entry.id)}: {', '.join(denied)}.",
            remedy="Grant SELECT on them, or refresh the catalog.",
            stream=entry.id,
        )
    if taken := sorted(found & (META_COLUMNS.keys() | POSITION_COLUMNS.keys())):
        raise ConfigError(
            f"The table {_shown(entry.id)} has columns that are named like this connector's own: {', '.join(taken)}.",
            remedy="Rename them.",
            stream=entry.id,
        )
    if gone := [name for name in wanted if name not in found | META_COLUMNS.keys() | POSITION_COLUMNS.keys()]:
        log.warning("%s: columns of the catalog that are not read: %s", _shown(entry.id), ", ".join(sorted(gone)))
    if wanted and (unknown := [column.name for column in table.columns if column.name not in wanted]):
        log.info("%s: columns that the catalog does not select: %s", _shown(entry.id), ", ".join(unknown))
    return columns


def _expect_followable(entry: ConfiguredStream, table: Table) -> None:
    if not table.can_be_followed:
        raise ConfigError(
            f"The table {_shown(entry.id)} cannot be read incrementally: it needs a primary key that is not "
            "deferrable, and a replica identity of default, full, or a unique index.",
            remedy="Add a primary key, or configure the stream as full_refresh.",
            stream=entry.id,
        )
    configured = [path[0] for path in entry.primary_key or [] if path]
    if configured and set(configured) != set(table.key):
        raise ConfigError(
            f"The primary key of {_shown(entry.id)} is not the one in the catalog any more.",
            remedy="Refresh the catalog and reset the stream.",
            stream=entry.id,
        )


def _shown(stream: StreamName) -> str:
    return f"{stream.namespace}.{stream.name}" if stream.namespace else stream.name
