"""The index on a table's key, by which a merge finds rows; over hashes where a key is too wide for a B-tree.

A B-tree holds entries of at most 2704 bytes, compressed. Nearly every key fits, so the plain index is the rule, and
one that 2.x has made serves as well. When the server refuses a key, the index is replaced by one over hashes of those
columns whose values may be long.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from psycopg2 import errors
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import ConfigError, StreamName
from destination_postgres import sqlgen
from destination_postgres.naming import EXTRACTED_AT, helper_name
from destination_postgres.sqlgen import Dedup, Table
from destination_postgres.tables import index_exists

# Every plain index that can be used for equality: name, whether it is unique, columns.
_PLAIN_INDEXES = """\
select c.relname, i.indisunique, array(
  select a.attname::text from unnest(i.indkey::int2[]) with ordinality k(attnum, position)
  left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  order by k.position)
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
join pg_class t on t.oid = i.indrelid join pg_namespace n on n.oid = t.relnamespace
where n.nspname = %s and t.relname = %s
  and i.indisvalid and i.indpred is null and i.indexprs is null and m.amname = 'btree'"""

_OWN_PREFIX = "_airbyte_pg_"

_log = logging.getLogger(__name__)


def ensure(cursor: Cursor, table: Table, dedup: Dedup) -> None:
    """See that ``table`` has an index that leads with the first key column, then the others in any order."""
    if is_hashed(cursor, table, dedup) or any(_leads(columns, dedup) for _, _, columns in _plain(cursor, table)):
        return
    plain = sqlgen.create_index(_plain_name(table, dedup), table, dedup.key)
    if not any(dedup.hashes):
        cursor.execute(plain)
        return
    try:
        with _savepoint(cursor):
            cursor.execute(plain)
    except errors.ProgramLimitExceeded:
        _create_hashed(cursor, table, dedup)


def is_hashed(cursor: Cursor, table: Table, dedup: Dedup) -> bool:
    """Whether the key of ``table`` is to be looked up by its hashes."""
    if not any(dedup.hashes):
        return False
    return index_exists(cursor, table, _hashed_name(table, dedup))


def drop(cursor: Cursor, table: Table, dedup: Dedup) -> None:
    """Drop the connector's own index on a key that is no longer the stream's."""
    for index in (_plain_name(table, dedup), _hashed_name(table, dedup)):
        cursor.execute(sqlgen.drop_index(table, index))


def rename(cursor: Cursor, former: Table, table: Table, dedup: Dedup) -> None:
    """Give the indexes of ``table``, which was called ``former``, the names that they have by its present one."""
    for name in (_plain_name, _hashed_name):
        cursor.execute(sqlgen.rename_index(table.schema, name(former, dedup), name(table, dedup)))


def with_wide_keys(
    cursor: Cursor, tables: tuple[Table, ...], dedup: Dedup, stream: StreamName, work: Callable[[], None]
) -> None:
    """Do ``work()``, which adds rows to ``tables``; once more over hashed indexes when a key is too wide.

    Raises ConfigError when the index that does not take it is the user's.
    """
    while True:
        try:
            with _savepoint(cursor):
                work()
        except errors.ProgramLimitExceeded as error:
            # Of an entry beyond 8 kB the server does not say which index refused it.
            named = error.diag.constraint_name
            replaced = [_replace(cursor, table, dedup, named) for table in tables]
            if not any(replaced):
                raise _refusal(named, tables, stream) from error
        else:
            return


def _replace(cursor: Cursor, table: Table, dedup: Dedup, named: str | None) -> bool:
    """Replace what was made for the key, by us or by 2.x, by an index over hashes; whether there was any such index.

    ``named``: the index that is in the way, if that is known.
    """
    made = [
        index
        for index, is_unique, columns in _plain(cursor, table)
        if any(dedup.hashes) and named in (None, index) and _is_made(index, is_unique, columns, dedup)
    ]
    for index in made:
        cursor.execute(sqlgen.drop_index(table, index))
    if made:
        _create_hashed(cursor, table, dedup)
    return bool(made)


def _is_made(index: str, is_unique: bool, columns: list[str], dedup: Dedup) -> bool:
    if is_unique or not _leads(columns, dedup):
        return False
    # 2.x's own have behind the key the cursor, if there is one, and the time of extraction.
    return index.startswith(_OWN_PREFIX) or columns[-1] == EXTRACTED_AT


def _create_hashed(cursor: Cursor, table: Table, dedup: Dedup) -> None:
    _log.info("a key is too wide for a plain index, one over hashes is made: table=%s", table)
    cursor.execute(sqlgen.create_hash_index(_hashed_name(table, dedup), table, dedup.key, dedup.hashes))


def _refusal(index: str | None, tables: tuple[Table, ...], stream: StreamName) -> ConfigError:
    return ConfigError(
        f"A value is too wide for {f'the index {index}' if index else f'an index of {tables[0]}'}.",
        remedy="Drop the index, or make one over a hash of the column.",
        stream=stream,
    )


def _plain(cursor: Cursor, table: Table) -> list[tuple[str, bool, list[str]]]:
    cursor.execute(_PLAIN_INDEXES, (table.schema, table.name))
    return cursor.fetchall()


def _leads(columns: list[str], dedup: Dedup) -> bool:
    # The first one first: a survey asks for what lies above it.
    return columns[0] == dedup.key[0] and set(columns[: len(dedup.key)]) == set(dedup.key)


def _plain_name(table: Table, dedup: Dedup) -> str:
    return helper_name("key", table.schema, table.name, *dedup.key)


def _hashed_name(table: Table, dedup: Dedup) -> str:
    return helper_name("hashed_key", table.schema, table.name, *dedup.key)


@contextlib.contextmanager
def _savepoint(cursor: Cursor) -> Iterator[None]:
    """What is done in the body is undone when the server refuses it for its size, and the transaction goes on."""
    cursor.execute("savepoint narrow_keys")
    try:
        yield
    except errors.ProgramLimitExceeded:
        cursor.execute("rollback to savepoint narrow_keys")
        raise
    cursor.execute("release savepoint narrow_keys")
