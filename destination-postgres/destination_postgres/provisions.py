"""What the configuration asks for on final tables besides the rows: indexes, and roles that may read.

Made when a stream is opened, where it is missing, and on a generation that is built aside, so that its table can be
renamed in. Never taken away: what is no longer asked for stays.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2 import errors, sql
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import ConfigError, StreamName
from airbyte_pg.sql import name, text
from destination_postgres import sqlgen
from destination_postgres.naming import helper_name
from destination_postgres.sqlgen import Table
from destination_postgres.tables import columns_of, index_exists
from destination_postgres.transactions import brief_locks

# Its indexes count as the connector's own: they do not keep a table from being replaced by its name (swap.py).
INDEX_ROLE = "index"

_MAY_READ = """\
select has_table_privilege(r.oid, c.oid, 'select'), has_schema_privilege(r.oid, n.oid, 'usage')
from pg_roles r, pg_class c join pg_namespace n on n.oid = c.relnamespace
where r.rolname = %s and n.nspname = %s and c.relname = %s"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """An index on those of the tables ``tables`` (schema.table, * stands for anything) that have its ``columns``."""

    tables: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Readers:
    """Roles that may read the tables ``tables`` (as above)."""

    tables: str
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Provisions:
    """All that is asked for."""

    indexes: tuple[Index, ...] = ()
    readers: tuple[Readers, ...] = ()

    def columns(self, table: Table) -> list[tuple[str, ...]]:
        """The columns of each index on the final table ``table``."""
        return list(dict.fromkeys(each.columns for each in self.indexes if _is_meant(each.tables, table)))

    def roles(self, table: Table) -> list[str]:
        """The roles that may read the final table ``table``."""
        meant = (each.roles for each in self.readers if _is_meant(each.tables, table))
        return list(dict.fromkeys(role for roles in meant for role in roles))


def ensure_indexes(cursor: Cursor, table: Table, wanted: Sequence[tuple[str, ...]], stream: StreamName) -> None:
    """Make those indexes on ``table`` that are missing; one on a column that is not there is left out, with a warning.

    Raises ConfigError for rows with a value too wide for an index.
    """
    present = columns_of(cursor, table) if wanted else set()
    for columns in wanted:
        if missing := [column for column in columns if column not in present]:
            _log.warning("no index, as %s has no column %s", table, ", ".join(missing))
            continue
        index = _index_name(table, columns)
        if index_exists(cursor, table, index):
            continue
        try:
            with brief_locks(cursor):
                cursor.execute(sqlgen.create_index(index, table, columns))
        except errors.ProgramLimitExceeded as error:
            raise ConfigError(
                f"{table} has values too wide for an index on {', '.join(columns)}.",
                remedy="Take it out of the option indexes.",
                stream=stream,
            ) from error


def rename_indexes(cursor: Cursor, former: Table, table: Table, wanted: Sequence[tuple[str, ...]]) -> None:
    """Give the indexes of ``table``, which was called ``former``, the names that they have by its present one."""
    for columns in wanted:
        renamed = sqlgen.rename_index(table.schema, _index_name(former, columns), _index_name(table, columns))
        cursor.execute(renamed)


def ensure_readers(cursor: Cursor, table: Table, roles: Sequence[str], stream: StreamName, *, is_inner: bool) -> None:
    """Let ``roles`` read ``table``; ``is_inner``: nobody is to find it yet.

    Raises ConfigError for a role that does not exist, and, with the SQL for it, for a grant that is not ours to give.
    """
    for role in roles:
        for grant in _lacking(cursor, table, role, stream, is_inner=is_inner):
            try:
                cursor.execute(grant)
            except errors.InsufficientPrivilege as error:
                raise _not_ours(cursor, table, role, grant, stream) from error
        # Who may use an object and not pass that on is given a warning only.
        for grant in _lacking(cursor, table, role, stream, is_inner=is_inner):
            raise _not_ours(cursor, table, role, grant, stream)


def _lacking(cursor: Cursor, table: Table, role: str, stream: StreamName, *, is_inner: bool) -> list[sql.Composed]:
    cursor.execute(_MAY_READ, (role, table.schema, table.name))
    row = cursor.fetchone()
    if row is None:
        raise ConfigError(f"There is no role {role}.", remedy="Check the option grants.", stream=stream)
    may_read, may_enter = row
    grants = [] if may_read else [sqlgen.grant("select", "table", table.sql, name(role))]
    if not may_enter and not is_inner:
        grants.append(sqlgen.grant("usage", "schema", name(table.schema), name(role)))
    return grants


def _not_ours(cursor: Cursor, table: Table, role: str, grant: sql.Composed, stream: StreamName) -> ConfigError:
    remedy = f"{text(grant, cursor.connection)};"
    return ConfigError(f"The user may not let {role} read {table}.", remedy=remedy, stream=stream)


def _is_meant(tables: str, table: Table) -> bool:
    pattern = ".*".join(map(re.escape, tables.split("*")))
    return re.fullmatch(pattern, str(table), re.DOTALL) is not None


def _index_name(table: Table, columns: Sequence[str]) -> str:
    return helper_name(INDEX_ROLE, table.schema, table.name, *columns)
