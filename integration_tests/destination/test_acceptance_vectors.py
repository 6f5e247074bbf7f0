"""The data of Airbyte's destination acceptance test, of protocol versions 0 and 1: all of a version in one sync.

Version 1 names its types by reference, which 2.x does not resolve, and neither does this connector: such columns are
jsonb and hold what came.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from integration_tests.destination.vectors import (
    VECTORS,
    document,
    exact,
    expect_same,
    instant,
    needs_vectors,
    stored,
)
from integration_tests.destination.writing import Json, record, status, write
from integration_tests.support.catalogs import configured
from integration_tests.support.connector import Outcome
from integration_tests.support.databases import Database

pytestmark = needs_vectors

SUITE = VECTORS / "standard-destination-test" / "2024-10"
# A file of messages whose catalog has another name; and the name of its stream there, if that is another one, too.
OTHER_CATALOGS = {
    "infinity_type_test_message": ("data_type_number_type_test_catalog", "infinity", "nan_test"),
    "nan_type_test_message": ("data_type_integer_type_test_catalog", "nan_test", "nan_test"),
    "problematic_types_messages_in": ("problematic_types_configured_catalog", "", ""),
    "every_time_type_messages": ("every_time_type_configured_catalog", "", ""),
}
# Without a catalog: every column takes what comes.
SCHEMALESS = "stripe_messages"
# A line of it is broken, see below; what other destinations make of problematic_types is in test_schema_vectors.
APART = {"users_with_generation_id_messages"}
# The names of tables and columns that are not those of their streams and fields.
RENAMED = {
    "stream-with:spécial:character_names": "stream_with_special_character_names",
    "field_with_spécial_character": "field_with_special_character",
}
# What a column of several types does not hold as it came (as in 2.x): field -> given, kept. Text in a column of
# strings, nothing in one of objects.
NOT_AS_GIVEN = {"combined_type": (20, "20"), "compact_union": (4444, None)}
NULLED = {"field": "compact_union", "change": "NULLED", "reason": "DESTINATION_TYPECAST_ERROR"}


class DataSet(NamedTuple):
    """A file of messages with its catalog, written into a namespace of its own."""

    version: str
    name: str

    @property
    def namespace(self) -> str:
        return f"{self.version}_{self.name}"

    @property
    def catalog(self) -> Json:
        """The configured catalog; one that is not configured appends."""
        name = OTHER_CATALOGS.get(self.name, (self.name.replace("_messages", "_catalog"),))[0]
        path = SUITE / self.version / f"{name}.json"
        given = self._schemaless() if self.name == SCHEMALESS else document(path)
        found = given if "stream" in given["streams"][0] else configured(given["streams"], destination="append")
        for each in found["streams"]:
            each["stream"]["namespace"] = self.namespace
        return found

    @property
    def lines(self) -> list[str]:
        """The messages as they are in the file."""
        path = SUITE / self.version / f"{self.name}.txt"
        _, renamed, name = OTHER_CATALOGS.get(self.name, ("", "", ""))
        found = [text for text in path.read_text().splitlines() if text.strip()]
        return [text.replace(f'"stream": "{renamed}"', f'"stream": "{name}"') for text in found]

    @property
    def placed(self) -> bytes:
        """The messages in the data set's namespace, and the statuses that the file lacks."""
        named = f'"namespace": "{self.namespace}", '
        text = "\n".join(self.lines).replace('"stream": ', f'{named}"stream": ')
        text = text.replace('"stream_descriptor": {', f'"stream_descriptor": {{{named}')
        names = [each["stream"]["name"] for each in self.catalog["streams"]]
        ends = [status(name, namespace=self.namespace) for name in names if f'"name": "{name}"' not in text]
        return text.encode() + b"\n" + b"".join(ends)

    @property
    def records(self) -> list[Json]:
        """The RECORDs, with every digit of their numbers."""
        found = (exact(text) for text in self.lines)
        return [message["record"] for message in found if message["type"] == "RECORD"]

    def _schemaless(self) -> Json:
        fields: Json = {field: {} for each in self.records for field in each["data"]}
        return {"streams": [{"name": self.records[0]["stream"], "json_schema": {"properties": fields}}]}


