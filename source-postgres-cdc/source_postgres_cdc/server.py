"""What the source connector must know of its server, and the sessions it opens there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import msgspec
from psycopg2 import errors
from psycopg2.sql import SQL

from airbyte_pg import sql
from airbyte_pg.connect import Connection, connect
from airbyte_pg.errors import ConfigError
from source_postgres_cdc.pgtypes import Rendering
from source_postgres_cdc.settings import SourceSettings

APPLICATION_NAME = "source-postgres-cdc"

# One rendering for every session: a row's bytes do not depend on how it was read, nor on the server's defaults.
RENDERING = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    # A policy that would silently hide rows is an error instead.
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # What a role or database may have set, and our statements rely on.
    "standard_conforming_strings": "on",
    "default_transaction_read_only": "off",
}

# Pinned too, but set when the session stands: DEFAULT is then what server, database and role say.
_WITH_DEFAULT = {"lc_monetary": "C", "search_path": "pg_catalog"}

# Settings that came later than the oldest server that is read, by server_version_num.
_LATER = {
    120000: {"tcp_user_timeout": "0"},
    140000: {"idle_session_timeout": "0"},
    170000: {"transaction_timeout": "0"},
}

# TCP of the server's side: a client that vanished is noticed within 30 s, so its slot and lock are free soon.
_SERVER_KEEPALIVES = {"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}

# Publications and pgoutput came with it.
MINIMUM_VERSION = 100000


class Server(msgspec.Struct, frozen=True):
    """The facts of a server that decide how it is read. ``version`` as in server_version_num."""

    version: int
    database: str
    encoding: str
    wal_level: str
    in_recovery: bool


_FACTS = """
select current_setting('server_version_num')::int, current_database(), pg_encoding_to_char(d.encoding),
       current_setting('wal_level'), pg_is_in_recovery()
from pg_database d where d.datname = current_database()
"""


def open_session(settings: SourceSettings) -> Connection:
    """A new ordinary session with the pinned rendering, in autocommit mode."""
    settings.refuse_unsupported()
    session = connect(settings, application_name=APPLICATION_NAME, server_settings={**RENDERING, **_SERVER_KEEPALIVES})
    _expect_rendering(session)
    _set_with_default(session)
    with session.cursor() as cursor:
        for name, setting in _later(session.server_version).items():
            cursor.execute("select set_config(%s, %s, false)", (name, setting))
        # Behind somebody's ALTER TABLE nothing waits for ever.
        limit = f"{settings.replication_method.initial_waiting_seconds}s"
        cursor.execute("select set_config('lock_timeout', %s, false)", (limit,))
        if session.server_version >= 140000:
            # A sync that was killed lets go of its lock and slot soon, whatever its session is waiting for. Not every
            # platform of a server can do it.
            with suppress(errors.InvalidParameterValue):
                cursor.execute("set client_connection_check_interval = '5s'")
    return session


def _expect_rendering(session: Connection) -> None:
    """Raise ConfigError where a pooler has kept our settings from the server: values would look otherwise."""
    query = "select name, setting from pg_settings where name = any (%s)"
    if dict(rows(session, query, (list(RENDERING),))) != RENDERING:
        session.close()
        raise pooled()


def _set_with_default(session: Connection) -> None:
    with session.cursor() as cursor:
        for name, setting in _WITH_DEFAULT.items():
            cursor.execute(SQL("set {} = {}").format(sql.name(name), sql.literal(setting)))


def open_replication_session(settings: SourceSettings, server: Server) -> Connection:
    """A new walsender session of the database with the pinned rendering."""
    pinned = {**RENDERING, **_SERVER_KEEPALIVES, **_later(server.version)}
    if server.version >= 120000:
        # While our stdout is blocked by a slow destination nobody answers keep-alives; a dead peer is noticed by TCP.
        # Not for ever: a server that shuts down waits for its senders.
        pinned["wal_sender_timeout"] = "15min"
    session = connect(settings, application_name=APPLICATION_NAME, server_settings=pinned, replication=True)
    _set_with_default(session)
    take_bytes(session, server)
    return session


def inspect(session: Connection) -> Server:
    """The server's facts. Raises ConfigError for a server that this version cannot read."""
    server = Server(*rows(session, _FACTS)[0])
    if server.version < MINIMUM_VERSION:
        raise ConfigError("PostgreSQL before version 10 has no logical replication of its own.")
    return server


