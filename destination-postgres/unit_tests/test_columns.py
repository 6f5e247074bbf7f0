"""What a JSON schema says of a field -> its column (reference 2.9 and 3.3)."""

from __future__ import annotations

from typing import Any

import pytest

from airbyte_pg.errors import ConfigError
from destination_postgres.columns import COLUMN_LIMIT, Kind, columns_of, kind_of


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, Kind.STRING),
        ({"type": "string", "format": "email"}, Kind.STRING),
        ({"type": "string", "contentEncoding": "base64"}, Kind.STRING),
        ({"type": "boolean"}, Kind.BOOLEAN),
        ({"type": "integer"}, Kind.INTEGER),
        ({"type": "number"}, Kind.NUMBER),
        ({"type": "number", "airbyte_type": "integer"}, Kind.INTEGER),
        ({"type": "string", "format": "date"}, Kind.DATE),
        ({"type": "string", "format": "date-time"}, Kind.TIMESTAMPTZ),
        ({"type": "string", "format": "date-time", "airbyte_type": "timestamp_with_timezone"}, Kind.TIMESTAMPTZ),
        ({"type": "string", "format": "date-time", "airbyte_type": "timestamp_without_timezone"}, Kind.TIMESTAMP),
        ({"type": "string", "format": "time"}, Kind.TIMETZ),
        ({"type": "string", "format": "time", "airbyte_type": "time_with_timezone"}, Kind.TIMETZ),
        ({"type": "string", "format": "time", "airbyte_type": "time_without_timezone"}, Kind.TIME),
        ({"type": "array"}, Kind.ARRAY),
        ({"type": "array", "items": {"type": "integer"}}, Kind.ARRAY),
        ({"type": "object"}, Kind.OBJECT),
        ({"properties": {"a": {}}}, Kind.OBJECT),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, Kind.UNKNOWN),
        ({"type": ["null", "string"]}, Kind.STRING),
        ({"type": ["string", "null"], "format": "date"}, Kind.DATE),
        ({"type": ["integer", "integer", "null"]}, Kind.INTEGER),
        # Unions: the first of array, object, string, date …, number, integer, boolean.
        ({"type": ["string", "integer"]}, Kind.STRING),
        ({"type": ["string", "array"]}, Kind.ARRAY),
        ({"type": ["boolean", "object", "string"]}, Kind.OBJECT),
        ({"type": ["integer", "number"]}, Kind.NUMBER),
        ({"type": ["string", "integer"], "format": "date-time"}, Kind.TIMESTAMPTZ),
        ({"type": ["null"]}, Kind.UNKNOWN),
        ({"type": []}, Kind.UNKNOWN),
        ({"type": "foo"}, Kind.UNKNOWN),
        ({"type": True}, Kind.UNKNOWN),
        ({"$ref": "#/definitions/x"}, Kind.UNKNOWN),
        ({}, Kind.UNKNOWN),
        ([], Kind.UNKNOWN),
        (None, Kind.UNKNOWN),
        (7, Kind.UNKNOWN),
    ],
)
def test_types(schema: Any, kind: Kind):
    assert kind_of(schema) is kind


def test_sql_types():
    assert {kind.sql_type for kind in (Kind.OBJECT, Kind.ARRAY, Kind.UNKNOWN)} == {"jsonb"}
    assert Kind.NUMBER.sql_type == "numeric"
    assert Kind.TIMESTAMPTZ.sql_type == "timestamp with time zone"


def test_columns_keep_the_order_and_the_fields_name():
    columns = columns_of({"b": {"type": "string"}, "a ü": {"type": "integer"}})
    assert [(column.field, column.name) for column in columns] == [("b", "b"), ("a ü", "a_u")]


def test_too_many_columns_are_refused():
    with pytest.raises(ConfigError, match="1597 columns"):
        columns_of({f"c{number}": {} for number in range(COLUMN_LIMIT + 1)})
