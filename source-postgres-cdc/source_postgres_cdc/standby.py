"""A snapshot on a standby (16+), which has no transaction ids of its own to build a barrier with.

A temporary slot, made with EXPORT_SNAPSHOT, gives one: its snapshot shows exactly what committed before the slot's
consistent point, and every later transaction began writing behind its ``restart_lsn`` (PostgreSQL documentation 55.4,
CREATE_REPLICATION_SLOT).
"""

from __future__ import annotations

import os
import threading
from contextlib import closing

from psycopg2 import errors
from psycopg2.sql import SQL

from airbyte_pg import sql
from airbyte_pg.connect import Connection
from airbyte_pg.errors import TransientError
from source_postgres_cdc import lsn, server
from source_postgres_cdc.barrier import WAIT_S, Snapshot
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings

MINIMUM_VERSION = 160000


def take_snapshot(session: Connection, settings: SourceSettings, facts: Server, wait_s: float = WAIT_S) -> Snapshot:
    """Leaves ``session`` in the REPEATABLE READ transaction whose snapshot it returns.

    Raises TransientError when the primary has not said within ``wait_s`` seconds which transactions it runs.
    """
    name = f"airbyte_snapshot_{os.getpid()}"
    with closing(server.open_replication_session(settings, facts)) as walsender, walsender.cursor() as cursor:
        # Before 15 options have no parentheses; no standby of ours is as old.
        command = SQL("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')").format(
            sql.name(name)
        )
        timer = threading.Timer(wait_s, walsender.cancel)
        timer.start()
        try:
            cursor.execute(command)
        except errors.QueryCanceled as error:
            raise TransientError(
                f"The primary has not told the standby within {wait_s:.0f} s which transactions it runs.",
                remedy="Run on the primary: select pg_log_standby_snapshot();",
            ) from error
        finally:
            timer.cancel()
        _, consistent, exported, _ = cursor.fetchall()[0]
        query = "select restart_lsn::text from pg_replication_slots where slot_name = %s"
        stamp = lsn.parse(server.value(session, query, (name,)))
        with session.cursor() as reading:
            reading.execute("begin isolation level repeatable read, read only")
            reading.execute("set transaction snapshot %s", (exported,))
    behind = lsn.parse(consistent)
    return Snapshot(stamp, cut=behind, position=behind)
