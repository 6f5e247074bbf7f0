"""destination-postgres: check and write, joined from their parts."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from contextlib import closing

import psycopg2
from psycopg2.extensions import connection as Connection

from airbyte_pg import messages
from airbyte_pg.catalog import load_catalog
from airbyte_pg.cli import Call
from airbyte_pg.connect import connect, reached
from airbyte_pg.errors import Stopped
from airbyte_pg.settings import load_settings
from destination_postgres.check import check_rights
from destination_postgres.flusher import Flusher
from destination_postgres.inbox import Inbox
from destination_postgres.loading import Loader, OpenStream
from destination_postgres.raw_ids import RawIds
from destination_postgres.settings import APPLICATION_NAME, DestinationSettings
from destination_postgres.transactions import stay
from destination_postgres.writer import Writer

# How long a sync that was stopped waits until the server has given up the flush on its way.
_STOP_S = 3.0


def check(call: Call) -> None:
    """Try everything that write needs of the server; nothing is left behind."""
    with (
        reached(_settings(call)) as settings,
        closing(connect(settings, application_name=APPLICATION_NAME)) as connection,
    ):
        check_rights(connection, settings)
    call.lines.emit(messages.connection_status(succeeded=True))


def write(call: Call) -> None:
    """Write the messages of stdin into raw and final tables; print each STATE once it is committed."""
    given = _settings(call)
    configured = load_catalog(call.catalog)
    with reached(given) as settings, closing(connect(settings, application_name=APPLICATION_NAME)) as connection:
        stay(connection)
        loader = Loader(connection, settings)
        streams = loader.open(configured)
        # What lives now lives to the end: spare the collector from walking through it again and again.
        gc.freeze()
        _write(call, connection, loader, streams, settings)


def _write(
    call: Call, connection: Connection, loader: Loader, streams: list[OpenStream], settings: DestinationSettings
) -> None:
    waiting_fd, waking_fd = os.pipe()
    flusher = Flusher(loader.write, call.lines.emit, lambda: _wake(waking_fd))
    ids = RawIds()
    encoders = {stream.plan.id: loader.encoder(stream, ids) for stream in streams}
    inbox = Inbox(sys.stdin.fileno(), waiting_fd)
    try:
        untold = [stream.plan.id for stream in streams if stream.is_untold]
        writer = Writer(
            inbox,
            encoders,
            flusher,
            loader.complete,
            settings.limits,
            untold,
            {stream.plan.id: stream.place for stream in streams if stream.plan.is_positioned},
            end_completes=not settings.require_stream_status,
        )
        writer.run()
    except Stopped:
        with contextlib.suppress(psycopg2.Error):
            connection.cancel()
        flusher.join(_STOP_S)
        raise
    except Exception:
        # Nobody may hear of a flush after the last word on how the sync ended.
        flusher.join()
        raise


def _settings(call: Call) -> DestinationSettings:
    settings = load_settings(call.config, DestinationSettings)
    call.secrets.add(settings.secrets())
    return settings


def _wake(fd: int) -> None:
    # The reading end may be gone when the process is ending.
    with contextlib.suppress(OSError):
        os.write(fd, b".")
