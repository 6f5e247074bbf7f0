"""The catalogue: tables with their columns, keys and publication membership, in a few queries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from airbyte_pg.connect import Connection
from airbyte_pg.errors import StreamName
from source_postgres_cdc import server
from source_postgres_cdc.pgtypes import PgType, Rendering, Types
from source_postgres_cdc.selection import Selection


class Column(msgspec.Struct, frozen=True):
    """A column with its type as the catalogue names it, whether the user may read it, and its number in the table."""

    name: str
    type_oid: int
    typmod: int
    is_generated: bool
    is_readable: bool
    number: int


class Membership(msgspec.Struct, frozen=True):
    """A table in the publication: the columns that it sends (None: all) and its row filter as SQL (None: none).

    ``oid`` tells one membership from another: a table that left the publication and came back has a new one.
    """

    oid: int
    columns: frozenset[str] | None
    row_filter: str | None

    def sends(self, column: Column) -> bool:
        """Whether changes hold ``column``; generated ones where they are named (18 and later)."""
        return not column.is_generated if self.columns is None else column.name in self.columns

    def identifies(self, table: Table) -> bool:
        """Whether changes hold the key of ``table``."""
        return self.columns is None or self.columns.issuperset(table.key)


class Lookup(msgspec.Struct, frozen=True):
    """How a key column is compared with a literal: by the operator of its index, as values of the base type of its
    domain, if it is of one. ``type`` and ``operator`` are SQL."""

    type: str
    is_domain: bool
    operator_schema: str
    operator: str


class Leaf(msgspec.Struct, frozen=True):
    """A partition with rows of its own, at whatever depth below a partitioned table."""

    oid: int
    schema: str
    name: str


class Table(msgspec.Struct, frozen=True):
    """A relation that can be read. ``kind`` is pg_class.relkind, ``identity`` relreplident.

    ``columns`` are those that the user may read, ``unreadable`` the names of the others. ``has_key``: there is a
    primary key, or an index chosen as replica identity, fit to tell rows apart (then it is ``key``) or not.
    ``is_open``: the user may read the table as such, not only columns of it. ``is_populated``: a materialised view has
    been filled. ``leaves``: of a partitioned table, by OID; ``has_open_leaves``: the user may read each by itself.
    """

    oid: int
    id: StreamName
    kind: str
    identity: str
    is_permanent: bool
    estimated_rows: int
    size: int
    is_open: bool
    is_populated: bool
    columns: tuple[Column, ...]
    unreadable: frozenset[str]
    key: tuple[str, ...]
    lookups: tuple[Lookup, ...]
    has_key: bool
    is_identifiable: bool
    leaves: tuple[Leaf, ...] = ()
    has_open_leaves: bool = False

    @property
    def schema(self) -> str:
        """Name of its schema."""
        return self.id.namespace or ""

    @property
    def name(self) -> str:
        """Its own name."""
        return self.id.name

    @property
    def can_be_followed(self) -> bool:
        """Whether its changes can be read by key: a permanent table, or all partitions of one, with a fit identity.

        Without a usable identity, publishing it would make its UPDATE and DELETE fail in the user's application.
        """
        return self.kind in "rp" and self.is_permanent and bool(self.key) and self.is_identifiable


_TABLES = """
select c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relreplident::text, c.relpersistence = 'p',
       greatest(c.reltuples, 0)::bigint, c.relpages::bigint * 8192, has_table_privilege(c.oid, 'select'),
       c.relispopulated, c.relnatts,
       has_schema_privilege(n.oid, 'usage') and has_any_column_privilege(c.oid, 'select')
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f')
  and c.relpersistence <> 't'
  and n.nspname not in ('information_schema', 'pg_catalog', 'pg_internal', 'catalog_history')
  and n.nspname !~ '^pg_(toast|temp)'
  and c.relname not in ('pg_stat_statements', 'pg_stat_statements_info', 'pg_buffercache')
  and (%(schemas)s::text[] = '{}' or n.nspname = any (%(schemas)s::text[]))
order by n.nspname, c.relname
"""

_COLUMNS = """
select a.attrelid::bigint, a.attname, a.atttypid::bigint, a.atttypmod, {is_generated},
       has_column_privilege(a.attrelid, a.attnum, 'select'), a.attnum
