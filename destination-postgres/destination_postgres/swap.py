"""A table that was built aside takes the place of the visible one, where nobody can tell it from a change of its rows.

Renaming moves no row and leaves no dead ones, but it is not the same table that readers then find. So it is done only
where nothing of the user's is on the old one (views, grants, comments, indexes, publications …), nobody has it open,
and no snapshot is so old that it would find the new table empty (PostgreSQL documentation, MVCC Caveats). Whoever
calls this exchanges the rows otherwise, by DELETE and INSERT … SELECT: that spares all of it.
"""

from __future__ import annotations

from typing import Any

from psycopg2 import errors
from psycopg2.extensions import cursor as Cursor

from destination_postgres import sqlgen
from destination_postgres.sqlgen import Table

_PUBLICATION_VERSION = 100_000
_SCHEMA_PUBLICATION_VERSION = 150_000

_OIDS = """\
select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = %s and c.relname = %s"""

# What two tables must have in common. Whether a row type is of a table's columns in the same order counts, too: readers
# may rely on it.
_FORM = """\
select c.relkind, c.relowner, c.relacl::text, c.reltablespace, c.relam, c.relpersistence, c.reloptions, t.reloptions,
  c.relrowsecurity, c.relforcerowsecurity, c.reloftype,
  array(select row(a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attcollation, a.attstorage, a.attstattarget,
      a.attoptions, a.attacl, to_jsonb(a) ->> 'attcompression')::text
    from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum)
from pg_class c left join pg_class t on t.oid = c.reltoastrelid where c.oid = %s"""

# Whether there is anything on a table but its row type, its TOAST table, our indexes as we made them and, since 18,
# constraints that say NOT NULL. Views, constraints, defaults, triggers, rules, policies, statistics and publications
# are dependents.
_TOUCHED = """\
with c as (
  select c.oid as id, c.relreplident, c.relnamespace, c.reltoastrelid, c.reltype, t.typarray, array(
    select i.indexrelid from pg_index i join pg_class x on x.oid = i.indexrelid
    where i.indrelid = c.oid and not i.indisunique and not i.indisclustered and x.reloptions is null
      and left(x.relname, 12) = '_airbyte_pg_') as own
  from pg_class c join pg_type t on t.oid = c.reltype where c.oid = %(oid)s
)
select c.relreplident <> 'd'
  or not has_schema_privilege(c.relnamespace, 'create')
  or exists (
    select from pg_depend d
    where d.refclassid = 'pg_class'::regclass and d.refobjid = c.id
      and (d.classid, d.deptype) <> ('pg_type'::regclass, 'i')
      and not (d.classid = 'pg_class'::regclass and (d.objid = c.reltoastrelid or d.objid = any(c.own)))
      and not (d.classid = 'pg_constraint'::regclass
        and exists (
          select from pg_constraint k
          where k.oid = d.objid and k.contype = 'n' and right(k.conname, 9) = '_not_null'
            and obj_description(k.oid, 'pg_constraint') is null)))
  or exists (
    select from pg_depend d
    where d.refclassid = 'pg_type'::regclass and d.refobjid in (c.reltype, c.typarray)
      and (d.classid, d.deptype) <> ('pg_type'::regclass, 'i'))
  or exists (
    select from pg_description d
    where d.classoid = 'pg_class'::regclass and (d.objoid = c.id or d.objoid = any(c.own)))
  or exists (select from pg_seclabel l where l.classoid = 'pg_class'::regclass and l.objoid = c.id)
  or exists (select from pg_inherits i where c.id in (i.inhrelid, i.inhparent))
  or exists (select from pg_replication_slots s where s.slot_type = 'logical' and s.database = current_database())
from c"""

# Asked before the lock is: one that is refused would be an error in the server's log.
_IN_USE = """\
select exists (
  select from pg_locks
  where locktype = 'relation' and relation = %s and pid <> pg_backend_pid()
    and database = (select oid from pg_database where datname = current_database()))"""

_ALL_PUBLISHED = """\
select exists (select from pg_publication where puballtables)
  or exists (select from pg_subscription_rel where srrelid = %s)"""
