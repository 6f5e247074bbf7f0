"""What a JSON schema says of a field -> its column (reference 2.9 and 3.3)."""

from __future__ import annotations

from typing import Any

import pytest

from airbyte_pg.errors import ConfigError
from destination_postgres.columns import _UNION_ORDER, COLUMN_LIMIT, Kind, columns_of, kind_of


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, Kind.STRING),
        ({"type": "string", "format": "email"}, Kind.STRING),
        ({"type": "string", "format": None}, Kind.STRING),
        ({"type": "string", "format": ["date"]}, Kind.STRING),
        ({"type": "string", "format": "Date"}, Kind.STRING),
        ({"type": "string", "enum": ["a", "b"]}, Kind.STRING),
        ({"type": "string", "contentEncoding": "base64"}, Kind.STRING),
        # The type says what JSON has; these airbyte_types only say how large it may be.
        ({"type": "string", "airbyte_type": "big_integer"}, Kind.STRING),
        ({"type": "string", "airbyte_type": "big_number"}, Kind.STRING),
        ({"type": "number", "airbyte_type": "big_integer"}, Kind.NUMBER),
        ({"type": "string", "airbyte_type": "binary_data"}, Kind.STRING),
        # Without its format it is text.
        ({"type": "string", "airbyte_type": "timestamp_without_timezone"}, Kind.STRING),
        ({"type": "boolean"}, Kind.BOOLEAN),
        ({"type": "integer"}, Kind.INTEGER),
        ({"type": "integer", "airbyte_type": "number"}, Kind.INTEGER),
        ({"type": "number"}, Kind.NUMBER),
        ({"type": "number", "format": "date"}, Kind.NUMBER),
        ({"type": "number", "airbyte_type": "integer"}, Kind.INTEGER),
        ({"type": "number", "airbyte_type": None}, Kind.NUMBER),
        ({"type": "string", "format": "date"}, Kind.DATE),
        ({"type": "string", "format": "date-time"}, Kind.TIMESTAMPTZ),
        ({"type": "string", "format": "date-time", "airbyte_type": "timestamp_with_timezone"}, Kind.TIMESTAMPTZ),
        ({"type": "string", "format": "date-time", "airbyte_type": "timestamp_without_timezone"}, Kind.TIMESTAMP),
        ({"type": "string", "format": "date-time", "airbyte_type": "fortnight"}, Kind.TIMESTAMPTZ),
        ({"type": "string", "format": "time"}, Kind.TIMETZ),
        ({"type": "string", "format": "time", "airbyte_type": "time_with_timezone"}, Kind.TIMETZ),
        ({"type": "string", "format": "time", "airbyte_type": "time_without_timezone"}, Kind.TIME),
        ({"type": "array"}, Kind.ARRAY),
        ({"type": "array", "items": {"type": "integer"}}, Kind.ARRAY),
        ({"type": "object"}, Kind.OBJECT),
        ({"type": "object", "properties": {"a": {}}, "oneOf": [{}]}, Kind.OBJECT),
        ({"properties": {"a": {}}}, Kind.OBJECT),
        ({"properties": {}}, Kind.OBJECT),
        ({"properties": None}, Kind.UNKNOWN),
        ({"items": {"type": "string"}}, Kind.UNKNOWN),
        # What is combined is not resolved, nor is a reference.
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, Kind.UNKNOWN),
        ({"oneOf": [{"type": "string"}]}, Kind.UNKNOWN),
        ({"oneOf": [{"required": ["a"]}], "properties": {"a": {}}}, Kind.UNKNOWN),
        ({"oneOf": None, "properties": {"a": {}}}, Kind.OBJECT),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, Kind.UNKNOWN),
        ({"allOf": [{"type": "object"}]}, Kind.UNKNOWN),
        ({"type": "string", "anyOf": [{"format": "date"}]}, Kind.STRING),
        ({"const": 1}, Kind.UNKNOWN),
        ({"enum": ["a"]}, Kind.UNKNOWN),
        ({"format": "date"}, Kind.UNKNOWN),
        ({"airbyte_type": "integer"}, Kind.UNKNOWN),
        ({"$ref": "#/definitions/x"}, Kind.UNKNOWN),
        ({"$ref": "WellKnownTypes.json#/definitions/Integer"}, Kind.UNKNOWN),
        # Nullable: null and what is said twice do not count.
        ({"type": ["null", "string"]}, Kind.STRING),
        ({"type": ["string"]}, Kind.STRING),
        ({"type": ["string", "null"], "format": "date"}, Kind.DATE),
        ({"type": ["null", "string"], "format": "time", "airbyte_type": "time_without_timezone"}, Kind.TIME),
        ({"type": ["null", "number"], "airbyte_type": "integer"}, Kind.INTEGER),
        ({"type": ["null", "object"], "properties": {"a": {}}}, Kind.OBJECT),
        ({"type": ["integer", "integer", "null"]}, Kind.INTEGER),
        ({"type": ["string", None, ["null"], 7]}, Kind.STRING),
        # Unions: the first of array, object, string, date …, number, integer, boolean, unknown.
        ({"type": ["string", "integer"]}, Kind.STRING),
        ({"type": ["string", "array"]}, Kind.ARRAY),
        ({"type": ["object", "array", "null"]}, Kind.ARRAY),
        ({"type": ["boolean", "object", "string"]}, Kind.OBJECT),
        ({"type": ["integer", "number"]}, Kind.NUMBER),
        ({"type": ["integer", "number"], "airbyte_type": "integer"}, Kind.INTEGER),
        ({"type": ["boolean", "integer"]}, Kind.INTEGER),
        ({"type": ["foo", "boolean"]}, Kind.BOOLEAN),
        ({"type": ["string", "integer"], "format": "date-time"}, Kind.TIMESTAMPTZ),
        ({"type": ["array", "string"], "format": "date"}, Kind.ARRAY),
        ({"type": ["null"]}, Kind.UNKNOWN),
        ({"type": "null"}, Kind.UNKNOWN),
        ({"type": []}, Kind.UNKNOWN),
        ({"type": {}}, Kind.UNKNOWN),
        ({"type": {"type": "string"}}, Kind.UNKNOWN),
        ({"type": "foo"}, Kind.UNKNOWN),
        ({"type": "String"}, Kind.UNKNOWN),
        ({"type": ""}, Kind.UNKNOWN),
        ({"type": True}, Kind.UNKNOWN),
        ({}, Kind.UNKNOWN),
        (True, Kind.UNKNOWN),
        (False, Kind.UNKNOWN),
        ([], Kind.UNKNOWN),
        ("string", Kind.UNKNOWN),
        (None, Kind.UNKNOWN),
        (7, Kind.UNKNOWN),
    ],
)
def test_types(schema: Any, kind: Kind):
    assert kind_of(schema) is kind


