"""Holding still: where a sync stands, and commits that hang between WAL and everybody's eyes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

_HERE = "select count(*) from pg_stat_activity where datname = current_database()"
_MINE = "application_name = 'source-postgres-cdc'"
# How to see where a sync stands: what its session asks the server.
AT_BARRIER = f"{_HERE} and {_MINE} and (query like '%txid_current_snapshot%' or query = 'rollback')"
# Its second half: what was open when the tables were published has ended.
BEHIND_THE_OLDER = f"{_HERE} and {_MINE} and (query like '%txid_current_snapshot()::text%' or query = 'rollback')"
MAKING_SLOT = f"{_HERE} and {_MINE} and query like '%pg_create_logical_replication_slot%'"
WAITS_FOR_STANDBY = f"{_HERE} and wait_event = 'SyncRep'"


def wait_for(database: Database, query: str, what: str) -> None:
    wait_until(lambda: database.value(query) > 0, 20, what)


@contextlib.contextmanager
def past_the_older(database: Database, older: Any, end: str) -> Iterator[None]:
    """End the open transaction of the cursor ``older``, which a sync waits for at the barrier; inside the block the
    sync waits for one that began meanwhile, and what begins now is behind the barrier."""
    wait_for(database, AT_BARRIER, "the sync stands at the barrier")
    with contextlib.closing(database.connect()) as session, session.cursor() as between:
        between.execute("begin; select txid_current()")
        older.execute(end)
        wait_for(database, BEHIND_THE_OLDER, "the older one is past")
        yield
        between.execute("rollback")


@contextlib.contextmanager
def standby_missing(database: Database) -> Iterator[None]:
    """Commits wait for a standby that there is not, until the block is left."""
    set_standby(database, "'nobody'")
    try:
        yield
    finally:
        set_standby(database, "''")


def set_standby(database: Database, names: str) -> None:
    database.execute(f"alter system set synchronous_standby_names = {names}")
    database.execute("select pg_reload_conf()")
    wait_until(lambda: f"'{database.value('show synchronous_standby_names')}'" == names, 10, "the setting holds")


@contextlib.contextmanager
def held_commit(database: Database, statement: str) -> Iterator[None]:
    """``statement``, whose commit hangs: in WAL, decodable, and visible to nobody. Joined when the block is left."""

    def run() -> None:
        with contextlib.closing(database.connect()) as session, session.cursor() as cursor:
            cursor.execute(statement)

    waiting = database.value(WAITS_FOR_STANDBY)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: database.value(WAITS_FOR_STANDBY) > waiting, 20, "the commit waits")
        yield
    finally:
        set_standby(database, "''")
        thread.join(30)
    assert not thread.is_alive()
