"""What a check looks at, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
from psycopg2.sql import SQL, Composable

from airbyte_pg import sql
from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConnectorError, StreamName
from source_postgres_cdc import publication, server, tables
from source_postgres_cdc.publication import Publication
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings
from source_postgres_cdc.tables import Membership, Table

# So many names are listed; the SQL of a remedy has them all.
_LISTED = 20


class Finding(msgspec.Struct, frozen=True):
    """A problem, or what is only worth a warning, and what to do about it."""

    message: str
    remedy: str = ""
    is_warning: bool = False

    @property
    def text(self) -> str:
        """Both, in one line."""
        return f"{self.message} {self.remedy}".strip()


def of_error(failure: ConnectorError, *, is_warning: bool = False) -> Finding:
    """The finding of an error that a sync would end with."""
    return Finding(failure.message, failure.remedy, is_warning)


@dataclass
class Subject:
    """A server, a configuration, and the session of its user; what several prerequisites ask for is asked once."""

    session: Connection
    server: Server
    settings: SourceSettings

    @cached_property
    def tables(self) -> list[Table]:
        """The selected tables that the user may read."""
        return tables.load(self.session, self.settings.selection)

    @cached_property
    def publication(self) -> Publication | None:
        """The publication, if it is there."""
        return publication.find(self.session, self.settings.publication)

    @cached_property
    def members(self) -> dict[StreamName, Membership]:
        """The tables in the publication."""
        return tables.load_members(self.session, self.server.version, self.settings.publication)

    @cached_property
    def owned(self) -> set[int]:
        """The OIDs of those tables that the user owns, by itself or by a role that it has."""
        query = "select oid::bigint from pg_class where oid = any (%s::oid[]) and pg_has_role(relowner, 'usage')"
        return {oid for (oid,) in server.rows(self.session, query, ([table.oid for table in self.tables],))}

    @property
    def may_alter_publication(self) -> bool:
        """Whether a sync would make the publication, or add tables to it."""
        return self.settings.create_if_missing and (self.publication is None or self.publication.may_be_altered)

    @cached_property
    def user(self) -> Composable:
        """The name of the user that rights are asked of, in SQL."""
        return sql.name(server.value(self.session, "select current_user"))

    def run(self, *statements: Composable) -> str:
        """The remedy of running ``statements``."""
        return "Run: " + " ".join(f"{sql.text(statement, self.session)};" for statement in statements)


def listed(found: Iterable[StreamName]) -> str:
    """Names of tables for people."""
    names = [f"{name.namespace}.{name.name}" for name in found]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def relations(found: Sequence[StreamName]) -> Composable:
    """Names of tables in SQL."""
    return SQL(", ").join(sql.table(name.namespace or "", name.name) for name in found)