def data_sets() -> list[DataSet]:
    files = sorted([*SUITE.glob("v?/*_messages.txt"), *SUITE.glob("v?/*_message.txt"), *SUITE.glob("v?/*_in.txt")])
    return [DataSet(path.parent.name, path.stem) for path in files if path.stem not in APART]


@pytest.fixture(scope="module")
def written(destination_cluster) -> Iterator[tuple[Database, dict[str, Outcome]]]:
    """A database that all data sets have been written to, and how the sync of each version went."""
    with Database(destination_cluster) as db:
        outcomes = {}
        for version in ("v0", "v1"):
            of_version = [each for each in data_sets() if each.version == version]
            catalog = {"streams": [stream for each in of_version for stream in each.catalog["streams"]]}
            outcomes[version] = write(db, catalog, b"".join(each.placed for each in of_version))
        yield db, outcomes


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_every_message_is_taken(written, version):
    _, outcomes = written
    outcome = outcomes[version]
    assert outcome.exit_code == 0, outcome
    of_version = [each for each in data_sets() if each.version == version]
    given = [exact(text)["state"] for each in of_version for text in each.lines if '"STATE"' in text]
    assert [{key: each[key] for key in each if key != "destinationStats"} for each in outcome.states] == given
    counts = [each["destinationStats"]["recordCount"] for each in outcome.states]
    last = max(number for number, each in enumerate(of_version) if any('"STATE"' in text for text in each.lines))
    assert sum(counts) == sum(len(each.records) for each in of_version[: last + 1])


@pytest.mark.parametrize("each", data_sets(), ids=lambda each: each.namespace)
def test_every_value_arrives(written, each):
    db, outcomes = written
    assert outcomes[each.version].exit_code == 0
    for one in each.catalog["streams"]:
        stream = one["stream"]
        rows = [found["data"] for found in each.records if found["stream"] == stream["name"]]
        properties = stream["json_schema"]["properties"]
        columns = [RENAMED.get(field, field) for field in properties]
        table = RENAMED.get(stream["name"], stream["name"])
        found = stored(db, each.namespace, table, [*columns, "_airbyte_meta"])
        expect_same(found, (typed(row, properties) for row in rows), changes_alone)


def typed(data: Json, properties: Json) -> Json:
    """The row of a record: nothing where there was nothing, and a null where a column can hold one."""
    row: Json = {"_airbyte_meta": {"changes": []}}
    for field, schema in properties.items():
        value = data.get(field)
        given, kept = NOT_AS_GIVEN.get(field, (None, None))
        if value is not None and value == given:
            value = kept
            row["_airbyte_meta"] = {"changes": [] if kept else [NULLED]}
        if value is not None or (field in data and data[field] is None and holds_null(schema)):
            row[RENAMED.get(field, field)] = instant(value)
    return row


def holds_null(schema: Json) -> bool:
    """Whether a column is of no type, so that a JSON null is a value of it."""
    named = schema.get("type", [])
    return not {*([named] if isinstance(named, str) else named)} - {"null"}


def changes_alone(row: Json) -> Json:
    return {**row, "_airbyte_meta": row["_airbyte_meta"]["changes"]}


