"""Open a connection to PostgreSQL: time-outs, keep-alives, application name, settings pinned at start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extras import LogicalReplicationConnection

from airbyte_pg.classify import Phase, classify
from airbyte_pg.settings import ConnectionSettings

__all__ = ["Connection", "connect"]

CONNECT_TIMEOUT_S = 60
# A dead peer is noticed within 30 s, on both sides: a sync that died lets go of its lock and slot soon.
_KEEPALIVES = {"keepalives": 1, "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}


def connect(
    settings: ConnectionSettings,
    *,
    application_name: str,
    server_settings: Mapping[str, str] | None = None,
    replication: bool = False,
) -> Connection:
    """A new connection in autocommit mode; with ``replication`` a LogicalReplicationConnection.

    ``server_settings`` are set at the start of the session (libpq ``options``), so they hold before the first
    statement; leave them empty where a transaction pooler may stand in between. Raises ConnectorError.
    """
    settings.refuse_unsupported()
    options = " ".join(f"-c {key}={_escaped(value)}" for key, value in (server_settings or {}).items())
    parameters: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "dbname": settings.database,
        "user": settings.username,
        "password": settings.password,
        "sslmode": settings.ssl_mode.mode,
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "client_encoding": "UTF8",
        **_KEEPALIVES,
    }
    if options:
        parameters["options"] = options
    factory = LogicalReplicationConnection if replication else Connection
    try:
        connection = psycopg2.connect(connection_factory=factory, **parameters)
    except psycopg2.Error as error:
        raise classify(error, Phase.CONNECTING) from error
    if not replication:  # the driver has set it there, and lets nobody set it again
        connection.autocommit = True
    return connection


def _escaped(value: str) -> str:
    # PostgreSQL documentation, libpq "options": spaces and backslashes are escaped by a backslash.
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
