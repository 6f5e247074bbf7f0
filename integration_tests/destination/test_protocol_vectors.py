"""Airbyte's states of every kind, catalogs good and bad, and transcripts of sources, as this destination meets them."""

from __future__ import annotations

import json

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
from integration_tests.destination.writing import Json, record, state, status, write
from integration_tests.support.catalogs import configured, stream
from integration_tests.support.connector import Outcome
from integration_tests.support.databases import Database

pytestmark = needs_vectors

PROTOCOL = VECTORS / "protocol"
CDK = PROTOCOL / "bulk-cdk-2024-12"
H2 = CDK / "extract-jdbc" / "h2source"
# Every file that holds states. One that is no list is the whole data of a LEGACY state.
STATES = sorted([*PROTOCOL.glob("states/*.json"), *CDK.rglob("*-states.json"), *CDK.rglob("state-*.json")])
# Every file that is a configured catalog, and every other that is called a catalog: what discover says is none.
CONFIGURED = sorted(
    path
    for path in CDK.rglob("*catalog*.json")
    if not path.name.startswith("expected-") and path.name != "catalog-invalid.json"
)
NOT_CONFIGURED = sorted(CDK.rglob("expected-*-catalog.json"))


def descriptors(states: list[Json]) -> list[Json]:
    """The streams that states name, each once."""
    named = [each["stream"]["stream_descriptor"] for each in states if "stream" in each]
    named += [one["stream_descriptor"] for each in states for one in each.get("global", {}).get("stream_states", [])]
    return [one for number, one in enumerate(named) if one not in named[:number]]


@pytest.mark.parametrize("path", STATES, ids=lambda path: path.stem)
def test_states_are_returned_byte_for_byte(destination_db, path):
    """Also those of several kinds in one sync: a deliberate difference, 2.x does not mix them."""
    found = document(path)
    states = found if isinstance(found, list) else [{"type": "LEGACY", "data": found}, {"data": found}]
    # Keys and numbers that nobody here knows, such as the platform's id, are returned as well.
    more: Json = {"id": 7, "unknown": [1.5, {"é": "😀"}]}
    texts = [
        json.dumps({**each, **more}, separators=separators)
        for separators in ((",", ":"), (" , ", " :  "))
        for each in states
    ]
    wrapped = [f'{{ "type":"STATE", "state": {text}, "more":1e2}}'.encode() for text in texts]
    names = descriptors(states) or [{"name": "cars", "namespace": "public"}]
    streams = [stream(one["name"], {"id": "integer"}, namespace=one["namespace"]) for one in names]
    sent = b"".join(record({"id": 1}, one["name"], namespace=one["namespace"]) for one in names)
    ends = b"".join(status(one["name"], namespace=one["namespace"]) for one in names)
    lines = sent + b"\n".join(wrapped) + b"\n" + ends
    outcome = write(destination_db, configured(streams, destination="append"), lines)
    assert outcome.exit_code == 0, outcome
    returned = [each for each in outcome.lines if b'"STATE"' in each]
    counts = [each["destinationStats"]["recordCount"] for each in outcome.states]
    assert [without_stats(each) for each in returned] == wrapped
    assert sum(counts) == len(names)


def without_stats(returned: bytes) -> bytes:
    """A STATE line as it was before this destination added its count."""
    before, _, rest = returned.partition(b',"destinationStats":{')
    return before + rest.partition(b"}")[2].rstrip(b"\n")


@pytest.mark.parametrize("path", CONFIGURED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_good_catalogs_are_written(destination_db, path):
    catalog = document(path)
    streams = [each["stream"] for each in catalog["streams"]]
    lines = b""
    for one in streams:
        name, namespace = one["name"], one.get("namespace")
        data = dict.fromkeys(one["json_schema"]["properties"])
        lines += record(data, name, namespace=namespace) + state(1, name, namespace=namespace)
        lines += status(name, namespace=namespace)
    outcome = write(destination_db, catalog, lines, schema="by_default")
    assert outcome.exit_code == 0, outcome
    for each in catalog["streams"]:
        one = each["stream"]
        (row,) = stored(destination_db, one.get("namespace", "by_default"), one["name"])
        # No ids in these catalogs; an overwrite without one gets a generation of the connector's own.
        assert row["_airbyte_meta"] == {"changes": [], "sync_id": None}
        assert ("_airbyte_generation_id" in row) == (each["destination_sync_mode"] == "overwrite")


def expect_config_error(outcome: Outcome, text: str) -> None:
    assert outcome.exit_code == 1, outcome
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert text in outcome.error["message"]


def test_a_catalog_with_a_mode_that_there_is_not(destination_db):
    catalog = document(CDK / "base/command/catalog-invalid.json")
    expect_config_error(write(destination_db, catalog, b""), "sync_mode")


@pytest.mark.parametrize("path", NOT_CONFIGURED, ids=lambda path: path.stem)
def test_what_discover_says_is_no_configured_catalog(destination_db, path):
    expect_config_error(write(destination_db, document(path), b""), "stream")


def transcript(name: str) -> bytes:
    """What a source wrote, one message a line."""
    found = document(H2 / f"expected-messages-stream-{name}.json")
    return b"".join(json.dumps(message).encode() + b"\n" for message in found)


def sent_by(name: str, kind: str) -> list[Json]:
    """The messages of a kind in a transcript."""
    found = exact((H2 / f"expected-messages-stream-{name}.json").read_text())
    return [message[kind.lower()] for message in found if message["type"] == kind]


def expect_events(db: Database, *transcripts: str) -> None:
    """The stream's rows of several transcripts."""
    wanted = [
        {field: instant(value) for field, value in each["data"].items() if value is not None}
        for name in transcripts
        for each in sent_by(name, "RECORD")
        if each["stream"] == "EVENTS"
    ]
    expect_same(stored(db, "PUBLIC", "EVENTS", ["ID", "TS", "MSG"]), wanted)


def test_what_sources_write(destination_db):
    catalog = document(H2 / "cursor-catalog.json")
    appended = {"streams": [{**each, "destination_sync_mode": "append"} for each in catalog["streams"]]}
    for name in ("cold-start", "warm-start"):
        outcome = write(destination_db, appended, transcript(name))
        assert outcome.exit_code == 0, outcome
        given = sent_by(name, "STATE")
        assert [{**each, "destinationStats": each["sourceStats"]} for each in given] == outcome.states
    expect_events(destination_db, "cold-start", "warm-start")
    assert destination_db.value('select count(*) from "PUBLIC"."KV"') == 3


def test_a_source_with_nothing_new(destination_db):
    catalog = document(H2 / "incremental-only-catalog.json")
    outcome = write(destination_db, catalog, transcript("too-far-ahead"))
    assert outcome.exit_code == 0, outcome
    assert [each["destinationStats"] for each in outcome.states] == [{"recordCount": 0}]
    expect_events(destination_db)


def test_the_error_of_a_source_is_the_destination_s(destination_db):
    outcome = write(destination_db, document(H2 / "bad-catalog.json"), transcript("bad-catalog"))
    assert outcome.exit_code == 1
    assert outcome.error is not None
    (said,) = [each["error"]["message"] for each in sent_by("bad-catalog", "TRACE")]
    assert said in outcome.error["message"]
    assert sent_by("bad-catalog", "LOG")[0]["message"] in str(outcome.logs)
