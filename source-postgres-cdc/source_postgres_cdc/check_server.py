"""What a sync asks of the server itself: its settings, room for slots, and a connection that can replicate."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg2.sql import SQL

from airbyte_pg import sql
from airbyte_pg.errors import ConnectorError, TransientError
from source_postgres_cdc import server, slot
from source_postgres_cdc import standby as standbys
from source_postgres_cdc.findings import Finding, Subject, of_error

# From here on a slot can be copied.
_COPIES_SLOTS = 120000
# A sync has its own session, one that reads changes, and for a moment a third.
_SESSIONS = 3
# Below 12 no session has a time-out of its own, and a slow destination may keep ours from answering.
_SHORT_SENDER_TIMEOUT_S = 30


def wal_level(subject: Subject) -> Iterator[Finding]:
    """WAL must have what changes are decoded from."""
    if subject.server.wal_level != "logical":
        where = " on the primary and here" if subject.server.in_recovery else ""
        yield Finding(
            f"wal_level is {subject.server.wal_level}; changes need logical.",
            f"Run{where}: ALTER SYSTEM SET wal_level = 'logical'; and restart the server.",
        )


def standby(subject: Subject) -> Iterator[Finding]:
    """A standby decodes from 16 on, as long as the primary keeps the rows that the catalogue of then consists of."""
    if not subject.server.in_recovery:
        return
    if subject.server.version < standbys.MINIMUM_VERSION:
        yield Finding("The server is a standby, which can be read from PostgreSQL 16 on.", "Connect to the primary.")
        return
    if not _is_on(subject, "hot_standby_feedback"):
        yield Finding(
            "hot_standby_feedback is off: the primary would remove rows that the slot needs, and so end it.",
            "Run: ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();",
        )
    if not _setting(subject, "primary_slot_name"):
        yield Finding(
            "The standby has no slot at the primary (primary_slot_name): while they are disconnected, rows that our "
            "slot needs may be removed.",
            "Create a physical slot there, and name it here.",
            is_warning=True,
        )


def connection(subject: Subject) -> Iterator[Finding]:
    """The user must be able to replicate, through a connection that can carry it."""
    query = "select rolsuper or rolreplication from pg_roles where rolname = current_user"
    has_attribute = server.value(subject.session, query)
    grant = subject.run(SQL("ALTER ROLE {} REPLICATION").format(subject.user))
    role = None if has_attribute else server.replication_role(subject.session)
    if role is not None and subject.server.version < _COPIES_SLOTS:
        yield Finding(f"The user is only a member of {role}: before PostgreSQL 12 that is not enough.", grant)
        return
    if role is not None:
        yield Finding(
            f"The user may not open replication connections, it is only a member of {role}: changes are read through "
            "functions.",
            f"For the streaming transport too, {grant[0].lower()}{grant[1:]}",
            is_warning=True,
        )
        return
    try:
        # The clouds have ways of their own to let a user replicate (rds_replication).
        server.open_replication_session(subject.settings, subject.server).close()
    except TransientError as failure:
        # Bulk reads through functions.
        is_bulk = subject.settings.transport == "bulk" and subject.server.version >= _COPIES_SLOTS
        yield of_error(failure, is_warning=is_bulk)
    except ConnectorError as failure:
        if server.is_relayed(subject.session):
            yield of_error(server.pooled())
        elif has_attribute:
            yield Finding(f"A replication connection cannot be opened. {failure.message}", failure.remedy)
        else:
            yield Finding("The user may not replicate.", grant)


_LIMITED = """
select rolconnlimit from pg_roles where rolname = current_user and not rolsuper and rolconnlimit between 0 and %s
"""
# What a sync calls, of what an administrator may have revoked.
_DENIED = """
select format('%%I(%%s)', proname, pg_get_function_identity_arguments(oid)) from pg_proc
where pronamespace = 'pg_catalog'::regnamespace and proname = any (%s)
  and not has_function_privilege(%s, oid, 'execute')
