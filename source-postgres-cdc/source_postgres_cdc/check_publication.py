"""The publication: what it leaves out, whose tables it holds, and which of ours it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg2.sql import SQL, Composable

from airbyte_pg import sql
from airbyte_pg.errors import StreamName
from source_postgres_cdc import publication as publications
from source_postgres_cdc import server
from source_postgres_cdc.findings import Finding, Subject, listed, of_error, relations
from source_postgres_cdc.tables import Table

_BY_OWNER = "Let the owner of the tables do it."


def publication(subject: Subject) -> Iterator[Finding]:
    """It must send every operation on rows, or be allowed to be made."""
    found = subject.publication
    if found is None:
        yield from _missing(subject)
        return
    if found.operations_missing:
        yield of_error(publications.incomplete(subject.session, found))
    elif not found.sends_truncate:
        yield Finding(
            f"The publication {found.name} does not publish TRUNCATE: tables are emptied without our notice.",
            publications.incomplete(subject.session, found).remedy,
            is_warning=True,
        )
    if found.made_for not in (None, subject.settings.slot):
        yield Finding(publications.shared(found), is_warning=True)


def members(subject: Subject) -> Iterator[Finding]:
    """Tables that it must not hold as they are, and tables of ours that it lacks."""
    found = subject.publication
    if found is None:
        return
    if {"update", "delete"} - set(found.operations_missing):
        yield from _broken(subject)
    lacking = [table for table in subject.tables if table.can_be_followed and table.id not in subject.members]
    foreign = [table.id for table in lacking if not _is_owned(subject, table)]
    if subject.may_alter_publication:
        lacking = [table for table in lacking if table.id in foreign]
    if lacking:
        names = [table.id for table in lacking]
        statement = SQL("ALTER PUBLICATION {} ADD TABLE ONLY {}").format(sql.name(found.name), _only(names))
        yield Finding(
            f"The publication {found.name} does not hold {listed(names)}: of these there is only full_refresh.",
            f"{_BY_OWNER} {subject.run(statement)}",
            is_warning=True,
        )


def _missing(subject: Subject) -> Iterator[Finding]:
    name = sql.name(subject.settings.publication)
    wanted = [table for table in subject.tables if table.can_be_followed]
    create: Composable = SQL("CREATE PUBLICATION {}").format(name)
    if wanted:
        create += SQL(" FOR TABLE ONLY {}").format(_only([table.id for table in wanted]))
    shown = subject.settings.publication
    if subject.server.in_recovery:
        remedy = f"Do it on the primary. {subject.run(create)}"
        yield Finding(f"The publication {shown} does not exist, and a standby cannot make it.", remedy)
    elif not subject.settings.create_if_missing:
        yield Finding(f"The publication {shown} does not exist.", subject.run(create))
    elif wanted:
        foreign = [table.id for table in wanted if not _is_owned(subject, table)]
        may_create = server.value(subject.session, "select has_database_privilege(current_database(), 'create')")
        if may_create and not foreign:
            return
        yield Finding(
            f"The publication {shown} does not exist, and the user may not make it: "
            + (f"it does not own {listed(foreign)}." if foreign else "it may not CREATE in the database."),
            f"{_BY_OWNER} {subject.run(create)}",
            # Those that it owns may be all that is ever synced.
            is_warning=may_create and len(foreign) < len(wanted),
        )


# A published table without a replica identity cannot be updated by anybody any more; one whose column list lacks a part
# of it neither (PostgreSQL documentation 31.1).
_UNIDENTIFIED = """
select n.nspname, c.relname
from pg_publication_tables t
join pg_namespace n on n.nspname = t.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
where t.pubname = %s and c.relkind = 'r'
  and (c.relreplident = 'n'
       or c.relreplident = 'd' and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)
       or c.relreplident = 'i' and not exists (select from pg_index i where i.indrelid = c.oid and i.indisreplident))
order by 1, 2
"""
_NARROW = """
select n.nspname, c.relname
from pg_publication_tables t
join pg_namespace n on n.nspname = t.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
where t.pubname = %s and c.relkind = 'r'
  and exists (
    select from pg_attribute a left join pg_index i on i.indrelid = c.oid
      and (c.relreplident = 'd' and i.indisprimary or c.relreplident = 'i' and i.indisreplident)
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and not a.attname = any (t.attnames)
      and (a.attnum = any (i.indkey) or c.relreplident = 'f' and a.attgenerated = ''))
order by 1, 2
"""


def _broken(subject: Subject) -> Iterator[Finding]:
    name = subject.settings.publication
    found = [StreamName(*row) for row in server.rows(subject.session, _UNIDENTIFIED, (name,))]
    if found:
        statements = [SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(relations([table])) for table in found]
        yield Finding(
            f"Nobody can UPDATE or DELETE in {listed(found)}: they are in the publication {name} and have no replica "
            "identity.",
            f"Take them out of it, give them a primary key, or let whole rows identify themselves. "
            f"{subject.run(*statements)}",
            is_warning=True,
        )
    if subject.server.version < 150000:
        return
    narrow = [StreamName(*row) for row in server.rows(subject.session, _NARROW, (name,))]
    if narrow:
        yield Finding(
            f"Nobody can UPDATE or DELETE in {listed(narrow)}: the column lists of the publication {name} lack columns "
            "of their replica identity.",
            "Add them.",
            is_warning=True,
        )


def _is_owned(subject: Subject, table: Table) -> bool:
    return table.oid in subject.owned


def _only(names: Sequence[StreamName]) -> Composable:
    return SQL(", ONLY ").join(sql.table(name.namespace or "", name.name) for name in names)
