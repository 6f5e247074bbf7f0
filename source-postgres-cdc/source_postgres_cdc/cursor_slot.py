"""The cursor: a temporary copy of the anchor, made and used in one session, and gone with it.

Nothing that a driver, a crash or a keep-alive confirms on it moves the anchor, and a killed sync never leaves the
anchor "active for PID" (design section 3, "An anchor and a cursor").
"""

from __future__ import annotations

import os
import time
from typing import Any

from psycopg2 import errors

from airbyte_pg import sql
from airbyte_pg.errors import ConfigError
from source_postgres_cdc import lsn


class CopyImpossible(Exception):
    """The server is older than 12, or has no free slot: the anchor itself must be read."""


def copy(cursor: Any, anchor: str, start: int) -> str:
    """Copy ``anchor`` in the session of ``cursor`` (a psycopg2 cursor) and return the copy's name.

    Raises CopyImpossible, and ConfigError where the user may not, or the anchor has been moved past ``start``.
    """
    name = f"airbyte_cursor_{os.getpid()}_{time.time_ns() & 0xFFFFFFFF:x}"
    try:
        cursor.execute("select pg_copy_logical_replication_slot(%s, %s, true)", (anchor, name))
    except (errors.ConfigurationLimitExceeded, errors.UndefinedFunction) as error:
        raise CopyImpossible from error
    except errors.UndefinedObject as error:
        raise _touched() from error
    except errors.InsufficientPrivilege as error:
        raise ConfigError(
            "The database user may not read a replication slot.",
            remedy=f"Run: ALTER ROLE {sql.text(sql.name(cursor.connection.info.user), cursor)} REPLICATION;",
        ) from error
    expect_not_past(cursor, name, start)
    return name


def expect_not_past(cursor: Any, slot: str, start: int) -> None:
    """Raise ConfigError where ``slot`` does not hold the changes from ``start`` on: reading would skip them."""
    cursor.execute("select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s", (slot,))
    found = cursor.fetchone()
    if found is None or lsn.before_header(lsn.parse(found[0])) > start:
        raise _touched()


def _touched() -> ConfigError:
    return ConfigError(
        "The replication slot was moved, dropped or made anew by somebody else during this sync.",
        remedy="Give this connection a slot of its own, and reset it: its tables must be read anew.",
    )
