"""Airbyte's difficult JSON schemas, with their records: what columns they get, and what of the records is typed.

They were written for destinations whose files have a schema (Avro, Parquet); all of them go through one sync.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from integration_tests.destination.vectors import VECTORS, document, needs_vectors
from integration_tests.destination.writing import Json, record, status, write
from integration_tests.support.catalogs import configured
from integration_tests.support.connector import Outcome
from integration_tests.support.databases import Database

pytestmark = needs_vectors

CONVERSION = VECTORS / "json-schema-conversion"
CONVERTER = CONVERSION / "parquet/json_schema_converter"
SUITE = VECTORS / "standard-destination-test/2024-10/v0"
NAMES = CONVERSION / "parquet/json_field_name_updater/test_case.json"
# The column of a type of Avro's, where that is one type (null aside).
COLUMNS = {
    "string": "character varying",
    "long": "bigint",
    "float": "numeric",
    "double": "numeric",
    "array": "jsonb",
    "record": "jsonb",
    "map": "jsonb",
    "timestamp-micros": "timestamp with time zone",
    "date": "date",
    "time-micros": "time with time zone",
}
# Fields with another column, all as in 2.x: of a list of types the strongest one decides; a oneOf, anyOf or allOf, what
# has no type and, in version 1, what has one by reference is jsonb.
WITHOUT_TYPE = ("any_of_field", "all_of_field", "one_of_field", "field_without_type")
BY_REFERENCE = (
    "string_field",
    "integer_field",
    "float_field",
    "union_field",
    "logical_type_date_time",
    "logical_type_date",
    "logical_type_time",
)
OTHER_COLUMNS = {
    "v0": {"union_field": "character varying", **dict.fromkeys((*WITHOUT_TYPE, "null_field"), "jsonb")},
    "v1": dict.fromkeys((*WITHOUT_TYPE, *BY_REFERENCE), "jsonb"),
}
# What is no value of its column and NULL there, by stream: objects, where the type is an object or an array.
NULLED = {
    "disjoint": ["union_of_schemaless_object_and_array"],
    "json_with_array_type_fields": ["value"],
    "json_with_array_type_fields_no_items": ["value"],
    "json_with_array_type_fields_with_composites": ["value"],
}
AVRO = (
    ("complex", "complex_schema_in.json", "complex_records.json"),
    ("disjoint", "parquet_disjoint_union_schema_in.json", "parquet_disjoint_union_records_in.json"),
    ("schemaless", "schemaless_objects_schema.json", "schemaless_objects_records.json"),
)


class Case(NamedTuple):
    """A stream: a schema, and what is written under it."""

    name: str
    json_schema: Json
    data: list[Any]


def found_cases() -> Iterator[Case]:
    for name, schema, records in AVRO:
        yield Case(name, document(CONVERSION / "avro" / schema), document(CONVERSION / "avro" / records))
    yield Case("unions", document(CONVERSION / "avro/object_unions_schema_in.json"), [{}])
    for path in sorted((CONVERSION / "json_schemas").glob("*.json")):
        yield Case(path.stem, {"properties": {"value": document(path)}}, [{"value": {"company": "x"}}, {"value": None}])
        yield Case(f"whole_{path.stem}", document(path), [{"company": "x"}])
    for kind in ("coerced_schemaless", "disjoint_union"):
        lines = (SUITE / f"problematic_types_{kind}_messages_out.txt").read_text().splitlines()
        schema = document(SUITE / f"problematic_types_{kind}_schema.json")
        yield Case(kind, schema, [json.loads(text) for text in lines if text.strip()])
    for each in document(NAMES):
        yield Case(each["name"], {"properties": {field: {} for field in each["original"]}}, [each["original"]])
    for version in ("v0", "v1"):
        fields = document(CONVERTER / f"type_conversion_test_cases_{version}.json")
        properties = {each["fieldName"]: each["jsonFieldSchema"] for each in fields}
        yield Case(f"types_{version}", {"properties": properties}, [{}])
        for each in document(CONVERTER / f"json_conversion_test_cases_{version}.json"):
            yield Case(f"{version}_{each['schemaName']}", each["jsonSchema"], [each["jsonObject"]])


CASES = list(found_cases()) if VECTORS.exists() else []


@pytest.fixture(scope="module")
def written(destination_cluster) -> Iterator[tuple[Database, Outcome]]:
    """A database that all cases have been written to, and how that went."""
    with Database(destination_cluster) as db:
        streams = [{"name": case.name, "namespace": "public", "json_schema": case.json_schema} for case in CASES]
        lines = [record(data, case.name) for case in CASES for data in case.data]
        ends = [status(case.name) for case in CASES]
        yield db, write(db, configured(streams, destination="append"), b"".join(lines + ends))


TABLES = "select name, raw_table, final_table from airbyte_internal._airbyte_pg_ledger"


def test_all_are_written_and_what_is_not_typed_is_noted(written):
    db, outcome = written
    assert outcome.exit_code == 0, outcome
    raw, final = {}, {}
    for name, raw_table, final_table in db.rows(TABLES):
        raw[name] = [data for (data,) in db.rows(f'select _airbyte_data from airbyte_internal."{raw_table}"')]
        changes = db.rows(f"select _airbyte_meta -> 'changes' from public.\"{final_table}\"")
        final[name] = [change for (each,) in changes for change in each]
        assert len(changes) == len(raw[name])
    assert raw == {case.name: case.data for case in CASES}
    noted = {name: [each["field"] for each in changes] for name, changes in final.items() if changes}
    assert noted == NULLED
    assert {each["reason"] for changes in final.values() for each in changes} == {"DESTINATION_TYPECAST_ERROR"}


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_types_become_columns(written, version):
    db, _ = written
    fields = document(CONVERTER / f"type_conversion_test_cases_{version}.json")
    single = {each["fieldName"]: COLUMNS.get(kind_of(each["avroFieldType"]), "of several types") for each in fields}
    types = "select column_name, data_type from information_schema.columns where table_name = %s"
    columns = {name: kind for name, kind in db.rows(types, f"types_{version}") if name in single}
    assert set(columns) == set(single)
    assert {name: kind for name, kind in columns.items() if kind != single[name]} == OTHER_COLUMNS[version]


def test_names_within_a_value_stay_as_they_are(written):
    db, _ = written
    for case in document(NAMES):
        (field,) = case["original"]
        column, table = case["nameMap"].get(field, field), case["name"].replace(" ", "_")
        assert db.value(f"select {column} from public.{table}") == case["original"][field]


def kind_of(avro: Any) -> str:
    """The one type that is meant, or several; a text is the way out for moments that are none."""
    kinds = [each for each in (avro if isinstance(avro, list) else [avro]) if each != "null"]
    names = [each if isinstance(each, str) else each.get("logicalType", each["type"]) for each in kinds]
    if len(names) == 2 and isinstance(kinds[0], dict):
        return str(names[0])
    return "|".join(names)
