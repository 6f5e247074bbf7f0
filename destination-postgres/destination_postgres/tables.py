"""Schemas, tables and indexes on the server: look first, create what is missing, refuse what is not ours."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from psycopg2 import errors, sql
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import ConfigError, StreamName
from airbyte_pg.sql import text
from destination_postgres import sqlgen
from destination_postgres.columns import FINAL_META_TYPES, RAW_TYPES, Kind
from destination_postgres.naming import META_COLUMNS
from destination_postgres.sqlgen import Table

_SCHEMA_EXISTS = "select exists (select from pg_namespace where nspname = %s)"

_INDEX_EXISTS = """\
select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s and c.relkind = 'i')"""

_RELATION = """\
select c.oid, c.relkind, exists (select from pg_inherits where inhparent = c.oid)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s"""

# Its name is that of a table's row type as well. The server renames arrays' types itself.
_TYPE_EXISTS = """\
select exists (select from pg_type t join pg_namespace n on n.oid = t.typnamespace
where n.nspname = %s and t.typname = %s and t.typrelid = 0 and t.typcategory <> 'A')"""

_COLUMNS = """\
select attname, format_type(atttypid, null), format_type(atttypid, atttypmod)
from pg_attribute where attrelid = %s and attnum > 0 and not attisdropped order by attnum"""

# A rule of a view is the view. Of what goes with a column by itself (indexes, constraints, statistics, generated
# columns, privileges) our own indexes are nobody else's, and a column's own default and NOT NULL are of it.
_DEPENDENTS = """\
select distinct
  case d.classid when 'pg_rewrite'::regclass
    then (select r.ev_class::regclass::text from pg_rewrite r where r.oid = d.objid)
    else pg_describe_object(d.classid, d.objid, d.objsubid) end,
  a.attname::text
from pg_depend d join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
where d.refclassid = 'pg_class'::regclass and d.refobjid = %(oid)s and a.attname::text = any(%(columns)s)
  and (d.deptype = 'n' or (d.deptype = 'a' and a.attname::text = any(%(kept)s)
    and not exists (select from pg_class x where d.classid = 'pg_class'::regclass and x.oid = d.objid
      and left(x.relname, 12) = '_airbyte_pg_')
    and not exists (select from pg_constraint k where d.classid = 'pg_constraint'::regclass and k.oid = d.objid
      and k.contype = 'n')
    and not exists (select from pg_attrdef f where d.classid = 'pg_attrdef'::regclass and f.oid = d.objid
      and f.adrelid = a.attrelid and f.adnum = a.attnum)))
