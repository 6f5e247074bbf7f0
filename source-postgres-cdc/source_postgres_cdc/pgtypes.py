"""ONE table: PostgreSQL type -> JSON schema and kind of value (reference/source.md section 3).

Whatever is not named here is sent as the text that PostgreSQL prints, with schema string.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from source_postgres_cdc.core.plan import PlanColumn
from source_postgres_cdc.core.values import Kind

JsonSchema = dict[str, Any]

STRING: JsonSchema = {"type": "string"}
BOOLEAN: JsonSchema = {"type": "boolean"}
INTEGER: JsonSchema = {"type": "number", "airbyte_type": "integer"}
NUMBER: JsonSchema = {"type": "number"}
DATE: JsonSchema = {"type": "string", "format": "date"}


def _timed(format_: str, airbyte_type: str) -> JsonSchema:
    return {"type": "string", "format": format_, "airbyte_type": airbyte_type}


# Type OIDs are fixed for built-in types (src/include/catalog/pg_type.dat).
NUMERIC_OID = 1700
BUILTIN: Mapping[int, tuple[JsonSchema, Kind]] = {
    16: (BOOLEAN, Kind.BOOLEAN),  # boolean
    20: (INTEGER, Kind.INTEGER),  # bigint
    21: (INTEGER, Kind.INTEGER),  # smallint
    23: (INTEGER, Kind.INTEGER),  # integer
    26: (INTEGER, Kind.INTEGER),  # oid
    700: (NUMBER, Kind.DECIMAL),  # real
    701: (NUMBER, Kind.DECIMAL),  # double precision
    790: (NUMBER, Kind.MONEY),  # money
    NUMERIC_OID: (NUMBER, Kind.DECIMAL),
    1082: (DATE, Kind.PLAIN),  # date
    1083: (_timed("time", "time_without_timezone"), Kind.PLAIN),  # time
    1266: (_timed("time", "time_with_timezone"), Kind.TIMETZ),  # timetz
    1114: (_timed("date-time", "timestamp_without_timezone"), Kind.TIMESTAMP),  # timestamp
    1184: (_timed("date-time", "timestamp_with_timezone"), Kind.TIMESTAMPTZ),  # timestamptz
}


@dataclass(frozen=True)
class PgType:
    """A type as pg_type describes it; ``element`` of a true array, ``base`` of a domain."""

    oid: int
    name: str
    base: int = 0
    base_typmod: int = -1
    element: int = 0
    delimiter: str = ","


class Types:
    """The types of a database that are in use, by OID."""

    def __init__(self, types: Mapping[int, PgType]) -> None:
        self._types = types

    def resolved(self, oid: int, typmod: int) -> tuple[int, int]:
        """A type without its domains: the base type's OID and type modifier."""
        while (found := self._types.get(oid)) is not None and found.base:
            oid, typmod = found.base, (found.base_typmod if found.base_typmod >= 0 else typmod)
        return oid, typmod

    def schema(self, oid: int, typmod: int) -> JsonSchema:
        """The JSON schema of a column of this type."""
        oid, typmod = self.resolved(oid, typmod)
        element = self._element(oid)
        if element:
            inner, _ = self.resolved(element, -1)
            return {"type": "array", "items": BUILTIN.get(inner, (STRING, Kind.TEXT))[0]}
        if oid == NUMERIC_OID and _is_whole(typmod):
            return INTEGER
        return BUILTIN.get(oid, (STRING, Kind.TEXT))[0]

    def plan_column(self, field: str | None, oid: int, *, is_key: bool = False) -> PlanColumn:
        """How a column of this type is rendered."""
        oid, _ = self.resolved(oid, -1)
        element = self._element(oid)
        if element:
            inner, _ = self.resolved(element, -1)
            kind = BUILTIN.get(inner, (STRING, Kind.TEXT))[1]
            # An array of a domain over an array: its elements are array texts, sent as such.
            return PlanColumn(field, Kind.ARRAY, kind, self._types[element].delimiter, is_key)
        return PlanColumn(field, BUILTIN.get(oid, (STRING, Kind.TEXT))[1], is_key=is_key)

    def _element(self, oid: int) -> int:
        found = self._types.get(oid)
        return found.element if found else 0


def _is_whole(typmod: int) -> bool:
    # numeric(p, s) keeps (p << 16 | s) + 4 in its type modifier; s has 11 bits with sign since 15.
    return typmod >= 4 and (typmod - 4) & 0x7FF == 0
