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
    if found.is_of_all:
        return
    lacking = [table for table in subject.tables if table.can_be_followed and table.id not in subject.members]
    if subject.may_alter_publication:
        lacking = [table for table in lacking if not _is_owned(subject, table)]
    lacking = _outside_roots(subject, lacking)
    if lacking:
        names = [table.id for table in lacking]
        statement = SQL("ALTER PUBLICATION {} ADD TABLE ONLY {}").format(sql.name(found.name), _only(names))
        owner = _BY_OWNER if found.is_owned else "Let the owner of the publication do it, who must own the tables, too."
        yield Finding(
            f"The publication {found.name} does not hold {listed(names)}: of these there is only full_refresh.",
            f"{owner} {subject.run(statement)}",
            is_warning=True,
        )


def _outside_roots(subject: Subject, lacking: Sequence[Table]) -> list[Table]:
    """Those of ``lacking`` whose changes are not published in the name of a table that they are partitions of."""
    if subject.server.version < 130000 or not lacking:
        return list(lacking)
    query = """
        select l.oid::bigint from unnest(%s::oid[]) l (oid)
        where exists (select from pg_partition_ancestors(l.oid) a join pg_get_publication_tables(%s) t using (relid))
    """
    arguments = ([table.oid for table in lacking], subject.settings.publication)
    covered = {oid for (oid,) in server.rows(subject.session, query, arguments)}
    return [table for table in lacking if table.oid not in covered]


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
        # What is only read whole needs none.
        yield Finding(f"The publication {shown} does not exist.", subject.run(create), is_warning=not wanted)
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


# Tables in the publication that nobody can update any more (PostgreSQL documentation, CREATE PUBLICATION, "Notes"): the
# server refuses UPDATE and DELETE where it could not send them. A partition is published with its root.
_IDENTIFIED = """
with recursive published (oid) as (
    select relid from pg_get_publication_tables(%(name)s)
    union
    select i.inhrelid from published p join pg_class r on r.oid = p.oid and r.relkind = 'p'
    join pg_inherits i on i.inhparent = p.oid
), identified as (
    select c.oid, c.relreplident, n.nspname, c.relname,
           case c.relreplident
             when 'd' then (select {key} from pg_index i
                            where i.indrelid = c.oid and i.indisprimary and i.indimmediate and i.indisvalid)
             when 'i' then (select {key} from pg_index i where i.indrelid = c.oid and i.indisreplident)
             when 'f' then (select array_agg(a.attnum) from pg_attribute a
                            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
           end as identity
    from published p join pg_class c on c.oid = p.oid join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r'
)
"""
_WITHOUT_IDENTITY = (
    "select nspname, relname from identified where identity is null and relreplident <> 'f' order by 1, 2"
)
# 15 and later: a column list must have the identity, and none may be where whole rows are it; a filter must ask for
# nothing else. What a filter asks for is among what its entry depends on, as are listed columns.
_NARROW = """
select t.nspname, t.relname
from identified t join pg_publication_rel r on r.prrelid = t.oid join pg_publication p on p.oid = r.prpubid
where p.pubname = %(name)s and t.identity is not null and (
    r.prattrs is not null and (t.relreplident = 'f' or not t.identity <@ r.prattrs::int2[])
    or r.prqual is not null and exists (
      select from pg_depend d join pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
      where d.classid = 'pg_publication_rel'::regclass and d.objid = r.oid
        and d.refclassid = 'pg_class'::regclass and d.refobjid = t.oid and not a.attnum = any (t.identity)
        and (r.prattrs is null or strpos(pg_get_expr(r.prqual, r.prrelid), quote_ident(a.attname)) > 0)))
order by 1, 2
"""
# 18 and later: a generated column must not be in the identity without being published.
_GENERATED = """
select t.nspname, t.relname
from identified t cross join pg_publication p left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = t.oid
where p.pubname = %(name)s and exists (
    select from pg_attribute a
    where a.attrelid = t.oid and a.attnum = any (t.identity) and a.attgenerated <> ''
      and not case when r.prattrs is not null then a.attnum = any (r.prattrs::int2[])
                   else a.attgenerated = 's' and p.pubgencols = 's' end)
order by 1, 2
"""


_NOBODY = "Nobody can UPDATE or DELETE in"


def _broken(subject: Subject) -> Iterator[Finding]:
    name = subject.settings.publication
    # Columns that an index only includes came with 11.
    key = "(i.indkey::int2[])[0:i.indnkeyatts - 1]" if subject.server.version >= 110000 else "i.indkey::int2[]"
    identified = _IDENTIFIED.format(key=key)

    def found(query: str) -> list[StreamName]:
        return [StreamName(*row) for row in server.rows(subject.session, identified + query, {"name": name})]

    if keyless := found(_WITHOUT_IDENTITY):
        statements = [SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(relations([table])) for table in keyless]
        yield Finding(
            f"{_NOBODY} {listed(keyless)}: they are in the publication {name} and have no replica identity.",
            "Take them out, give them a primary key (not a deferrable one), or let whole rows identify themselves. "
            + subject.run(*statements),
            is_warning=True,
        )
    if subject.server.version >= 150000 and (narrow := found(_NARROW)):
        yield Finding(
            f"{_NOBODY} {listed(narrow)}: by the publication {name} they have column lists without all of their "
            "replica identity, or row filters by other columns.",
            "Complete the column lists, leave them out where the replica identity is FULL, and filter by the replica "
            "identity only.",
            is_warning=True,
        )
    if subject.server.version >= 180000 and (generated := found(_GENERATED)):
        statements = [SQL("ALTER TABLE {} REPLICA IDENTITY DEFAULT").format(relations([table])) for table in generated]
        yield Finding(
            f"{_NOBODY} {listed(generated)}: generated columns that the publication {name} does not send are part of "
            "their replica identity.",
            f"Publish them, or let the primary key identify the rows. {subject.run(*statements)}",
            is_warning=True,
        )


def _is_owned(subject: Subject, table: Table) -> bool:
    return table.oid in subject.owned


def _only(names: Sequence[StreamName]) -> Composable:
    return SQL(", ONLY ").join(sql.table(name.namespace or "", name.name) for name in names)