union all
select 'privileges on the column', a.attname::text from pg_attribute a
where a.attrelid = %(oid)s and a.attname::text = any(%(kept)s) and a.attacl is not null
order by 1, 2"""

_COLUMN_COMMENTS = """\
select a.attname::text, col_description(a.attrelid, a.attnum) from pg_attribute a
where a.attrelid = %s and a.attname::text = any(%s) and col_description(a.attrelid, a.attnum) is not null"""

_HAS_RULES = """\
select c.relhasrules or c.relhastriggers from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s"""

# ON DELETE CASCADE, SET NULL, SET DEFAULT.
_CASCADES = """\
select k.conname::text, format('%%I.%%I', m.nspname, r.relname)
from pg_constraint k join pg_class c on c.oid = k.confrelid join pg_namespace n on n.oid = c.relnamespace
join pg_class r on r.oid = k.conrelid join pg_namespace m on m.oid = r.relnamespace
where k.contype = 'f' and k.confdeltype in ('c', 'n', 'd') and n.nspname = %s and c.relname = %s order by 1, 2"""

# Rows are found by their place in one table (mergesql.py), so a partitioned one would not do; a view even less.
_ORDINARY_TABLE = "r"

_OWN_COLUMNS = frozenset({*RAW_TYPES, *FINAL_META_TYPES})


def ensure_schema(cursor: Cursor, schema: str) -> None:
    """Create ``schema`` if it is missing. IF NOT EXISTS would ask for the right to create even where it is there."""
    cursor.execute(_SCHEMA_EXISTS, (schema,))
    if not _fetched(cursor)[0]:
        cursor.execute(sqlgen.create_schema(schema))


def ensure_table(
    cursor: Cursor,
    table: Table,
    types: Mapping[str, str],
    *,
    required: Iterable[str] = (),
    stream: StreamName,
    is_inner: bool = False,
) -> None:
    """Create ``table`` with these columns, or see that it has them, in any order; the user's may be among them.

    ``is_inner``: it is one of the connector's own, and rows of it are deleted; see ``create_inner``.

    Raises ConfigError for a table that the connector did not make or that has other columns.
    """
    oid = _table_oid(cursor, table, stream)
    if oid is None:
        if is_inner:
            create_inner(cursor, table, types, required=required)
        else:
            cursor.execute(sqlgen.create_table(table, types, required=required))
        return
    found = _found(cursor, oid, table, types, stream)
    problems = _of_another_type(found, types, types)
    if missing := [column for column in types if column not in found]:
        problems.insert(0, f"missing: {', '.join(missing)}")
    if is_inner and (surplus := [column for column in found if column not in types]):
        problems.append(f"not in the stream: {', '.join(surplus)}")
    _expect_none(table, problems, stream)


def adaptation(
    cursor: Cursor,
    table: Table,
    types: Mapping[str, str],
    *,
    required: Iterable[str],
    former: Collection[str],
    stream: StreamName,
    cascade: bool,
    is_emptied: bool,
) -> list[sql.Composed] | None:
    """The statements that give ``table`` these columns, whatever their order; None if there is no such table.

    ``former``: columns that the stream had; those that it has no longer go. Others are the user's and stay. Columns of
    another type are made anew if the rows are gone by then (``is_emptied``). No statement writes the table anew, so old
    snapshots still see the old rows.

    Raises ConfigError for a type that has changed where there are rows, and, naming them, for objects that depend on a
    column that must go, unless they may go, too (``cascade``).
    """
    oid = _table_oid(cursor, table, stream)
    if oid is None:
        return None
    found = _found(cursor, oid, table, types, stream)
    limited = _limited(found, types)
    unlike = [column for column in types if column in found and not _serves(column, found[column], types[column])]
    surplus = [column for column in found if column not in types and column in former]
    if not is_emptied:
        if limited:
            _widen(cursor, oid, table, limited, stream)
        _expect_none(table, _of_another_type(found, types, set(unlike) - set(limited)), stream)
        unlike, limited = [], []
    going = [*unlike, *surplus]
    dependents = _dependents(cursor, oid, going, kept=set(unlike) - set(limited)) if going else []
    if dependents and not cascade:
        raise _depended_on(table, dependents, stream)
    widened = [column for column in limited if column not in {of for _, of in dependents}]
    made_anew = [column for column in unlike if column not in widened]
    not_null = set(required) if is_emptied else set()
    statements = [sqlgen.drop_column(table, column, cascade=cascade) for column in (*made_anew, *surplus)]
    if widened:
        statements.append(sqlgen.change_types(table, dict.fromkeys(widened, Kind.NUMBER.sql_type)))
    for column, sql_type in types.items():
        if column not in found or column in made_anew:
            statements.append(sqlgen.add_column(table, column, sql_type, required=column in not_null))
    if made_anew:
        cursor.execute(_COLUMN_COMMENTS, (oid, made_anew))
        statements += [sqlgen.comment(table, column, comment) for column, comment in cursor.fetchall()]
    return statements


def create_inner(cursor: Cursor, table: Table, types: Mapping[str, str], *, required: Iterable[str]) -> None:
    """Create a table of the connector's own, of which rows may be changed and deleted also where a publication is FOR
    ALL TABLES: nobody but us could give it the replica identity that this takes."""
    cursor.execute(sqlgen.create_table(table, types, required=required))
    cursor.execute(sqlgen.identify_by_all(table))


@contextlib.contextmanager
def deleting(cursor: Cursor, table: Table, stream: StreamName) -> Iterator[None]:
    """Rows of ``table`` are deleted in the body. Raises ConfigError if a publication does not let them go."""
    try:
        yield
    except (errors.ObjectNotInPrerequisiteState, errors.InvalidColumnReference) as error:
        raise ConfigError(
            f"A publication sends the deletions of {table}, which has no replica identity, or one that its row filter "
            "or column list goes beyond.",
            remedy=f"{text(sqlgen.identify_by_all(table), cursor.connection)};",
            stream=stream,
        ) from error


def delete_all(cursor: Cursor, table: Table, stream: StreamName) -> None:
    """Delete every row. Raises ConfigError where a rule or a trigger keeps some."""
    cursor.execute(sqlgen.delete_all(table))
    cursor.execute(_HAS_RULES, (table.schema, table.name))
    if _fetched(cursor)[0] and is_filled(cursor, table):
        raise ConfigError(
            f"A rule or a trigger on {table} keeps its rows from being deleted.",
            remedy="Drop it, or disable it.",
            stream=stream,
        )


def expect_no_cascades(cursor: Cursor, table: Table, stream: StreamName) -> None:
    """Raise ConfigError if rows of other tables would go, or change, when rows of ``table`` are written anew."""
    cursor.execute(_CASCADES, (table.schema, table.name))
    found = [f"{name} of {owner}" for name, owner in cursor.fetchall()]
    if found:
        raise ConfigError(
            f"Rows of {table} are deleted and written anew, and foreign keys would delete or change the rows that "
            f"refer to them: {', '.join(found)}.",
            remedy="Make those foreign keys ON DELETE NO ACTION, deferrable and initially deferred, or drop them.",
            stream=stream,
        )


def expect_ordinary(cursor: Cursor, table: Table, stream: StreamName) -> None:
    """Raise ConfigError if something else has the table's name."""
    _table_oid(cursor, table, stream)


