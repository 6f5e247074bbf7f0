"""Prerequisites of a sync: every problem is found and said at once, each with its remedy. Creates nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from airbyte_pg import sql
from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConnectorError
from source_postgres_cdc import publication, server, slot, standby, tables
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """What is checked."""

    session: Connection
    server: Server
    settings: SourceSettings


def problems(subject: Subject) -> list[str]:
    """Every problem of ``subject``, as text with its remedy; empty when a sync can run."""
    return [text for prerequisite in PREREQUISITES if (text := prerequisite(subject)) is not None]


def _wal_level(subject: Subject) -> str | None:
    if subject.server.wal_level == "logical":
        return None
    return (
        f"wal_level is {subject.server.wal_level}. Run: ALTER SYSTEM SET wal_level = 'logical'; and restart the server."
    )


def _is_primary(subject: Subject) -> str | None:
    if not subject.server.in_recovery or subject.server.version >= standby.MINIMUM_VERSION:
        return None
    return "The server is a standby, which can be read from PostgreSQL 16 on. Connect to the primary."


def _replication_privilege(subject: Subject) -> str | None:
    query = "select rolsuper or rolreplication from pg_roles where rolname = current_user"
    if server.value(subject.session, query):
        return None
    user = sql.text(sql.name(subject.settings.username), subject.session)
    role = server.replication_role(subject.session)
    if role is not None:
        log.warning(
            "The user may not open replication connections, it is only a member of %s: changes are read through "
            "functions. For the streaming transport too, run: ALTER ROLE %s REPLICATION;",
            role,
            user,
        )
        return None
    try:
        # The clouds have ways of their own (rds_replication).
        server.open_replication_session(subject.settings, subject.server).close()
    except ConnectorError:
        return f"The user may not replicate. Run: ALTER ROLE {user} REPLICATION;"
    return None


def _slot(subject: Subject) -> str | None:
    found = slot.find(subject.session, subject.server.version, subject.settings.slot)
    if found is None:
        failure: ConnectorError | None = (
            None if subject.settings.create_if_missing else slot.missing(subject.settings.slot, had_state=False)
        )
    else:
        failure = slot.problem(found, subject.server.database)
        if failure is None and (held := slot.in_use(subject.session, found)) is not None:
            # A sync waits for it; one of ours may be moving the slot at this very moment.
            log.warning(held.user_text)
        if subject.settings.failover and not found.has_failover:
            log.warning(slot.without_failover(found))
    return failure.user_text if failure else None


def _failover(subject: Subject) -> str | None:
    failure = slot.failover_problem(subject.server.version) if subject.settings.failover else None
    return failure.user_text if failure else None


def _free_slots(subject: Subject) -> str | None:
    used, limit = server.rows(
        subject.session,
        "select count(*), current_setting('max_replication_slots')::int from pg_replication_slots",
    )[0]
    is_made = slot.find(subject.session, subject.server.version, subject.settings.slot) is not None
    text = f"{used} of {limit} replication slots are used. Raise max_replication_slots, or drop slots that nobody uses."
    if limit - used < (1 if is_made else 2):
        # Then the slot is read itself, one sync at a time and without the bulk transport.
        log.warning("A sync copies its slot for as long as it lasts, but %s", text)
    return None if is_made or limit > used else f"A sync needs a slot, but {text}"


def _publication(subject: Subject) -> str | None:
    found = publication.find(subject.session, subject.settings.publication)
    if found is not None:
        return publication.incomplete(found).user_text if found.operations_missing else None
    if subject.settings.create_if_missing:
        return None
    name = sql.text(sql.name(subject.settings.publication), subject.session)
    return f"The publication {name} does not exist. Run: CREATE PUBLICATION {name} FOR TABLE …;"


def _tables(subject: Subject) -> str | None:
    if tables.load(subject.session, subject.settings.selection):
        return None
    if subject.settings.tables:
        return "No table of the whitelist can be read. Check its names (case sensitive) and grant SELECT on the tables."
    schemas = ", ".join(subject.settings.schemas) or "any schema"
    return (
        f"No table in {schemas} can be read. Check the schema names (case sensitive), "
        "or grant USAGE on the schema and SELECT on its tables."
    )


PREREQUISITES: tuple[Callable[[Subject], str | None], ...] = (
    _wal_level,
    _is_primary,
    _replication_privilege,
    _free_slots,
    _slot,
    _failover,
    _publication,
    _tables,
)
