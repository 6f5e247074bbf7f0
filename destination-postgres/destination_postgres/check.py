"""`check`: in every schema that write would use, try what it would do, in a transaction that is rolled back."""

from __future__ import annotations

import secrets

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from airbyte_pg.errors import ConfigError, StreamName
from airbyte_pg.sql import name, text
from destination_postgres import raw, rawrow, sqlgen
from destination_postgres.naming import raw_schema_name, schema_name
from destination_postgres.settings import DestinationSettings
from destination_postgres.sqlgen import Table
from destination_postgres.tables import ensure_schema, is_filled
from destination_postgres.transactions import trial

_ROW = [
    *(rawrow.ROW_HEAD, b"0" * 36, rawrow.data_head(3, 1), b"{}"),
    *(rawrow.moment(0), rawrow.tail(0, '{"changes":[],"sync_id":null}', 0)),
]
_PROBE = StreamName(None, "connection test")


def check_rights(connection: Connection, settings: DestinationSettings) -> None:
    """Raise ConfigError naming every right that is missing, with the SQL that grants it."""
    schemas = [*map(schema_name, settings.schema_names), raw_schema_name(settings.raw_data_schema)]
    problems: list[str] = []
    remedies: list[str] = []
    for schema in dict.fromkeys(schemas):
        with trial(connection) as cursor:
            missing = _missing_right(cursor, schema)
        if missing is not None:
            problems.append(missing[0])
            remedies.append(missing[1])
    if problems:
        raise ConfigError(" ".join(problems), remedy=" ".join(dict.fromkeys(remedies)))


def _missing_right(cursor: Cursor, schema: str) -> tuple[str, str] | None:
    """What the user may not do in ``schema``, and the remedy; None if write could work there."""
    cursor.execute("select current_user, current_database()")
    user, database = map(name, cursor.fetchone() or ("", ""))
    connection = cursor.connection
    try:
        ensure_schema(cursor, schema)
    except errors.InsufficientPrivilege:
        grant = sqlgen.grant("create", "database", database, user)
        return f"The schema {schema} does not exist and may not be created.", f"{text(grant, connection)};"
    try:
        _probe(cursor, schema)
    except errors.InsufficientPrivilege:
        grant = sqlgen.grant("usage, create", "schema", name(schema), user)
        return f"The user may not create and fill tables in the schema {schema}.", f"{text(grant, connection)};"
    return None


def _probe(cursor: Cursor, schema: str) -> None:
    table = Table(schema, f"_airbyte_connection_test_{secrets.token_hex(16)}")
    raw.ensure(cursor, table, _PROBE)
    raw.load(cursor, table, _ROW, _PROBE)
    if not is_filled(cursor, table):
        raise psycopg2.DataError("a row that was copied in is not there")
    cursor.execute(sqlgen.drop_tables([table]))