_SCHEMA_PUBLISHED = """\
select exists (select from pg_publication_namespace p join pg_namespace n on n.oid = p.pnnspid where n.nspname = %s)"""

_NEXT_XID = "select (txid_snapshot_xmax(txid_current_snapshot()) % 4294967296)::text"

# Everybody may see backend_xmin. Those without a database answer for a standby; of a standby that says nothing
# (hot_standby_feedback off) nobody knows. An autovacuum worker has a snapshot, and reads nothing for anybody.
_OLD_SNAPSHOTS = """\
select exists (
    select from pg_stat_activity a
    where a.pid <> pg_backend_pid() and (a.datname = current_database() or a.datname is null)
      and a.backend_xmin is not null and age(a.backend_xmin) > age(%(horizon)s::xid)
      and coalesce(to_jsonb(a) ->> 'backend_type', '') <> 'autovacuum worker')
  or exists (
    select from pg_replication_slots s where s.xmin is not null and age(s.xmin) > age(%(horizon)s::xid))
  or exists (
    select from pg_stat_get_wal_senders() w left join pg_stat_activity a on a.pid = w.pid
    where a.backend_xmin is null
      and not exists (
        select from pg_replication_slots s
        where s.active_pid = w.pid and (s.xmin is not null or s.slot_type = 'logical')))"""


def horizon(cursor: Cursor) -> str:
    """A transaction id that every snapshot is behind which does not see all that has been committed until now."""
    cursor.execute(_NEXT_XID)
    return str(_first(cursor))


def is_plain(cursor: Cursor, new: Table, old: Table) -> bool:
    """Whether ``new`` is like ``old``, on which there is nothing that would have to be made anew."""
    oid = _oid(cursor, old)
    if oid is None or _form(cursor, oid) != _form(cursor, _oid(cursor, new)):
        return False
    cursor.execute(_TOUCHED, {"oid": oid})
    return not _first(cursor) and not _is_replicated(cursor, oid, old)


def begin_rename(cursor: Cursor, new: Table, old: Table, *, horizon: str) -> bool:
    """Lock ``old`` if ``new`` can take its place by its name; False, at once, if rows must be exchanged instead.

    ``horizon`` was taken behind the last commit of rows of ``new``.
    """
    if not is_plain(cursor, new, old):
        return False
    cursor.execute(_IN_USE, (_oid(cursor, old),))
    if _first(cursor):
        return False
    # Never waiting: those who come to read would have to wait behind us.
    cursor.execute("savepoint swap")
    try:
        cursor.execute(sqlgen.lock_alone(old))
    except errors.LockNotAvailable:
        cursor.execute("rollback to savepoint swap")
        return False
    cursor.execute("release savepoint swap")
    # Somebody may have been quicker than the lock.
    if not is_plain(cursor, new, old):
        return False
    cursor.execute(_OLD_SNAPSHOTS, {"horizon": horizon})
    return not _first(cursor)


def rename(cursor: Cursor, new: Table, old: Table) -> None:
    """Drop ``old``, if there is one, and give ``new`` its schema and name."""
    cursor.execute(sqlgen.drop_tables([old]))
    moved = Table(old.schema, new.name)
    if new.schema != old.schema:
        cursor.execute(sqlgen.change_schema(new, old.schema))
    cursor.execute(sqlgen.rename_table(moved, old.name))


def _is_replicated(cursor: Cursor, oid: int, table: Table) -> bool:
    version = cursor.connection.server_version
    if version < _PUBLICATION_VERSION:
        return False
    cursor.execute(_ALL_PUBLISHED, (oid,))
    if _first(cursor):
        return True
    if version < _SCHEMA_PUBLICATION_VERSION:
        return False
    cursor.execute(_SCHEMA_PUBLISHED, (table.schema,))
    return bool(_first(cursor))


def _form(cursor: Cursor, oid: int | None) -> tuple[Any, ...] | None:
    cursor.execute(_FORM, (oid,))
    return cursor.fetchone()


def _oid(cursor: Cursor, table: Table) -> int | None:
    cursor.execute(_OIDS, (table.schema, table.name))
    row = cursor.fetchone()
    return None if row is None else int(row[0])


def _first(cursor: Cursor) -> Any:
    return (cursor.fetchone() or [None])[0]