from pg_attribute a
where a.attrelid = any (%(oids)s::oid[]) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum
"""

# The key is the primary one, or the index that was chosen as the replica identity: deletes have nothing else.
# A deferrable key is no key: it streams orders that delete live rows (design section 3). Its columns are compared by
# the operator that its index has for equality (strategy 3 of a B-tree); other indexes have none outside pg_catalog.
_KEYS = """
select i.indrelid::bigint, i.indimmediate and i.indisvalid, a.attname::text, format_type(base.oid, -1),
       base.oid <> a.atttypid,
       coalesce(n.nspname, 'pg_catalog'), coalesce(o.oprname, '=')
from pg_index i
cross join lateral unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality k (attnum, opclass, place)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
cross join lateral (
    with recursive chain (oid, depth) as (
        select a.atttypid, 0
        union all
        select t.typbasetype, depth + 1 from chain join pg_type t on t.oid = chain.oid where t.typbasetype <> 0
    )
    select oid from chain order by depth desc limit 1
) base
left join pg_opclass c on c.oid = k.opclass and c.opcmethod = (select oid from pg_am where amname = 'btree')
left join pg_amop m on m.amopfamily = c.opcfamily and m.amopstrategy = 3
  and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype
left join pg_operator o on o.oid = m.amopopr
left join pg_namespace n on n.oid = o.oprnamespace
join pg_class r on r.oid = i.indrelid
where i.indrelid = any (%(oids)s::oid[]) and k.place <= {key_size}
  and case when r.relreplident = 'i' and r.relkind = 'r' then i.indisreplident else i.indisprimary end
order by i.indrelid, k.place
"""

# A root is published in the name of its leaves (or the other way round) since 13.
_LEAVES_VERSION = 130000
_LEAVES = """
select root.oid::bigint, c.oid::bigint, n.nspname, c.relname,
       c.relkind = 'r' and c.relpersistence = 'p', c.relreplident::text, has_table_privilege(c.oid, 'select')
from unnest(%(oids)s::oid[]) root (oid)
cross join lateral pg_partition_tree(root.oid) t
join pg_class c on c.oid = t.relid
join pg_namespace n on n.oid = c.relnamespace
where t.isleaf and c.relkind <> 'p'
order by root.oid, c.oid
"""

_TYPES = """
select t.oid::bigint, t.typname, t.typbasetype::bigint, t.typtypmod,
       case when exists (select from pg_type e where e.oid = t.typelem and e.typarray = t.oid)
            then t.typelem::bigint else 0 end,
       t.typdelim::text,
       (select e.extname from pg_depend d join pg_extension e on e.oid = d.refobjid
        where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.refclassid = 'pg_extension'::regclass
          and d.deptype = 'e')
