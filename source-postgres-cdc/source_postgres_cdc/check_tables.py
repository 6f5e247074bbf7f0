"""The selected tables: there, readable, and fit to be followed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg2.sql import SQL, Composable

from airbyte_pg import sql
from airbyte_pg.errors import StreamName
from source_postgres_cdc import server, tables
from source_postgres_cdc.discover import META_COLUMNS, POSITION_COLUMNS
from source_postgres_cdc.findings import Finding, Subject, listed, relations
from source_postgres_cdc.tables import Table


def selected(subject: Subject) -> Iterator[Finding]:
    """There must be something to read; what is named must be readable, of the rest it is said."""
    selection = subject.settings.selection
    readable = [table.id for table in subject.tables]
    hidden = tables.load_hidden(subject.session, selection)
    for entry in selection.without_any([*readable, *hidden]):
        yield Finding(
            f"The whitelist's {entry} does not exist.", "Check its spelling (names are case sensitive), or take it out."
        )
    # Without anything readable all of it is missed; else only what is named.
    missed = [table for table in hidden if not readable or selection.names(table)]
    if missed:
        what = "No table can be read" if not readable else "The user may not read"
        yield Finding(f"{what}: {listed(missed)}.", _grant(subject, missed))
    elif not readable and not selection.entries:
        where = ", ".join(subject.settings.schemas) or "the database"
        yield Finding(f"No table in {where} can be read: there is none.", "Check the schema names (case sensitive).")
    if left := [table for table in hidden if table not in missed]:
        yield Finding(f"The user may not read {listed(left)}.", _grant(subject, left), is_warning=True)
    yield from _columns(subject)


def row_security(subject: Subject) -> Iterator[Finding]:
    """Policies that hide rows from the user would make tables incomplete; reading them is an error instead."""
    query = "select oid::bigint from pg_class where oid = any (%s::oid[]) and row_security_active(oid)"
    oids = {oid for (oid,) in server.rows(subject.session, query, ([table.oid for table in subject.tables],))}
    for is_named in (True, False):
        hiding = [
            table.id
            for table in subject.tables
            if table.oid in oids and subject.settings.selection.names(table.id) is is_named
        ]
        if hiding:
            yield Finding(
                f"Row security policies may hide rows of {listed(hiding)} from the user: they cannot be read.",
                subject.run(SQL("ALTER ROLE {} BYPASSRLS").format(subject.user)),
                is_warning=not is_named,
            )


_LATE_KEYS = """
select indrelid::bigint from pg_index
where indrelid = any (%s::oid[]) and indisprimary and not indimmediate
"""


def followed(subject: Subject) -> Iterator[Finding]:
    """Tables that are read whole each time, since their changes cannot be told apart; only a pity."""
    unfit = [table for table in subject.tables if table.kind == "r" and not table.can_be_followed]
    query_arguments = ([table.oid for table in unfit],)
    late = {oid for (oid,) in server.rows(subject.session, _LATE_KEYS, query_arguments)}
    by_reason: dict[str, list[Table]] = {}
    for table in unfit:
        by_reason.setdefault(_reason(table, has_late_key=table.oid in late), []).append(table)
    for reason, alike in by_reason.items():
        names = [table.id for table in alike]
        yield Finding(
            f"{reason}, so there is only full_refresh of {listed(names)}.",
            _mend(subject, reason, names),
            is_warning=True,
        )


_HIDDEN = "A part of the primary key is generated, or may not be read"
_GENERATED = "Whole rows with generated columns cannot identify themselves (REPLICA IDENTITY FULL, PostgreSQL 18)"
_UNLOGGED = "Changes of unlogged tables are not in WAL"
_LATE = "A primary key that is deferrable cannot tell rows apart at every moment"
_KEYLESS = "Without a primary key rows cannot be told apart"
_IDENTITY = "The replica identity does not hold the primary key"


def _reason(table: Table, *, has_late_key: bool) -> str:
    if not table.is_permanent:
        return _UNLOGGED
    if not table.key:
        return _LATE if has_late_key else _HIDDEN if table.has_key else _KEYLESS
    return _GENERATED if table.identity == "f" else _IDENTITY


def _mend(subject: Subject, reason: str, names: Sequence[StreamName]) -> str:
    by_identity = "REPLICA IDENTITY DEFAULT"
    change = {_UNLOGGED: "SET LOGGED", _IDENTITY: by_identity, _GENERATED: by_identity}.get(reason)
    if change is None:
        return {_LATE: "Make it immediate.", _KEYLESS: "Add one."}.get(reason, "")
    return subject.run(*(SQL("ALTER TABLE {} {}").format(relations([name]), SQL(change)) for name in names))


def populated(subject: Subject) -> Iterator[Finding]:
    """A materialised view must have been filled."""
    empty = [table.id for table in subject.tables if not table.is_populated]
    if empty:
        statements = [SQL("REFRESH MATERIALIZED VIEW {}").format(relations([name])) for name in empty]
        yield Finding(
            f"Materialised views that have never been filled cannot be read: {listed(empty)}.",
            subject.run(*statements),
            is_warning=True,
        )


def names(subject: Subject) -> Iterator[Finding]:
    """No column may be named like the connector's own."""
    own = {*META_COLUMNS, *POSITION_COLUMNS}
    taken = [table.id for table in subject.tables if own & {column.name for column in table.columns}]
    if taken:
        yield Finding(
            f"Columns are named like the connector's own ({', '.join(sorted(own))}) in {listed(taken)}: they cannot be "
            "read.",
            "Rename them.",
            is_warning=True,
        )


def _columns(subject: Subject) -> Iterator[Finding]:
    partial = [table for table in subject.tables if table.unreadable]
    if partial:
        grants = [
            SQL("GRANT SELECT ({}) ON {} TO {}").format(
                sql.names(sorted(table.unreadable)), sql.table(table.schema, table.name), subject.user
            )
            for table in partial
        ]
        yield Finding(
            f"The user may not read some columns of {listed(table.id for table in partial)}: they are left out.",
            subject.run(*grants),
            is_warning=True,
        )


def _grant(subject: Subject, missed: Sequence[StreamName]) -> str:
    schemas = sorted({table.namespace or "" for table in missed})
    usage: list[Composable] = [
        SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.names(schemas), subject.user),
        SQL("GRANT SELECT ON {} TO {}").format(relations(missed), subject.user),
    ]
    return subject.run(*usage)
