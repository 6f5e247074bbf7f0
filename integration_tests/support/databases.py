"""A fresh database for one test; at the end its sessions, slots and prepared transactions go with it."""

from __future__ import annotations

import contextlib
import select
import uuid
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from integration_tests.support.pgserver import Server, wait_until

DROP_DEADLINE_S = 30.0


class Database:
    """A new database in ``server``. ``drop`` (or leaving the ``with`` block) removes it and all that holds it.

    With ``exists`` it is there already (a standby's), and is not ours to drop.
    """

    def __init__(
        self, server: Server, name: str | None = None, *, exists: bool = False, encoding: str = "UTF8"
    ) -> None:
        self.server = server
        self.name = name or f"t_{uuid.uuid4().hex[:12]}"
        self._connection: Connection | None = None
        if not exists:
            statement = "create database {} template template0 encoding {} lc_collate 'C' lc_ctype 'C'"
            self._in_postgres(sql.SQL(statement).format(sql.Identifier(self.name), sql.Literal(encoding)))

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exc: object) -> None:
        self.drop()

    def connect(self, **options: Any) -> Connection:
        """A new autocommit connection, for the caller to close."""
        # Not every database has an encoding of its own to offer.
        return self.server.connect(self.name, **{"client_encoding": "UTF8", **options})

    def config(self, **more: Any) -> dict[str, Any]:
        """A connector's configuration for this database; ``more`` is added or wins."""
        return self.server.config(self.name, **more)

    def execute(self, statement: str | sql.Composable, *args: Any) -> None:
        """Run SQL on the database's own autocommit connection; ``%s`` takes ``args``."""
        with self._session().cursor() as cursor:
            cursor.execute(statement, args or None)

    def rows(self, statement: str | sql.Composable, *args: Any) -> list[tuple[Any, ...]]:
        """All rows that a query answers."""
        with self._session().cursor() as cursor:
            cursor.execute(statement, args or None)
            return cursor.fetchall()

    def value(self, statement: str | sql.Composable, *args: Any) -> Any:
        """The first column of the first row."""
        return self.rows(statement, *args)[0][0]

    def close(self) -> None:
        """Close the database's own connection."""
        if self._connection is not None:
            self._connection.close()

    def drop(self) -> None:
        """Drop the database with all that would hold it. Nothing else may use it any more."""
        self._forget_transactions_and_subscriptions()
        if self._connection is not None:
            self._connection.close()
        self._in_postgres("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", self.name)
        self._drop_slots()
        # WITH (FORCE) is of 13; before, the sessions that were just ended need a moment to be gone.
        wait_until(lambda: not self._sessions(), DROP_DEADLINE_S, f"no session in {self.name}")
        self._in_postgres(sql.SQL("drop database {}").format(sql.Identifier(self.name)))

    def _session(self) -> Connection:
        # An idle session whose socket is readable has been told good-bye (a server that was killed or restarted).
        lost = self._connection is not None and not self._connection.closed and _readable(self._connection)
        if self._connection is None or self._connection.closed or lost:
            self._connection = self.connect(application_name="test")
        return self._connection

    def _sessions(self) -> list[tuple[Any, ...]]:
        return self._in_postgres(
            "select pid, pg_terminate_backend(pid) from pg_stat_activity where datname = %s", self.name
        )

    def _forget_transactions_and_subscriptions(self) -> None:
        for (gid,) in self.rows("select gid from pg_prepared_xacts where database = current_database()"):
            self.execute("rollback prepared %s", gid)
        for (name,) in self.rows(
            "select subname from pg_subscription where subdbid = (select oid from pg_database where datname = %s)",
            self.name,
        ):
            for action in ("disable", "set (slot_name = none)"):
                self.execute(sql.SQL("alter subscription {} " + action).format(sql.Identifier(name)))
            self.execute(sql.SQL("drop subscription {}").format(sql.Identifier(name)))

    def _drop_slots(self) -> None:
        left = "select slot_name from pg_replication_slots where database = %s"
        drop = (
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
            " where database = %s and not active and not temporary"
        )

        def gone() -> bool:
            # In use again between looking and dropping: a walsender on its way out.
            with contextlib.suppress(psycopg2.errors.ObjectInUse):
                self._in_postgres(drop, self.name)
            return not self._in_postgres(left, self.name)

        wait_until(gone, DROP_DEADLINE_S, f"no replication slot in {self.name}")

    def _in_postgres(self, statement: str | sql.Composable, *args: Any) -> list[tuple[Any, ...]]:
        connection = self.server.connect(application_name="test")
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, args or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


def _readable(connection: Connection) -> bool:
    return bool(select.select([connection], [], [], 0)[0])
