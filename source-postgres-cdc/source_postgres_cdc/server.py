"""What the source connector must know of its server, and the sessions it opens there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airbyte_pg.connect import Connection, connect
from airbyte_pg.errors import ConfigError
from source_postgres_cdc.settings import SourceSettings

APPLICATION_NAME = "source-postgres-cdc"

# One rendering for every session: a row's bytes do not depend on how it was read, nor on the server's defaults.
RENDERING = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "search_path": "pg_catalog",
    # A policy that would silently hide rows is an error instead.
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # What a role or database may have set, and our statements rely on.
    "standard_conforming_strings": "on",
    "default_transaction_read_only": "off",
}

# Settings that came later than the oldest server that is read, by server_version_num.
_LATER = {
    120000: {"tcp_user_timeout": "0"},
    140000: {"idle_session_timeout": "0"},
    170000: {"transaction_timeout": "0"},
}

# TCP of the server's side: a client that vanished is noticed within 30 s, so its slot and lock are free soon.
_SERVER_KEEPALIVES = {"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}

MINIMUM_VERSION = 120000


@dataclass(frozen=True)
class Server:
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
    with session.cursor() as cursor:
        for name, setting in _later(session.server_version).items():
            cursor.execute("select set_config(%s, %s, false)", (name, setting))
    return session


def open_replication_session(settings: SourceSettings, server: Server) -> Connection:
    """A new walsender session of the database with the pinned rendering."""
    pinned = {**RENDERING, **_SERVER_KEEPALIVES, **_later(server.version)}
    if server.version >= 120000:
        # While our stdout is blocked by a slow destination nobody answers keep-alives; a dead peer is noticed by TCP.
        # Not for ever: a server that shuts down waits for its senders.
        pinned["wal_sender_timeout"] = "15min"
    return connect(settings, application_name=APPLICATION_NAME, server_settings=pinned, replication=True)


def inspect(session: Connection) -> Server:
    """The server's facts. Raises ConfigError for a server that this version cannot read."""
    server = Server(*rows(session, _FACTS)[0])
    if server.version < MINIMUM_VERSION:
        raise ConfigError("PostgreSQL before version 12 is not supported yet.")
    if server.encoding == "SQL_ASCII":
        raise ConfigError("A database with encoding SQL_ASCII is not supported yet.")
    return server


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