@pytest.mark.parametrize(
    ("kind", "sql_type"),
    [
        (Kind.STRING, "character varying"),
        (Kind.BOOLEAN, "boolean"),
        (Kind.INTEGER, "bigint"),
        (Kind.NUMBER, "numeric"),
        (Kind.DATE, "date"),
        (Kind.TIME, "time without time zone"),
        (Kind.TIMETZ, "time with time zone"),
        (Kind.TIMESTAMP, "timestamp without time zone"),
        (Kind.TIMESTAMPTZ, "timestamp with time zone"),
        (Kind.OBJECT, "jsonb"),
        (Kind.ARRAY, "jsonb"),
        (Kind.UNKNOWN, "jsonb"),
    ],
)
def test_sql_types(kind: Kind, sql_type: str):
    assert kind.sql_type == sql_type


def test_every_kind_has_its_place_in_a_union():
    named = {"type": ["string", "number", "integer", "boolean", "object", "array", "foo"]}
    assert kind_of(named) is Kind.ARRAY
    # A number in 2.x's column is a number.
    assert set(_UNION_ORDER) == set(Kind) - {Kind.DECIMAL}


def test_columns_keep_the_order_and_the_fields_name():
    columns = columns_of({"b": {"type": "string"}, "a ü": {"type": "integer"}})
    assert [(column.field, column.name) for column in columns] == [("b", "b"), ("a ü", "a_u")]


def test_too_many_columns_are_refused():
    with pytest.raises(ConfigError, match="1597 columns"):
        columns_of({f"c{number}": {} for number in range(COLUMN_LIMIT + 1)})
