"""Looks at the servers of a connection: the slot, the positions, how many rows tables have by estimate.

Reads catalogs and statistics only, in one short read-only transaction: nothing is locked, counted or decoded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from typing import Any

import msgspec
from psycopg2 import Error
from psycopg2.sql import SQL
from pydantic import BaseModel, ConfigDict, Field

from airbyte_pg.classify import Phase, classify
from airbyte_pg.connect import connect, reached
from airbyte_pg.errors import StreamName
from airbyte_pg.settings import ConnectionSettings

APPLICATION_NAME = "airbyte-pg-status"
# What the source's sessions are called.
_SOURCE_SESSIONS = "source-postgres-cdc"
_TIMEOUT_S = 30


class _Replication(BaseModel):
    model_config = ConfigDict(extra="allow")

    replication_slot: str = "airbyte_slot"
    publication: str = "airbyte_publication"


class SourceAddress(ConnectionSettings):
    """Of a source's configuration, what is needed to find its server, slot and publication."""

    replication_method: _Replication = Field(default_factory=_Replication)


class DestinationAddress(ConnectionSettings):
    """Of a destination's configuration, what is needed to find its server and tables."""

    database: str = ""
    schemas: str = Field(default="public", alias="schema")

    def table_of(self, stream: StreamName) -> StreamName:
        """The final table of ``stream``."""
        default = self.schemas.split(",")[0].strip() or "public"
        return StreamName(stream.namespace or default, stream.name)


class Slot(msgspec.Struct, frozen=True):
    """The replication slot. What the server's version does not know is None; ``safe_bytes`` also where there is no
    limit. ``invalidation``: why the server has given it up."""

    name: str
    active_pid: int | None
    wal_status: str | None
    invalidation: str | None
    retained_bytes: int | None
    safe_bytes: int | None
    catalog_xmin_age: int | None
    restart_lsn: str | None
    confirmed_lsn: str | None

    @property
    def is_lost(self) -> bool:
        """Whether WAL that it needs is gone, or may be."""
        return self.wal_status == "lost" or self.invalidation is not None or self.restart_lsn is None


class Lag(msgspec.Struct, frozen=True):
    """How far ``position`` is behind: WAL bytes, and seconds that may have changes in them which are not there yet;
    None: not known."""

    position: str | None
    bytes: int | None
    seconds: float | None


class Source(msgspec.Struct, frozen=True):
    """The source's server: the end of its WAL, the slot (None: it is not there), sessions of a sync that runs."""

    version: int
    position: str
    sessions: int
    slot: Slot | None


@contextmanager
def looking(settings: ConnectionSettings) -> Iterator[Any]:
    """A cursor in a read-only transaction on the server of ``settings``. Raises ConnectorError."""
    with (
        reached(settings) as at,
        closing(connect(at, application_name=APPLICATION_NAME)) as session,
        session.cursor() as cursor,
    ):
        try:
            cursor.execute("begin read only")
            cursor.execute("select set_config('statement_timeout', %s, true)", (f"{_TIMEOUT_S}s",))
            yield cursor
            cursor.execute("commit")
        except Error as error:
            raise classify(error, Phase.WORKING) from error


_END = "case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end"
_SLOT = """
select slot_name::text, active_pid, {wal_status}, {invalidation},
       pg_wal_lsn_diff(%(end)s::pg_lsn, restart_lsn)::bigint, {safe}, age(catalog_xmin),
       restart_lsn::text, confirmed_flush_lsn::text
from pg_replication_slots where slot_name = %(name)s
"""


def source(cursor: Any, slot_name: str) -> Source:
    """What there is to see at the source."""
    version = cursor.connection.server_version
    # In this order: a sync that runs may move the slot only to what the state file says later.
    query = SQL(_SLOT).format(
        wal_status=SQL("wal_status" if version >= 130000 else "null::text"),
        safe=SQL("safe_wal_size" if version >= 130000 else "null::bigint"),
        invalidation=SQL("invalidation_reason" if version >= 170000 else "null::text"),
    )
    end = _value(cursor, f"select ({_END})::text")
    cursor.execute(query, {"name": slot_name, "end": end})
    found = cursor.fetchone()
    sessions = _value(
        cursor,
        "select count(*) from pg_stat_activity where application_name = %s and datname = current_database()",
        (_SOURCE_SESSIONS,),
    )
    return Source(version, end, sessions, Slot(*found) if found else None)


_LAG = """
select greatest(pg_wal_lsn_diff(wal.position, %(position)s), 0)::bigint,
       mod(pg_wal_lsn_diff(wal.position, '0/0'), 8192)::int,
       extract(epoch from clock_timestamp() - %(at)s::timestamptz)::float8
from (select {end} as position) wal
"""
# The header of a WAL page, and of the first one of a segment: behind it there is nothing yet.
_PAGE_HEADERS = (24, 40)


def lag(cursor: Any, position: str | None, at: str | None) -> Lag:
    """How far ``position``, which was all there was at ``at``, is behind the source's server."""
    if position is None:
        return Lag(None, None, None)
    cursor.execute(SQL(_LAG).format(end=SQL(_END)), {"position": position, "at": at})
    behind, in_page, seconds = cursor.fetchone()
    if behind == 0 or (behind == in_page and in_page in _PAGE_HEADERS):
        return Lag(position, 0, 0.0)
    return Lag(position, behind, None if seconds is None else max(seconds, 0.0))


# What VACUUM and ANALYZE have left; of a partitioned table the sum of its leaves, since it has none of its own.
_ESTIMATES = """
with recursive wanted as (
    select c.oid as root, c.oid, c.relkind, c.reltuples, n.nspname, c.relname
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where (n.nspname, c.relname) in (select * from unnest(%(schemas)s::name[], %(names)s::name[]))
      and c.relkind in ('r', 'p', 'm')
    union all
    select w.root, c.oid, c.relkind, c.reltuples, w.nspname, w.relname
    from wanted w join pg_inherits i on i.inhparent = w.oid and w.relkind = 'p' join pg_class c on c.oid = i.inhrelid
)
select nspname::text, relname::text, sum(reltuples) filter (where relkind <> 'p' and reltuples >= 0)::bigint
from wanted group by root, nspname, relname
"""


def estimates(cursor: Any, tables: Collection[StreamName]) -> dict[StreamName, int | None]:
    """About how many rows each of ``tables`` has; None where nobody has looked yet. Those that are not there are left
    out."""
    named = [(table.namespace or "public", table.name) for table in tables]
    cursor.execute(_ESTIMATES, {"schemas": [schema for schema, _ in named], "names": [table for _, table in named]})
    return {StreamName(schema, table): rows for schema, table, rows in cursor.fetchall()}


def published(cursor: Any, publication: str) -> list[StreamName]:
    """The tables of a publication."""
    cursor.execute(
        "select schemaname::text, tablename::text from pg_publication_tables where pubname = %s order by 1, 2",
        (publication,),
    )
    return [StreamName(*row) for row in cursor.fetchall()]


def _value(cursor: Any, query: str, parameters: Any = None) -> Any:
    cursor.execute(query, parameters)
    return cursor.fetchone()[0]
