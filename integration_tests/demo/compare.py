"""Whether two servers hold the same rows: each row rendered by its server in one canonical way, compared in SQL."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

from integration_tests.support.databases import Database

# The same session settings on both sides, so that equal values are equal texts.
_SETTINGS = "-c timezone=UTC -c datestyle=ISO -c extra_float_digits=3 -c bytea_output=hex"

# Source column -> how its value is rendered there, and from what the final table holds. Airbyte maps uuid, enum and
# json to strings and arrays to json; numeric loses no digit, so it is compared by value, not by trailing zeros.
_PLAIN = ("{0}::text", "{0}::text")
_NUMERIC = ("trim_scale({0})::text", "trim_scale({0})::text")
_JSON = ("{0}::jsonb::text", "{0}::jsonb::text")
_ARRAY = ("to_jsonb({0})::text", "{0}::text")
_UUID = ("{0}::text", "{0}::uuid::text")
_RENDERINGS = {"numeric": _NUMERIC, "jsonb": _JSON, "json": _JSON, "uuid": _UUID}


@dataclass(frozen=True)
class Comparison:
    """One table: rows on both sides, and rows of either side that have no equal on the other."""

    table: str
    source_rows: int
    final_rows: int
    missing: int
    unexpected: int

    @property
    def differing(self) -> int:
        return self.missing + self.unexpected


def compare(source: Database, destination: Database, table: str) -> Comparison:
    """Compare ``public.table`` on both servers, in both directions, duplicates included."""
    expected, found = _queries(source, table)
    with tempfile.TemporaryFile() as rows:
        with source.connect(options=_SETTINGS) as session, session.cursor() as cursor:
            cursor.copy_expert(f"copy ({expected}) to stdout", rows)
        session.close()
        rows.seek(0)
        with destination.connect(options=_SETTINGS) as session, session.cursor() as cursor:
            cursor.execute("create temporary table expected (row text)")
            cursor.copy_expert("copy expected from stdin", rows)
            cursor.execute(f"create temporary table found as {found}")
            counts: list[int] = []
            for query in (
                "expected",
                "found",
                "(table expected except all table found) x",
                "(table found except all table expected) x",
            ):
                cursor.execute(f"select count(*) from {query}")
                counts += cursor.fetchone() or ()
        session.close()
    return Comparison(table, *counts)


def _queries(source: Database, table: str) -> tuple[str, str]:
    columns = source.rows(
        "select quote_ident(attname), format_type(atttypid, null) from pg_attribute"
        " where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
        f"public.{table}",
    )
    sides = []
    for side in (0, 1):
        rendered = ", ".join(_rendering(kind)[side].format(column) for column, kind in columns)
        sides.append(f"select md5(row({rendered})::text) as row from public.{table}")
    return sides[0], sides[1]


def _rendering(kind: str) -> tuple[str, str]:
    return _ARRAY if kind.endswith("[]") else _RENDERINGS.get(kind, _PLAIN)
