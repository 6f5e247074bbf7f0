"""A server whose replication slots are taken by others, all but one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg2.errors

from integration_tests.support.databases import Database


@contextlib.contextmanager
def only_one_free_slot(database: Database) -> Iterator[None]:
    """Takes every free slot of the server but one: enough for an anchor, not for a copy of it."""
    taken: list[str] = []
    try:
        with contextlib.suppress(psycopg2.errors.ConfigurationLimitExceeded):
            while True:
                name = f"taken_{database.name}_{len(taken)}"
                # A physical slot that reserves nothing holds no WAL back.
                database.execute("select pg_create_physical_replication_slot(%s)", name)
                taken.append(name)
        database.execute("select pg_drop_replication_slot(%s)", taken.pop())
        yield
    finally:
        for name in taken:
            database.execute("select pg_drop_replication_slot(%s)", name)
