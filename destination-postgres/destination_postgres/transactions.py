"""One transaction with every setting that our SQL relies on, set for it alone: nothing else is left to the session.

So a transaction pooler may stand in between, and the defaults of role, database and server do not matter.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
# Timeouts: what a role or database has is for people's statements; ours are of the configuration, and where we must not
# wait long, we say how long. Keep-alives: a client that vanished is noticed within 30 s, where the system's default is
# two hours: so long its transaction would hold the rows and tables that the next attempt needs.
# jit: the plans are simple, and compiling them costs more than it saves.
_BEGIN = """\
begin isolation level read committed read write;
set local timezone = 'UTC';
set local datestyle = 'ISO, YMD';
set local search_path = 'pg_catalog';
set local client_min_messages = 'warning';
set local quote_all_identifiers = off;
set local row_security = off;
set local statement_timeout = {};
set local lock_timeout = {};
set local idle_in_transaction_session_timeout = 0;
set local tcp_keepalives_idle = 15;
set local tcp_keepalives_interval = 5;
set local tcp_keepalives_count = 3;
select set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') = 'off'"""

_JIT_VERSION = 110_000
_USER_TIMEOUT_VERSION = 120_000
_TRANSACTION_TIMEOUT_VERSION = 170_000

# From 14 on a session may be ended that says nothing for long. Null where the server does not know it.
_STAY = """\
select set_config('idle_session_timeout', '0', false) where current_setting('idle_session_timeout', true) <> '0'"""

# The shorter one of ours and what is set; with what it was.
_BRIEFLY = """\
select setting, set_config('lock_timeout', least(nullif(setting::integer, 0), 3000)::text, true)
from pg_settings where name = 'lock_timeout'"""

# Another try is likely to get through: the other transaction has won and ended.
_CONFLICTS = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)
# Two sessions that create the same thing at once, in spite of IF NOT EXISTS (reference 3.11).
_RACES = (errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateSchema, errors.DuplicateObject)
_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.05

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Timeouts:
    """How many seconds a statement may take, and may wait for a lock; 0: without limit."""

    statement_s: float = 0
    lock_s: float = 0


def stay(connection: Connection) -> None:
    """Have the server not end the session of ``connection`` while the source has nothing to say.

    Where role or database would have it ended, and only there, this is set for the session: between two transactions
    nothing else can.
    """
    with connection.cursor() as cursor:
        cursor.execute(_STAY)


@contextlib.contextmanager
def transaction(
    connection: Connection, schemas: Sequence[str] = (), timeouts: Timeouts = Timeouts()
) -> Iterator[Cursor]:
    """A cursor within a new transaction: committed at the end, rolled back when the body raises.

    ``schemas``: where what is unqualified is looked for, in defaults, rules and triggers of the user's tables.
    """
    with connection.cursor() as cursor:
        _begin(cursor, schemas, timeouts)
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


@contextlib.contextmanager
def brief_locks(cursor: Cursor) -> Iterator[None]:
    """In the body no lock is waited for longer than three seconds: whoever comes to read would queue behind it."""
    cursor.execute(_BRIEFLY)
    before, _ = cursor.fetchone() or ("0", "")
    yield
    cursor.execute("select set_config('lock_timeout', %s, true)", (before,))


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


def _begin(cursor: Cursor, schemas: Sequence[str] = (), timeouts: Timeouts = Timeouts()) -> None:
    version = cursor.connection.server_version
    limits = (round(seconds * 1000) for seconds in (timeouts.statement_s, timeouts.lock_s))
    statements: list[sql.Composable] = [sql.SQL(_BEGIN).format(*map(sql.Literal, limits))]
    if version >= _JIT_VERSION:
        statements.append(sql.SQL("set local jit = off"))
    if version >= _USER_TIMEOUT_VERSION:
        statements.append(sql.SQL("set local tcp_user_timeout = 30000"))
    if version >= _TRANSACTION_TIMEOUT_VERSION:
        statements.append(sql.SQL("set local transaction_timeout = 0"))
    if schemas:
        statements.append(sql.SQL("set local search_path = pg_catalog, {}").format(names(schemas)))
    try:
        cursor.execute(sql.SQL(";\n").join(statements))
    except errors.FeatureNotSupported as error:
        # A standby's word for READ WRITE; what else a server refuses to write has the code of that.
        raise errors.ReadOnlySqlTransaction from error