def is_relayed(session: Connection) -> bool:
    """Whether something stands in between that gives its clients process ids of its own, as poolers do."""
    found: bool = session.info.backend_pid != value(session, "select pg_backend_pid()")
    return found


def pooled() -> ConfigError:
    """The error for a connection that cannot carry replication, nor keep a session's settings."""
    return ConfigError(
        "A connection pooler (such as pgbouncer) stands between: replication cannot pass through it.",
        remedy="Give host and port of the server itself.",
    )


def rendering(session: Connection, facts: Server, settings: SourceSettings) -> Rendering:
    """How values are rendered where that is not their types' own."""
    with session.cursor() as cursor:
        # money is a whole number of the smallest unit; which one that is only the server's own locale says.
        cursor.execute("set lc_monetary to default")
        money_digits = value(session, "select scale(1::money::numeric)")
        cursor.execute("set lc_monetary = 'C'")
    return Rendering(settings.special_values == "text", facts.encoding, facts.version, money_digits)


def take_bytes(session: Connection, server: Server) -> None:
    """Let what ``session`` decodes come as it is stored, where the database knows no encoding: the server would refuse
    whatever is no UTF-8. The driver goes on to speak UTF-8."""
    if server.encoding == "SQL_ASCII":
        with session.cursor() as cursor:
            cursor.execute("set client_encoding = 'SQL_ASCII'")


class Identity(msgspec.Struct, frozen=True):
    """Which server this is, and on which timeline it writes."""

    system_id: str
    timeline: int


_IDENTITY = """
select (select system_identifier::text from pg_control_system()),
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
"""


def identify(session: Connection, settings: SourceSettings, server: Server) -> Identity:
    """The server's identity: by functions, by a walsender where those are denied."""
    try:
        # No function knows the timeline that a standby replays.
        if not server.in_recovery:
            return Identity(*rows(session, _IDENTITY)[0])
    except errors.InsufficientPrivilege:
        pass
    with closing(open_replication_session(settings, server)) as walsender:
        system_id, timeline, *_ = rows(walsender, "IDENTIFY_SYSTEM")[0]
        return Identity(str(system_id), int(timeline))


# A superuser may become anybody, and needs nobody.
_REPLICATORS = """
select r.rolname from pg_roles me cross join pg_roles r
where me.rolname = current_user and not me.rolsuper and not me.rolreplication
  and r.rolreplication and pg_has_role(me.oid, r.oid, %(may_become)s)
order by r.rolsuper, r.rolname limit 1
"""


def replication_role(session: Connection) -> str | None:
    """The role that this user must become (SET ROLE) to use replication slots: it is only a member of it.

    None: it has the attribute itself, or there is no such role (the clouds' own ways, such as rds_replication, need
    none). A walsender looks at the attribute of the user itself: a member reads through slot functions.
    """
    # Before 16 every member may SET ROLE.
    may_become = "SET" if session.server_version >= 160000 else "MEMBER"
    found = rows(session, _REPLICATORS, {"may_become": may_become})
    return found[0][0] if found else None


def become(session: Connection, role: str | None) -> None:
    """Run what follows in ``session`` as ``role``, if there is one."""
    if role is not None:
        with session.cursor() as cursor:
            cursor.execute(SQL("set role {}").format(sql.name(role)))


@contextmanager
def as_replicator(session: Connection) -> Iterator[None]:
    """What is run inside runs as ``replication_role``, where there is one. ``session`` is in autocommit mode."""
    role = replication_role(session)
    become(session, role)
    try:
        yield
    finally:
        if role is not None and not session.closed:
            with session.cursor() as cursor:
                cursor.execute("reset role")


def _later(version: int) -> dict[str, str]:
    return {name: setting for since, pinned in _LATER.items() if version >= since for name, setting in pinned.items()}


def rows(session: Connection, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with session.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()


def value(session: Connection, query: Any, parameters: Any = None) -> Any:
    """The single value of a query."""
    return rows(session, query, parameters)[0][0]