order by 1
"""
_CALLED = [
    "pg_create_logical_replication_slot",
    "pg_copy_logical_replication_slot",
    "pg_replication_slot_advance",
    "pg_logical_slot_get_binary_changes",
]


def rights(subject: Subject) -> Iterator[Finding]:
    """The user may open as many sessions as it takes, and call the functions that slots are used by."""
    for (limit,) in server.rows(subject.session, _LIMITED, (_SESSIONS - 1,)):
        yield Finding(
            f"The user may have {limit} connections at once; a sync needs {_SESSIONS}.",
            subject.run(SQL("ALTER ROLE {} CONNECTION LIMIT -1").format(subject.user)),
        )
    caller = server.replication_role(subject.session) or server.value(subject.session, "select current_user")
    denied = [function for (function,) in server.rows(subject.session, _DENIED, (_CALLED, caller))]
    if denied:
        grants = [
            SQL("GRANT EXECUTE ON FUNCTION pg_catalog.{} TO {}").format(SQL(function), sql.name(caller))
            for function in denied
        ]
        yield Finding(f"The user may not call {', '.join(denied)}.", subject.run(*grants))


def room_for_slots(subject: Subject) -> Iterator[Finding]:
    """The anchor and its copy need a slot each; without one for the copy it is slower, and one sync at a time."""
    used, limit, idle = server.rows(
        subject.session,
        "select count(*), current_setting('max_replication_slots')::int,"
        " string_agg(slot_name, ', ' order by slot_name) filter (where not active and slot_name <> %s)"
        " from pg_replication_slots",
        (subject.settings.slot,),
    )[0]
    is_made = slot.find(subject.session, subject.server.version, subject.settings.slot) is not None
    wanted = (0 if is_made else 1) + (1 if subject.server.version >= _COPIES_SLOTS else 0)
    if limit - used >= wanted:
        return
    remedy = "Raise max_replication_slots and restart the server, or drop slots that nobody uses"
    remedy += f" (not in use now: {idle})." if idle else "."
    if is_made or limit > used:
        yield Finding(
            f"A sync copies its slot for as long as it lasts, but {used} of {limit} replication slots are used.",
            remedy,
            is_warning=True,
        )
    else:
        yield Finding(f"A sync needs a slot, but {used} of {limit} replication slots are used.", remedy)


def settings(subject: Subject) -> Iterator[Finding]:
    """What works, but not as well as it could, or not for long."""
    version = subject.server.version
    if subject.server.encoding == "SQL_ASCII":
        yield Finding(
            "The database knows no encoding (SQL_ASCII): text that is no UTF-8 is sent with U+FFFD in its place.",
            is_warning=True,
        )
    if version < _COPIES_SLOTS:
        yield Finding(
            f"PostgreSQL {version // 10000} cannot copy a slot: changes are streamed from the slot itself, without the "
            "quicker way for backlogs.",
            "Upgrade to 12 or later.",
            is_warning=True,
        )
        timeout_s = int(_setting(subject, "wal_sender_timeout", "setting")) // 1000
        if 0 < timeout_s < _SHORT_SENDER_TIMEOUT_S:
            yield Finding(
                f"wal_sender_timeout is {timeout_s} s: a slow destination may cost the connection.",
                "Run: ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();",
                is_warning=True,
            )
    elif version < 140000:
        yield Finding(
            f"PostgreSQL {version // 10000} cannot read a table in parts: an initial load that is interrupted begins "
            "its table anew.",
            "Upgrade to 14 or later.",
            is_warning=True,
        )
    if version >= 180000 and (limit := _setting(subject, "idle_replication_slot_timeout")) != "0":
        yield Finding(
            f"A slot that is idle for {limit} is invalidated (idle_replication_slot_timeout): sync more often.",
            "Run: ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
            is_warning=True,
        )


def _is_on(subject: Subject, name: str) -> bool:
    return _setting(subject, name) == "on"


def _setting(subject: Subject, name: str, how: str = "current_setting(name)") -> str:
    found: str = server.value(subject.session, f"select {how} from pg_settings where name = %s", (name,))  # noqa: S608
    return found
