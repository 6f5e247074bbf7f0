"""What version 1 of Airbyte's connector left: its raw tables become raw tables of today. Facts: reference 3.10."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg2.extensions import cursor as Cursor

from destination_postgres import sqlgen
from destination_postgres.naming import IDENTIFIER_LIMIT, sanitise
from destination_postgres.sqlgen import Table
from destination_postgres.streams import StreamPlan
from destination_postgres.tables import columns_of

_COLUMNS = {"_airbyte_ab_id", "_airbyte_data", "_airbyte_emitted_at"}


def of_version_1(cursor: Cursor, plan: StreamPlan) -> Table | None:
    """The raw table that version 1 has made for the stream, if there is one."""
    return next((table for table in _candidates(plan) if columns_of(cursor, table) == _COLUMNS), None)


def migrate(cursor: Cursor, table: Table, raw: Table) -> None:
    """Copy the rows of version 1's ``table``, which is left alone, into ``raw``: not typed yet."""
    cursor.execute(sqlgen.from_version_1(raw, table))


def _candidates(plan: StreamPlan) -> Iterator[Table]:
    # Its names went unquoted, so the server lower-cased and cut them; 2.0.5 says that some versions kept the case.
    for schema in dict.fromkeys((plan.visible.final.schema, plan.visible.final.schema.lower())):
        name = f"_airbyte_raw_{sanitise(plan.id.name)}"[:IDENTIFIER_LIMIT]
        for spelling in dict.fromkeys((name.lower(), name)):
            yield Table(schema, spelling)
