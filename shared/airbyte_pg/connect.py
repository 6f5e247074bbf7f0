"""Every connection to PostgreSQL: through TLS and tunnel as configured, with time-outs, keep-alives, a name, settings
pinned at its start."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extras import LogicalReplicationConnection

from airbyte_pg import jdbc, tls
from airbyte_pg.classify import Phase, classify
from airbyte_pg.errors import ConnectorError, SystemFault, TransientError
from airbyte_pg.settings import Configured, ConnectionSettings, SshKeyAuth, SshPasswordAuth, SshTunnel
from airbyte_pg.tunnel import Order, Tunnel

__all__ = ["Connection", "connect", "reached"]

CONNECT_TIMEOUT_S = 60
# A dead peer is noticed within 30 s, on both sides: a sync that died lets go of its lock and slot soon.
_KEEPALIVES = {"keepalives": 1, "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}
# A server that is starting, or has no connection left, may have one in a moment.
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)

log = logging.getLogger(__name__)


@contextmanager
def reached(settings: Configured) -> Iterator[Configured]:
    """``settings`` to ``connect`` with; where a tunnel is configured, it stands until the end of the block.

    Raises ConfigError for a tunnel that cannot be made, TransientError for one that broke: then whatever the block
    failed with, when it failed for want of a connection. Both by cause.
    """
    settings.refuse_unsupported()
    if ignored := jdbc.translate(settings.jdbc_url_params or "").ignored:
        log.warning("jdbc_url_params: %s: without meaning here, ignored", ", ".join(ignored))
    if not isinstance(settings.tunnel_method, SshTunnel):
        yield settings
        return
    with closing(Tunnel(_order(settings, settings.tunnel_method))) as tunnel:
        for note in tunnel.notes:
            log.info("%s", note)
        try:
            yield settings.entering_at(tunnel.port)
        except Exception as error:
            trouble = tunnel.trouble() if _may_be_the_tunnel_s(error) else None
            if trouble is None:
                raise
            raise trouble from error


def connect(
    settings: ConnectionSettings,
    *,
    application_name: str,
    server_settings: Mapping[str, str] | None = None,
    replication: bool = False,
) -> Connection:
    """A new connection in autocommit mode; with ``replication`` a LogicalReplicationConnection. Where a tunnel is
    configured, ``settings`` are those of ``reached``.

    ``server_settings`` are set at the start of the session (libpq ``options``), so they hold before the first
    statement; leave them empty where a transaction pooler may stand in between. Raises ConnectorError; what may pass
    soon is tried again for some seconds first.
    """
    settings.refuse_unsupported()
    parameters = _parameters(settings, application_name, server_settings or {})
    for pause_s in _PAUSES_S:
        try:
            return _connected(settings, parameters, replication=replication)
        except TransientError as failure:
            log.warning("%s Trying again", failure.message)
            time.sleep(pause_s)
    return _connected(settings, parameters, replication=replication)


def _connected(settings: ConnectionSettings, parameters: Mapping[str, Any], *, replication: bool) -> Connection:
    factory: type[Connection] = LogicalReplicationConnection if replication else Connection
    with tls.parameters(settings.encryption) as encryption:
        try:
            connection: Connection = psycopg2.connect(connection_factory=factory, **{**parameters, **encryption})
        except psycopg2.Error as error:
            raise _why(error, settings, parameters) from error
    if not replication:  # the driver has set it there, and lets nobody set it again
        connection.autocommit = True
    return connection


def _why(error: psycopg2.Error, settings: ConnectionSettings, parameters: Mapping[str, Any]) -> ConnectorError:
    if "SSL error" in str(error):
        address = parameters.get("hostaddr", settings.host)
        if (distrust := tls.distrust(settings.encryption, address, parameters["port"])) is not None:
            return distrust
    return classify(error, Phase.CONNECTING)


def _parameters(
    settings: ConnectionSettings, application_name: str, server_settings: Mapping[str, str]
) -> dict[str, Any]:
    """libpq's parameters, but for those of TLS (PostgreSQL documentation, libpq "Parameter Key Words")."""
    parameters: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "dbname": settings.database,
        "user": settings.username,
        "password": settings.password,
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "client_encoding": "UTF8",
        **_KEEPALIVES,
        **jdbc.translate(settings.jdbc_url_params or "").parameters,
    }
    if isinstance(settings.tunnel_method, SshTunnel):
        if settings.local_port is None:
            raise SystemFault("A connection was asked for outside of its tunnel.")
        # The host's name is still what its certificate must be for.
        parameters |= {"hostaddr": "127.0.0.1", "port": settings.local_port}
    # Of a setting that is given twice the last counts.
    pinned = [f"-c {key}={_escaped(value)}" for key, value in server_settings.items()]
    if options := " ".join([*filter(None, [parameters.get("options")]), *pinned]):
        parameters["options"] = options
    return parameters


def _order(settings: ConnectionSettings, method: SshKeyAuth | SshPasswordAuth) -> Order:
    return Order(
        tunnel_host=method.tunnel_host,
        tunnel_port=method.tunnel_port,
        user=method.tunnel_user,
        host=settings.host,
        port=settings.port,
        password=method.tunnel_user_password if isinstance(method, SshPasswordAuth) else None,
        key=method.ssh_key if isinstance(method, SshKeyAuth) else None,
        passphrase=method.ssh_key_passphrase if isinstance(method, SshKeyAuth) else None,
        host_key=method.tunnel_host_key,
    )


def _may_be_the_tunnel_s(error: Exception) -> bool:
    """Whether ``error`` is of a connection that broke or was not made; the server's own words have an SQLSTATE."""
    cause = error if isinstance(error, psycopg2.Error) else error.__cause__
    return isinstance(error, TransientError) or (isinstance(cause, psycopg2.Error) and cause.pgcode is None)


def _escaped(value: str) -> str:
    # PostgreSQL documentation, libpq "options": spaces and backslashes are escaped by a backslash.
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