from pg_type t where t.oid = any (%(oids)s::oid[])
"""

# A member by FOR ALL TABLES or by its schema has no entry of its own: there the publication's OID stands.
_MEMBERS = """
select t.schemaname, t.tablename, coalesce(r.oid, p.oid)::bigint, {sent}
from pg_publication_tables t
join pg_publication p on p.pubname = t.pubname
join pg_namespace n on n.nspname = t.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = c.oid
where t.pubname = %(publication)s
"""
_SENT = "null::text[], null::text"
_SENT_15 = "t.attnames::text[], t.rowfilter"


# Of a publication that sends partitions by their own names: partitioned tables that are in it, or below one that is.
_ROOTS = """
select n.nspname, c.relname, coalesce(r.oid, p.oid)::bigint
from pg_publication p
join pg_class c on c.relkind = 'p'
join pg_namespace n on n.oid = c.relnamespace
left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid in (select relid from pg_partition_ancestors(c.oid))
where p.pubname = %(publication)s and not p.pubviaroot and (p.puballtables or r.oid is not null{in_schema})
order by r.oid
"""
_IN_SCHEMA_15 = """
  or exists (
    select from pg_publication_namespace s join pg_class a on a.relnamespace = s.pnnspid
    where s.pnpubid = p.oid and a.oid in (select relid from pg_partition_ancestors(c.oid)))"""


def load(session: Connection, selected: Selection) -> list[Table]:
    """Every selected relation that the user may read."""
    heads = [head for *head, is_readable in _relations(session, selected) if is_readable]
    oids = {"oids": [head[0] for head in heads]}
    columns: dict[int, list[Column]] = {}
    # Generated columns came with 12, columns that an index only includes with 11.
    is_generated = "a.attgenerated <> ''" if session.server_version >= 120000 else "false"
    key_size = "i.indnkeyatts" if session.server_version >= 110000 else "i.indnatts"
    for oid, *column in server.rows(session, _COLUMNS.format(is_generated=is_generated), oids):
        columns.setdefault(oid, []).append(Column(*column))
    keys: dict[int, list[tuple[Any, ...]]] = {}
    for oid, *part in server.rows(session, _KEYS.format(key_size=key_size), oids):
        keys.setdefault(oid, []).append(tuple(part))
    roots = [head[0] for head in heads if head[3] == "p"]
    leaves: dict[int, list[tuple[Any, ...]]] = {}
    if roots and session.server_version >= _LEAVES_VERSION:
        for oid, *leaf in server.rows(session, _LEAVES, {"oids": roots}):
            leaves.setdefault(oid, []).append(tuple(leaf))
    tables = []
    for oid, schema, name, kind, identity, is_permanent, estimated_rows, size, is_open, is_populated, width in heads:
        every = columns.get(oid, [])
        if width and not every:
            continue  # dropped between the queries
        own = tuple(column for column in every if column.is_readable)
        parts = keys.get(oid, [])
        # A generated column is in no change before 18: it cannot tell rows apart.
        readable = {column.name for column in own if not column.is_generated}
        is_fit = bool(parts) and all(is_immediate and part in readable for is_immediate, part, *_ in parts)
        # From 18 on whole rows identify themselves only if they are published whole, generated columns included.
        has_unpublished = session.server_version >= 180000 and any(column.is_generated for column in every)
        below = leaves.get(oid, [])
        if kind == "p":
            is_fit = is_fit and session.server_version >= _LEAVES_VERSION and all(leaf[3] for leaf in below)
        # A partitioned table's rows are identified as those of its partitions are.
        identities = {leaf[4] for leaf in below} if kind == "p" else {identity}
        tables.append(
            Table(
                oid=oid,
                id=StreamName(schema, name),
                kind=kind,
                identity=identity,
                is_permanent=is_permanent,
                estimated_rows=estimated_rows,
                size=size,
                is_open=is_open,
                is_populated=is_populated,
                columns=own,
                unreadable=frozenset(column.name for column in every if not column.is_readable),
                key=tuple(part for _, part, *_ in parts) if is_fit else (),
                lookups=tuple(Lookup(*lookup) for _, _, *lookup in parts) if is_fit else (),
                has_key=bool(parts),
                is_identifiable=identities <= {"d"}
                or (identities <= {"d", "f"} and not has_unpublished)
                or (identities == {"i"} and kind == "r"),
                leaves=tuple(Leaf(*leaf[:3]) for leaf in below),
                has_open_leaves=all(leaf[5] for leaf in below),
            )
        )
    return tables


def load_hidden(session: Connection, selected: Selection) -> list[StreamName]:
    """The selected relations of which the user may not read a single column."""
    return [StreamName(head[1], head[2]) for *head, is_readable in _relations(session, selected) if not is_readable]


def partitioned_by(session: Connection, oid: int) -> list[int]:
    """The tables that the relation ``oid`` is a partition of now, at whatever depth."""
    if session.server_version < _LEAVES_VERSION:
        return []
    query = "select relid::oid::bigint from pg_partition_ancestors(%s) where relid <> %s::oid"
    return [relid for (relid,) in server.rows(session, query, (oid, oid))]


def load_types(session: Connection, oids: Iterable[int], rendering: Rendering) -> Types:
    """The types ``oids`` and those that they are made of."""
    found: dict[int, PgType] = {}
    wanted = set(oids)
    while wanted:
        rows = server.rows(session, _TYPES, {"oids": sorted(wanted)})
        found |= {row[0]: PgType(*row) for row in rows}
        wanted = {part for row in rows for part in (row[2], row[4]) if part} - found.keys()
    return Types(found, rendering)


def _relations(session: Connection, selected: Selection) -> list[tuple[Any, ...]]:
    schemas = () if selected.entries else selected.schemas
    found = server.rows(session, _TABLES, {"schemas": list(schemas)})
    return [head for head in found if selected.holds(StreamName(head[1], head[2]))]


def load_members(session: Connection, version: int, publication: str) -> dict[StreamName, Membership]:
    """The tables of a publication, by name: those that changes come from, and those whose partitions they are."""
    query = _MEMBERS.format(sent=_SENT_15 if version >= 150000 else _SENT)
    members = {}
    if version >= _LEAVES_VERSION:
        roots = _ROOTS.format(in_schema=_IN_SCHEMA_15 if version >= 150000 else "")
        for schema, name, oid in server.rows(session, roots, {"publication": publication}):
            members[StreamName(schema, name)] = Membership(oid, None, None)
    for schema, name, oid, columns, row_filter in server.rows(session, query, {"publication": publication}):
        sent = frozenset(columns) if columns is not None else None
        members[StreamName(schema, name)] = Membership(oid, sent, row_filter)
    return members