def columns_of(cursor: Cursor, table: Table) -> set[str]:
    """The names of a table's columns; empty if there is none of that name."""
    return set(types_of(cursor, table))


def types_of(cursor: Cursor, table: Table) -> dict[str, str]:
    """The columns of a table, each with its type, limits included; empty if there is none of that name."""
    cursor.execute(_RELATION, (table.schema, table.name))
    row = cursor.fetchone()
    if row is None:
        return {}
    cursor.execute(_COLUMNS, (row[0],))
    return {column: exact for column, _, exact in cursor.fetchall()}


def index_exists(cursor: Cursor, table: Table, index: str) -> bool:
    """Whether there is an ``index`` in the schema of ``table``."""
    cursor.execute(_INDEX_EXISTS, (table.schema, index))
    return bool(_fetched(cursor)[0])


def is_filled(cursor: Cursor, table: Table) -> bool:
    """Whether there is a ``table`` and it has a row."""
    cursor.execute(_RELATION, (table.schema, table.name))
    if cursor.fetchone() is None:
        return False
    cursor.execute(sqlgen.is_filled(table))
    return bool(_fetched(cursor)[0])


def _table_oid(cursor: Cursor, table: Table, stream: StreamName) -> int | None:
    cursor.execute(_RELATION, (table.schema, table.name))
    row = cursor.fetchone()
    oid, kind, has_children = row or (None, None, False)
    if row is None:
        cursor.execute(_TYPE_EXISTS, (table.schema, table.name))
        if not _fetched(cursor)[0]:
            return None
    if kind != _ORDINARY_TABLE:
        raise ConfigError(f"{table} exists and is no ordinary table.", remedy="Rename it.", stream=stream)
    if has_children:
        raise ConfigError(f"The table {table} has child tables.", remedy="Rename it.", stream=stream)
    return int(oid)


def _of_another_type(
    found: Mapping[str, tuple[str, str]], wanted: Mapping[str, str], columns: Collection[str]
) -> list[str]:
    other = [
        f"{column} ({found[column][1]} instead of {sql_type})"
        for column, sql_type in wanted.items()
        if column in columns and column in found and not _serves(column, found[column], sql_type)
    ]
    return [f"of another type: {', '.join(other)}"] if other else []


def _expect_none(table: Table, problems: Sequence[str], stream: StreamName) -> None:
    if problems:
        raise ConfigError(
            f"The table {table} does not have the stream's columns: {'; '.join(problems)}.",
            remedy="Refresh the stream and remove its rows, so that the columns can be made anew.",
            stream=stream,
        )


