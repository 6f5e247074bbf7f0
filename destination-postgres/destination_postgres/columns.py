"""ONE table: what a JSON schema says of a field -> the type of its column. Facts: reference 2.9 and 3.3."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from airbyte_pg.errors import ConfigError
from destination_postgres.naming import EXTRACTED_AT, GENERATION_ID, META, RAW_ID, Recorded, column_names

# PostgreSQL's limit is 1600; the four columns of our own belong to it.
COLUMN_LIMIT = 1596


class Kind(enum.Enum):
    """An Airbyte type; the value is its column's SQL type as ``format_type`` spells it."""

    STRING = "character varying"
    BOOLEAN = "boolean"
    INTEGER = "bigint"
    NUMBER = "numeric"
    # A number, in 2.x's column.
    DECIMAL = "numeric(38,9)"
    DATE = "date"
    TIME = "time without time zone"
    TIMETZ = "time with time zone"
    TIMESTAMP = "timestamp without time zone"
    TIMESTAMPTZ = "timestamp with time zone"
    # jsonb, with different rules for what fits.
    OBJECT = "jsonb object"
    ARRAY = "jsonb array"
    UNKNOWN = "jsonb"

    @property
    def sql_type(self) -> str:
        """The column's type."""
        return self.value.partition(" ")[0] if self.value.startswith("jsonb") else self.value


@dataclass(frozen=True)
class Column:
    """A column of a final table and the field of ``data`` that it takes its values from.

    ``is_union``: the schema allows several types.
    """

    field: str
    name: str
    kind: Kind
    is_union: bool = False

    def fitted(self, sql_type: str | None) -> Column:
        """The same, as a column of this type that is there already (None: it is not), if that holds every value."""
        # As 3.x makes them.
        if self.is_union and sql_type == Kind.UNKNOWN.sql_type:
            return replace(self, kind=Kind.UNKNOWN)
        if self.kind is Kind.DECIMAL and sql_type == Kind.NUMBER.sql_type:
            return replace(self, kind=Kind.NUMBER)
        return self


# Name -> SQL type of the connector's own columns, in the order in which tables are made.
FINAL_META_TYPES: Mapping[str, str] = {
    RAW_ID: "character varying(36)",
    EXTRACTED_AT: "timestamp with time zone",
    GENERATION_ID: "bigint",
    META: "jsonb",
}
RAW_TYPES: Mapping[str, str] = {
    RAW_ID: "character varying",
    "_airbyte_data": "jsonb",
    EXTRACTED_AT: "timestamp with time zone",
    "_airbyte_loaded_at": "timestamp with time zone",
    META: "jsonb",
    GENERATION_ID: "bigint",
}

# Of a union the first of these that it contains decides the column, as in 2.x.
_UNION_ORDER = (
    Kind.ARRAY,
    Kind.OBJECT,
    Kind.STRING,
    Kind.DATE,
    Kind.TIME,
    Kind.TIMETZ,
    Kind.TIMESTAMP,
    Kind.TIMESTAMPTZ,
    Kind.NUMBER,
    Kind.INTEGER,
    Kind.BOOLEAN,
    Kind.UNKNOWN,
)


def columns_of(
    properties: Mapping[str, Any], *, number: Kind = Kind.NUMBER, before: Recorded | None = None
) -> tuple[Column, ...]:
    """The columns of a stream with these JSON schema properties, in their order; ``number``: what numbers become.

    ``before``: the names of earlier syncs.

    Raises ConfigError.
    """
    if len(properties) > COLUMN_LIMIT:
        raise ConfigError(
            f"The stream has {len(properties)} columns; a table can have {COLUMN_LIMIT}.", remedy="Deselect some."
        )
    names = column_names([*properties], before)
    kinds = ((kind_of(schema), _is_union(schema)) for schema in properties.values())
    return tuple(
        Column(field, name, number if kind is Kind.NUMBER else kind, is_union)
        for field, name, (kind, is_union) in zip(properties, names, kinds, strict=True)
    )


def kind_of(schema: object) -> Kind:
    """The Airbyte type that a property's JSON schema stands for; whatever is not understood is UNKNOWN (jsonb)."""
    if not isinstance(schema, Mapping):
        return Kind.UNKNOWN
    named = schema.get("type")
    if named is None:
        # A oneOf may be anything, also where it shares some properties.
        is_object = schema.get("properties") is not None and schema.get("oneOf") is None
        return Kind.OBJECT if is_object else Kind.UNKNOWN
    if isinstance(named, list):
        kinds = {_kind_of_one(one, schema) for one in named if one != "null" and isinstance(one, str)}
        return next((kind for kind in _UNION_ORDER if kind in kinds), Kind.UNKNOWN)
    return _kind_of_one(named, schema)


def _is_union(schema: object) -> bool:
    named = schema.get("type") if isinstance(schema, Mapping) else None
    return isinstance(named, list) and len([one for one in named if one != "null"]) > 1


def _kind_of_one(named: object, schema: Mapping[str, Any]) -> Kind:
    airbyte_type = schema.get("airbyte_type")
    if named == "string":
        return _kind_of_string(schema.get("format"), airbyte_type)
    if named == "number":
        return Kind.INTEGER if airbyte_type == "integer" else Kind.NUMBER
    simple = {"integer": Kind.INTEGER, "boolean": Kind.BOOLEAN, "object": Kind.OBJECT, "array": Kind.ARRAY}
    return simple.get(named, Kind.UNKNOWN) if isinstance(named, str) else Kind.UNKNOWN


def _kind_of_string(text_format: object, airbyte_type: object) -> Kind:
    if text_format == "date":
        return Kind.DATE
    if text_format == "date-time":
        return Kind.TIMESTAMP if airbyte_type == "timestamp_without_timezone" else Kind.TIMESTAMPTZ
    if text_format == "time":
        return Kind.TIME if airbyte_type == "time_without_timezone" else Kind.TIMETZ
    return Kind.STRING
