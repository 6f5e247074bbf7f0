"""The publication: find, judge, and where it is ours, create and extend. Ours carries a COMMENT as its mark.

Never dropped, never narrowed, and nobody else's is altered. A table without a usable identity is never added: its
UPDATE and DELETE would fail in the user's application.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
from psycopg2 import errors
from psycopg2.sql import SQL, Composed

from airbyte_pg import sql
from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConfigError, TransientError
from source_postgres_cdc import server
from source_postgres_cdc.tables import Table, load_members

MARK = "made by source-postgres-cdc"
# Behind the mark: for whom.
_FOR = f"{MARK} for the slot "

log = logging.getLogger(__name__)


class Publication(msgspec.Struct, frozen=True):
    """A publication: whether a sync made it and this user may alter it, the operations on rows that it leaves out,
    and the slot that it was made for. ``is_of_all``: FOR ALL TABLES."""

    name: str
    is_ours: bool
    is_owned: bool
    is_of_all: bool
    operations_missing: tuple[str, ...]
    sends_truncate: bool
    made_for: str | None

    @property
    def may_be_altered(self) -> bool:
        """Whether a sync may add tables."""
        return self.is_ours and self.is_owned


_PUBLICATION = """
select p.pubname, coalesce(obj_description(p.oid, 'pg_publication'), ''), pg_has_role(p.pubowner, 'usage'),
       p.puballtables, {sends_truncate}, p.pubinsert, p.pubupdate, p.pubdelete
from pg_publication p where p.pubname = %(name)s
"""


def find(session: Connection, name: str) -> Publication | None:
    """The publication ``name``, or None."""
    # Before 11 no TRUNCATE is published by anybody.
    sends_truncate = "p.pubtruncate" if session.server_version >= 110000 else "true"
    query = _PUBLICATION.format(sends_truncate=sends_truncate)
    found = server.rows(session, query, {"name": name})
    if not found:
        return None
    name, comment, is_owned, is_of_all, sends_truncate, *published = found[0]
    operations = zip(("insert", "update", "delete"), published, strict=True)
    return Publication(
        name,
        comment.startswith(MARK),
        is_owned,
        is_of_all,
        tuple(operation for operation, is_sent in operations if not is_sent),
        sends_truncate,
        comment.removeprefix(_FOR) if comment.startswith(_FOR) else None,
    )


def create_statement(name: str, tables: Sequence[Table]) -> Composed:
    """CREATE PUBLICATION for ``tables``."""
    return SQL("CREATE PUBLICATION {} FOR TABLE {}").format(sql.name(name), _listed(tables))


def add_statement(name: str, tables: Sequence[Table]) -> Composed:
    """ALTER PUBLICATION ... ADD TABLE for ``tables``."""
    return SQL("ALTER PUBLICATION {} ADD TABLE {}").format(sql.name(name), _listed(tables))


def ensure(session: Connection, name: str, tables: Sequence[Table], *, slot: str, may_create: bool) -> None:
    """Make sure that the publication ``name`` exists and holds ``tables``; it is marked as made for ``slot``.

    Raises ConfigError with the SQL to run where it is not ours to change.
    """
    found = find(session, name)
    statements: list[Composed] = []
    if found is not None and not found.sends_truncate:
        log.warning("The publication %s does not publish TRUNCATE: tables are emptied without our notice", name)
    if found is not None and found.made_for not in (None, slot):
        log.warning(shared(found))
    if found is None:
        mark = SQL("COMMENT ON PUBLICATION {} IS {}").format(sql.name(name), sql.literal(_FOR + slot))
        statements = [create_statement(name, tables), mark]
        what = f"The publication {name} does not exist."
        may_alter = may_create
    else:
        if found.operations_missing:
            raise incomplete(session, found)
        members = load_members(session, session.server_version, name)
        absent = [table for table in tables if table.id not in members]
        if not absent:
            return
        statements = [add_statement(name, absent)]
        listed = ", ".join(f"{table.schema}.{table.name}" for table in absent)
        what = f"The publication {name} does not hold: {listed}."
        may_alter = may_create and found.may_be_altered
    text = "; ".join(sql.text(statement, session) for statement in statements[:1])
    if not may_alter:
        raise ConfigError(what, remedy=f"Run: {text};")
    try:
        # One transaction: a publication of ours is never seen without its mark.
        with session.cursor() as cursor:
            cursor.execute(SQL("; ").join(statements))
    except (errors.UniqueViolation, errors.DuplicateObject) as error:
        # Another connection's first sync has just done so.
        raise TransientError(f"{what} Another sync has changed it at the same moment.") from error
    except errors.ReadOnlySqlTransaction as error:
        raise ConfigError(f"{what} The server is a standby.", remedy=f"Run on the primary: {text};") from error
    except errors.InsufficientPrivilege as error:
        raise ConfigError(
            f"{what} The database user may not make it so (it must own the tables).",
            remedy=f"Run as their owner: {text};",
        ) from error
    log.info("%s Ran: %s", what, text)


def shared(found: Publication) -> str:
    """What to say of a publication that another connection has made for itself."""
    return (
        f"The publication {found.name} was made by another connection (for the slot {found.made_for}): both add tables "
        "to it. Each should have one of its own (option publication)."
    )


def incomplete(session: Connection, found: Publication) -> ConfigError:
    """The error for a publication that leaves operations out."""
    # Before 11 there is no truncate to publish.
    every = "insert, update, delete" + (", truncate" if session.server_version >= 110000 else "")
    statement = SQL("ALTER PUBLICATION {} SET (publish = {})").format(sql.name(found.name), sql.literal(every))
    listed = ", ".join(found.operations_missing)
    return ConfigError(
        f"The publication {found.name} does not publish: {listed}. Those changes would be lost.",
        remedy=f"Run: {sql.text(statement, session)};",
    )


def _listed(tables: Sequence[Table]) -> Composed:
    # ONLY: an inheritance child may have no key, and its UPDATE and DELETE would fail.
    return SQL(", ").join(SQL("ONLY {}").format(sql.table(table.schema, table.name)) for table in tables)
