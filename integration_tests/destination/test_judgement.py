"""Whether the client refuses a value or leaves it to the server: final and raw tables get the same rows."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from airbyte_pg.catalog import ConfiguredStream
from airbyte_pg.connect import connect
from destination_postgres.buffers import Batch, Limits
from destination_postgres.inbox import Record
from destination_postgres.loading import Loader
from destination_postgres.raw_ids import RawIds
from destination_postgres.rowcode import RowEncoder
from destination_postgres.settings import DestinationSettings
from integration_tests.destination.test_values import moments, numbers, times
from integration_tests.destination.writing import one
from integration_tests.support.catalogs import stream
from integration_tests.support.databases import Database

COLUMNS: dict[str, Any] = {
    "id": "integer",
    "ts": "timestamp",
    "tstz": "timestamptz",
    "d": "date",
    "t": "time",
    "ttz": "timetz",
    "n": "number",
    "i": "integer",
    "b": "boolean",
    "s": "string",
    "o": "object",
    "u": {},
}
JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
OWN = b'{"changes":[{"field":"ts","change":"NULLED","reason":"SOURCE_RETRIEVAL_ERROR"}]}'


def rows(seed: int, count: int) -> list[str]:
    """Rows of every type, good and bad values mixed; some JSON numbers that jsonb refuses."""
    chance = random.Random(seed)
    of_moments, of_times, of_numbers = moments(), times(), numbers()
    json_numbers = [text for text in of_numbers if JSON_NUMBER.fullmatch(text)]
    usual = ["2023-01-23T12:34:56Z", "2023-01-23", "infinity"]

    def moment() -> str:
        return json.dumps(chance.choice([*usual, chance.choice(of_moments), chance.choice(of_moments)]))

    made = []
    for _ in range(count):
        row = {name: moment() for name in ("ts", "tstz", "d")}
        row |= {name: json.dumps(chance.choice(of_times)) for name in ("t", "ttz")}
        row |= {name: json.dumps(chance.choice(of_numbers)) for name in ("n", "i")}
        if chance.random() < 0.3:
            row |= {name: chance.choice(json_numbers) for name in chance.sample(["n", "i", "b", "s", "u"], 2)}
        row["o"] = '{"\\\\":' + chance.choice(["1", '"\\t"', chance.choice(json_numbers)]) + "}"
        made.append(", ".join(f'"{name}": {text}' for name, text in row.items()))
    return made


def load(db: Database, name: str, texts: Sequence[str], *, judged: bool) -> int:
    """Load ``texts`` in batches of growing size; how many values the encoder let through as they were."""
    configured = msgspec.convert(one(stream(name, COLUMNS))["streams"][0], ConfiguredStream)
    settings = DestinationSettings(**db.config(schema="public"))
    records = [
        Record(name, Raw(f'{{"id": {number}, {text}}}'.encode()), number, "public", Raw(OWN if number % 3 else b""))
        for number, text in enumerate(texts)
    ]
    refused = 0
    with closing(connect(settings, application_name="test")) as connection:
        loader = Loader(connection, settings)
        (opened,) = loader.open([configured])
        encoder = RowEncoder(
            opened.plan.id,
            opened.plan.columns,
            RawIds(),
            generation_id=1,
            sync_id=2,
            numeric_infinity=connection.server_version >= 140_000,
            judged=judged,
        )
        start, size = 0, 1
        while start < len(records):
            batch = Batch(Limits())
            encoded = encoder.encode(records[start : start + size], 0)
            refused += encoded.final.count(b"DESTINATION_")
            batch.add(opened.plan.id, encoded, 0.0)
            loader.write(batch)
            start, size = start + size, 2 * size
    return refused


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_client_and_server_come_to_the_same_rows(destination_db, seed):
    texts = rows(seed, 700)
    by_client = load(destination_db, "client", texts, judged=True)
    by_server = load(destination_db, "server", texts, judged=False)
    # Words and other spellings are the client's to refuse; without its judgement far less is left to it.
    assert by_server < by_client * 0.8
    shown = ", ".join(f"{name}::text" for name in COLUMNS)
    final = f"select {shown}, _airbyte_extracted_at, _airbyte_meta::text from public.%s order by id"
    raw = (
        "select _airbyte_data::text, _airbyte_extracted_at, _airbyte_meta::text"
        " from airbyte_internal.public_raw__stream_%s order by _airbyte_data -> 'id'"
    )
    for query in (final, raw):
        client, server = (destination_db.rows(query.replace("%s", name)) for name in ("client", "server"))
        assert len(client) == len(texts)
        for of_client, of_server, text in zip(client, server, texts, strict=True):
            assert of_client == of_server, text[:300]


def test_the_rows_are_good_and_bad_ones(destination_db: Any):
    load(destination_db, "t", rows(1, 250), judged=False)
    for name in ("ts", "tstz", "d", "t", "ttz", "n", "i", "o"):
        nulls = destination_db.value(f"select count(*) from public.t where {name} is null")
        assert 10 < nulls < 240, name
    truncated = "select count(*) from airbyte_internal.public_raw__stream_t where _airbyte_meta::text ~ 'TRUNCATED'"
    assert destination_db.value(truncated) > 10
