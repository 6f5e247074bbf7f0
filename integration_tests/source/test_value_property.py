"""Random values of every type: hypothesis makes them, the server renders them, our JSON read back is the value again.

More seeds: ``make nightly``.
"""

from __future__ import annotations

import json

import pytest
from psycopg2.extras import execute_values

from integration_tests.pair.test_types import raw_rows
from integration_tests.pair.typecases import PLAINLY
from integration_tests.pair.workload import seeds
from integration_tests.source.reading import TRANSPORTS, catalog_of, read
from integration_tests.source.typedrawing import SETUP, TYPES, drawn

ROWS = 200


@pytest.mark.parametrize("number", seeds(1))
def test_json_read_back_is_the_value(source_db, number):
    rows = drawn(number, ROWS)
    source_db.execute(SETUP)
    columns = ", ".join(f"c{i} {each.type}" for i, each in enumerate(TYPES))
    source_db.execute(f"create table t (id int primary key, touched int default 0, {columns})")
    catalog = catalog_of(source_db)
    options = {"special_values": "text", "transport": TRANSPORTS[number % 2]}
    empty = read(source_db, catalog, **options)
    casts = ", ".join(f"%s::{each.type}" for each in TYPES)
    with source_db.connect() as session, session.cursor() as cursor:
        values = [(at, 0, *row) for at, row in enumerate(rows)]
        execute_values(cursor, "insert into t values %s", values, template=f"(%s, %s, {casts})", page_size=20)
    stream = raw_rows(read(source_db, catalog, empty, **options))
    assert len(stream) == len(rows)
    assert raw_rows(read(source_db, catalog_of(source_db, "full_refresh"), **options)) == stream
    source_db.execute(PLAINLY)
    ids = sorted(stream)
    for i, each in enumerate(TYPES):
        sent = [stream[at][f"c{i}"].decode() for at in ids]
        assert all(json.loads(text) is not None for text, row in zip(sent, rows, strict=True) if row[i] is not None)
        wrong = source_db.rows(
            f"select id, c{i}::text, j::text from t"
            " join unnest(%s::int[], %s::json[]) u (id, j) using (id) cross join lateral (select c{0}) v (c)".replace(
                "{0}", str(i)
            )
            + f" where not {each.condition}",
            ids,
            sent,
        )
        assert wrong == [], each.type