def test_a_line_with_a_brace_too_many(destination_db):
    """A deliberate difference: Airbyte's parser does not see what follows a message; here it is broken input."""
    catalog = document(SUITE / "v0" / "users_with_generation_id_configured_catalog.json")
    given = (SUITE / "v0" / "users_with_generation_id_messages.txt").read_text()
    outcome = write(destination_db, catalog, given.encode())
    assert outcome.exit_code == 1
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "system_error"
    outcome = write(destination_db, catalog, given.replace(', "name": null }}}', ', "name": null }}').encode())
    assert outcome.exit_code == 0, outcome
    rows = destination_db.rows("select id, name, _airbyte_meta -> 'changes', _airbyte_meta -> 'sync_id' from users")
    nulled = {"field": "id", "change": "NULLED", "reason": "DESTINATION_TYPECAST_ERROR"}
    cut = {"field": "name", "change": "TRUNCATED", "reason": "SOURCE_FIELD_SIZE_LIMITATION"}
    lost = {"field": "name", "change": "NULLED", "reason": "SOURCE_SERIALIZATION_ERROR"}
    assert [row[:3] for row in rows] == [
        (1, "Fred", []),
        (None, "George", [nulled]),
        (3, "Harry", [cut]),
        (None, None, [nulled, lost]),
    ]
    assert {row[3] for row in rows} == {100}


# Cases of which this connector, as 2.x, makes another schema than they say: quoted names keep capitals and leading
# digits, and nothing is transcribed.
SCHEMAS = {"S1-1": "NAMESPACE", "S2A-2": "namespace______", "S3A-1": "99namespace", "S3C-1": "select"}


def test_namespaces(destination_db):
    found = document(SUITE / "namespace_test_cases.json")
    (stream,) = document(SUITE / "v0" / "namespace_catalog.json")["streams"]
    streams = [{**stream, "namespace": case["namespace"]} for case in found]
    sent = b"".join(record({"field1": True}, stream["name"], namespace=case["namespace"]) for case in found)
    ends = b"".join(status(stream["name"], namespace=case["namespace"]) for case in found)
    outcome = write(destination_db, configured(streams, destination="append"), sent + ends)
    assert outcome.exit_code == 0, outcome
    schemas = [
        name for (name,) in destination_db.rows("select schemaname from pg_tables where tablename = %s", "data_stream")
    ]
    # 2.x only cuts a longer name than the server can have; here its end is a hash of the whole.
    shown = {name[:54] if len(name) == 63 else name for name in schemas}
    assert shown == {SCHEMAS.get(case["id"], case["normalized"] or case["namespace"][:54]) for case in found}
    assert len(schemas) == len(found)
    for name in schemas:
        assert destination_db.rows(f'select field1 from "{name}".data_stream') == [(True,)]


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_large_batch_is_deduplicated_and_then_replaced(destination_db, version):
    each = DataSet(version, "exchange_rate_messages")
    (given,) = each.catalog["streams"]
    key: list[Any] = [["id"], ["currency"], ["date"]]
    deduplicated = {**given, "destination_sync_mode": "append_dedup", "primary_key": key, "cursor_field": ["date"]}
    sent = each.placed.splitlines(keepends=True)
    rows = [text for text in sent if b'"RECORD"' in text]
    outcome = write(destination_db, {"streams": [deduplicated]}, b"".join(rows * 400 + sent))
    assert outcome.exit_code == 0, outcome
    newest = list({tuple(one["data"][path[0]] for path in key): one["data"] for one in each.records}.values())
    assert len(newest) == 4
    expect_exchange_rates(destination_db, each, given, newest)
    # More fields than the catalog has are no reason to fail, as with a source that is newer than its catalog.
    replaced = {**given, "generation_id": 2, "minimum_generation_id": 2}
    message = json.loads(rows[0])
    message["record"]["data"]["new"] = "field"
    outcome = write(destination_db, {"streams": [replaced]}, json.dumps(message).encode() + b"\n" + sent[-1])
    assert outcome.exit_code == 0, outcome
    expect_exchange_rates(destination_db, each, given, [each.records[0]["data"]])
    assert outcome.states == []


def expect_exchange_rates(db: Database, each: DataSet, given: Json, rows: list[Json]) -> None:
    properties = given["stream"]["json_schema"]["properties"]
    found = stored(db, each.namespace, "exchange_rate", [*properties, "_airbyte_meta"])
    expect_same(found, (typed(row, properties) for row in rows), changes_alone)
