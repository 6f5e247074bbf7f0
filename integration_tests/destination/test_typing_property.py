"""Random schemas and records: a value becomes what the server itself makes of it, or NULL with its change.

Hypothesis draws the streams; all streams of a seed go through one sync, and what it left is compared value by value.
More seeds: ``make nightly``.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
from psycopg2 import sql

from integration_tests.destination.drawing import Stream, drawn
from integration_tests.destination.test_values import TRY
from integration_tests.destination.writing import record, sync
from integration_tests.pair.workload import seeds
from integration_tests.support.catalogs import configured, stream
from integration_tests.support.databases import Database

STREAMS_PER_SEED = 300


# A quoted whole number that we take and the server does not.
WHOLE_EXPONENT = re.compile(r'" ?-?[0-9.]+[eE][+]?[0-9]+ ?"')


# The server's word on a JSON value, by reference 3.5; numbers may be quoted (2.4.6).
ORACLE = """\
create function public.oracle(value jsonb, rule text) returns text language sql as $$
select case
  when rule = 'unknown' then value::text
  when jsonb_typeof(value) = 'null' then null
  when rule = 'string' then value #>> '{}'
  when rule in ('object', 'array') then case when jsonb_typeof(value) = rule then value::text end
  when rule = 'boolean' then case when jsonb_typeof(value) <> 'string' then public.try(value::text, 'boolean') end
  when jsonb_typeof(value) in ('object', 'array') then null
  else public.try(value #>> '{}', case rule when 'integer' then 'bigint' when 'number' then 'numeric' else rule end)
end $$"""

# Spellings that must not be refused when the server takes them; of others (today, 1/2/2023, 0x10) we take fewer.
_CLOCK = r"\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d(:?\d\d)?)?"
# Of the last day that a timestamp can have, the zone decides; none of it is taken.
_MOMENT = re.compile(rf'"(?!294276-12-31)\d{{4,6}}-\d\d-\d\d([T ]{_CLOCK})?"|"-?infinity"')
EXPECTED = {
    "boolean": re.compile("true|false|1|0"),
    "integer": re.compile(r'-?\d+|"-?\d+"'),
    "number": re.compile(r'-?\d.*|"-?\d+(\.\d+)?([eE][+-]?\d+)?"|"NaN"'),
    "time": re.compile(f'"{_CLOCK}"'),
    "timetz": re.compile(f'"{_CLOCK}"'),
    **dict.fromkeys(("date", "timestamp", "timestamptz"), _MOMENT),
    **dict.fromkeys(("string", "object", "array", "unknown"), re.compile(".*", re.DOTALL)),
}


class Value(NamedTuple):
    """A value as it was sent (JSON; None: missing), and as its column has it; the rule of the column."""

    json: str | None
    found: str | None
    rule: str


class Stored(NamedTuple):
    """A row on the server: its values, whether raw has the data as it was sent, and the metas of final and raw row."""

    values: list[Value]
    raw_is_same: bool
    final_meta: Any
    raw_meta: Any


def stored(db: Database, name: str, one: Stream) -> list[Stored]:
    """The rows of a stream, in the order of its records; columns go by their position."""
    attributes = db.rows(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum between 1 and %s order by attnum",
        *(f"public.{name}", len(one.columns)),
    )
    cells = sql.SQL(", ").join(
        sql.SQL("(g.stored::json -> {})::text, f.{}::text").format(
            sql.Literal(field.replace("\0", "")), sql.Identifier(attribute)
        )
        for (attribute,), (field, _, _) in zip(attributes, one.columns, strict=True)
    )
    query = sql.SQL(
        "select array[{}], r._airbyte_data::text = g.stored::jsonb::text, f._airbyte_meta, r._airbyte_meta"
        " from unnest({}::text[]) with ordinality g (stored, position)"
        " left join public.{} f on f._airbyte_extracted_at = to_timestamp((position - 1) / 1000.0)"
        " left join airbyte_internal.{} r using (_airbyte_raw_id) order by position"
    ).format(
        cells,
        sql.Literal([row.data.stored for row in one.rows]),
        sql.Identifier(name),
        sql.Identifier(f"public_raw__stream_{name}"),
    )
    rules = [rule for _, _, rule in one.columns]
    return [
        Stored([Value(*parts) for parts in zip(cells[::2], cells[1::2], rules, strict=True)], *rest)
        for cells, *rest in db.rows(query)
    ]


def oracles(db: Database, values: list[Value]) -> list[tuple[str | None, str | None]]:
    """What the server says that each value is, and what was found."""
    db.execute(TRY)
    db.execute(ORACLE)
    return db.rows(
        "select public.oracle(value::jsonb, rule), found"
        " from unnest(%s::text[], %s::text[], %s::text[]) with ordinality u (value, found, rule, position)"
        " order by position",
        *map(list, zip(*values, strict=True)),
    )


@pytest.mark.parametrize("number", seeds(1))
def test_a_value_becomes_what_the_server_makes_of_it_or_null_with_its_change(destination_db, number):
    sent = {f"s{position}": one for position, one in enumerate(drawn(number, STREAMS_PER_SEED))}
    catalog = [stream(name, {field: schema for field, schema, _ in one.columns}) for name, one in sent.items()]
    lines = [
        record(row.data.given, name, emitted_at=position, meta={"changes": row.own_changes})
        for name, one in sent.items()
        for position, row in enumerate(one.rows)
    ]
    sync(destination_db, configured(catalog, destination="append"), b"".join(lines))
    destination_db.execute("set timezone = 'UTC'")
    destination_db.execute("set datestyle = 'ISO, YMD'")
    found = {name: stored(destination_db, name, one) for name, one in sent.items()}
    # In the order of the values.
    said = iter(oracles(destination_db, [value for rows in found.values() for row in rows for value in row.values]))
    for name, one in sent.items():
        count = f"select (select count(*) from public.{name}), count(*) from airbyte_internal.public_raw__stream_{name}"
        assert destination_db.rows(count) == [(len(one.rows), len(one.rows))]
        for row, kept in zip(one.rows, found[name], strict=True):
            assert kept.raw_is_same, row.data.given
            assert kept.raw_meta == {"changes": row.own_changes, "sync_id": 1}
            nulled = [
                {"field": field.replace("\0", ""), "change": "NULLED", "reason": "DESTINATION_TYPECAST_ERROR"}
                for (field, _, _), value in zip(one.columns, kept.values, strict=True)
                if is_refused(value, *next(said))
            ]
            assert kept.final_meta == {"changes": [*nulled, *row.own_changes], "sync_id": 1}, row.data.given


def is_refused(value: Value, oracle: str | None, shown: str | None) -> bool:
    """Whether a value was refused; asserts that it was rightly, or that it is what the oracle says."""
    if shown is None and value.json not in (None, "null"):
        assert oracle is None or not EXPECTED[value.rule].fullmatch(value.json), (value, oracle)
        return True
    if not (value.rule == "integer" and oracle is None and WHOLE_EXPONENT.fullmatch(value.json or "")):
        assert shown == oracle, value
    return False