def _found(
    cursor: Cursor, oid: int, table: Table, types: Mapping[str, str], stream: StreamName
) -> dict[str, tuple[str, str]]:
    """The columns of a table that this connector made, each with its type without and with its limits."""
    cursor.execute(_COLUMNS, (oid,))
    found = {column: (base, exact) for column, base, exact in cursor.fetchall()}
    if not any(column in found for column in META_COLUMNS) and any(column in types for column in META_COLUMNS):
        raise ConfigError(
            f"The table {table} was not made by this connector: it has no _airbyte columns.",
            remedy="Rename it, or write to another schema.",
            stream=stream,
        )
    return found


def _limited(found: Mapping[str, tuple[str, str]], wanted: Mapping[str, str]) -> list[str]:
    """The numeric columns that are to have no limits and have."""
    return [
        column
        for column, (base, exact) in found.items()
        if base == wanted.get(column) == Kind.NUMBER.sql_type and exact != base
    ]


def _widen(cursor: Cursor, oid: int, table: Table, columns: Sequence[str], stream: StreamName) -> None:
    """Take the limits off numeric columns: the server changes no row for that."""
    dependents = _dependents(cursor, oid, columns)
    try:
        cursor.execute(sqlgen.change_types(table, dict.fromkeys(columns, Kind.NUMBER.sql_type)))
    except errors.FeatureNotSupported as error:
        raise ConfigError(
            f"Numbers of {table} would be cut off, and other objects keep the columns from being widened: "
            f"{_shown(dependents)}.",
            remedy="Drop them for the time of one sync, or set unconstrained_number to false.",
            stream=stream,
        ) from error


def _dependents(cursor: Cursor, oid: int, columns: Sequence[str], kept: Collection[str] = ()) -> list[tuple[str, str]]:
    """What would keep these columns of a table from being dropped, each with the column.

    ``kept``: columns that are there again afterwards, so that what would silently go with them counts as well.
    """
    # Names are shown with their schema, where that is not on the path.
    cursor.execute("select current_setting('search_path'), set_config('search_path', 'pg_catalog', true)")
    path, _ = _fetched(cursor)
    cursor.execute(_DEPENDENTS, {"oid": oid, "columns": list(columns), "kept": list(kept)})
    found = cursor.fetchall()
    cursor.execute("select set_config('search_path', %s, true)", (path,))
    return found


def expect_no_dependents(
    cursor: Cursor, table: Table, columns: Collection[str], stream: StreamName, *, kept: Collection[str]
) -> None:
    """Raise ConfigError, naming them, if objects depend on columns of ``table`` that go; ``kept``: see _dependents."""
    oid = _table_oid(cursor, table, stream)
    if oid is not None and columns and (found := _dependents(cursor, oid, list(columns), kept=kept)):
        raise _depended_on(table, found, stream)


def comments(cursor: Cursor, table: Table, columns: Collection[str], stream: StreamName) -> list[tuple[str, str]]:
    """The comments on columns."""
    cursor.execute(_COLUMN_COMMENTS, (_table_oid(cursor, table, stream), list(columns)))
    return cursor.fetchall()


def _depended_on(table: Table, dependents: Sequence[tuple[str, str]], stream: StreamName) -> ConfigError:
    return ConfigError(
        f"Columns of {table} must be made anew or removed, and other objects depend on them: {_shown(dependents)}.",
        remedy="Drop those objects, or let the connector do so (drop_cascade).",
        stream=stream,
    )


def _shown(dependents: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{dependent} ({column})" for dependent, column in dependents)


def _serves(column: str, found: tuple[str, str], wanted: str) -> bool:
    # Our own columns may have another length (3.x: none); the user's must be able to hold every value.
    base, exact = found
    return base == wanted.partition("(")[0] if column in _OWN_COLUMNS else exact == wanted


def _fetched(cursor: Cursor) -> tuple[object, ...]:
    row = cursor.fetchone()
    if row is None:
        raise LookupError("a query that always has a row has none")
    return row
