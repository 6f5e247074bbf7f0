"""One transaction with every setting that our SQL relies on, set for it alone: nothing is left to the session.

So a transaction pooler may stand in between, and the defaults of role, database and server do not matter.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.sql import names

# UTC: texts without a zone mean UTC. search_path: nothing of a user's schema comes before the system's.
# quote_all_identifiers: names of types are compared. row_security: rows that a policy hides from us would be taken for
# missing, and be doubled; off makes that an error. synchronous_commit: a STATE must not be forgotten by a server that
# fails; which standbys are waited for is left to the user.
# Timeouts: what a role or database has is for people's statements; where we must not wait long, we say how long.
# jit: the plans are simple, and compiling them costs more than it saves.
_BEGIN = """\
begin isolation level read committed read write;
set local timezone = 'UTC';
set local datestyle = 'ISO, YMD';
set local search_path = 'pg_catalog';
set local client_min_messages = 'warning';
set local quote_all_identifiers = off;
set local row_security = off;
set local statement_timeout = 0;
set local lock_timeout = 0;
set local idle_in_transaction_session_timeout = 0;
select set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') = 'off'"""

_JIT_VERSION = 110_000

# Another try is likely to get through: the other transaction has won and ended.
_CONFLICTS = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)
# Two sessions that create the same thing at once, in spite of IF NOT EXISTS (reference 3.11).
_RACES = (errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateSchema, errors.DuplicateObject)
_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.05

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@contextlib.contextmanager
def transaction(connection: Connection, schemas: Sequence[str] = ()) -> Iterator[Cursor]:
    """A cursor within a new transaction: committed at the end, rolled back when the body raises.

    ``schemas``: where what is unqualified is looked for, in defaults, rules and triggers of the user's tables.
    """
    with connection.cursor() as cursor:
        _begin(cursor, schemas)
        try:
            yield cursor
            cursor.execute("commit")
        except Exception:
            # The first error is the one to tell; a lost connection rolls back by itself. Stopped (no Exception)
            # does not wait for the server: the connection is closed on the way out.
            with contextlib.suppress(psycopg2.Error):
                cursor.execute("rollback")
            raise


@contextlib.contextmanager
def trial(connection: Connection) -> Iterator[Cursor]:
    """A cursor within a new transaction that is rolled back at the end, whatever happens."""
    with connection.cursor() as cursor:
        _begin(cursor)
        try:
            yield cursor
        finally:
            with contextlib.suppress(psycopg2.Error):
                cursor.execute("rollback")


def retried(work: Callable[[], _Result], *, creating: bool = False) -> _Result:
    """What ``work()``, one whole transaction, returns; tried again after a conflict with another transaction.

    ``creating``: also when somebody else created the same table or schema meanwhile.
    """
    expected = (*_CONFLICTS, *_RACES) if creating else _CONFLICTS
    pause_s = _FIRST_PAUSE_S
    for _ in range(_ATTEMPTS - 1):
        try:
            return work()
        except expected as error:
            _log.warning("a transaction is tried again: sqlstate=%s", error.pgcode)
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause_s *= 2
    return work()


def _begin(cursor: Cursor, schemas: Sequence[str] = ()) -> None:
    statements = [_BEGIN]
    if cursor.connection.server_version >= _JIT_VERSION:
        statements.append("set local jit = off")
    if schemas:
        path = sql.SQL("set local search_path = pg_catalog, {}").format(names(schemas))
        statements.append(path.as_string(cursor))
    cursor.execute(";\n".join(statements))
