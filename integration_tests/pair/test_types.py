"""The ordinary types: snapshot equals stream byte for byte, and the final column equals the source by value."""

from __future__ import annotations

import msgspec
import pytest

from integration_tests.pair.piping import sync
from integration_tests.source.reading import TRANSPORTS, catalog_of, read
from integration_tests.support.connector import Outcome

# type, values as SQL literals, type of the final column, how the source's value is written to be compared with it.
SAME = "{}::text"
AS_JSON = "to_jsonb({})::text"
CASES: list[tuple[str, list[str], str, str]] = [
    ("smallint", ["-32768", "32767"], "bigint", SAME),
    ("integer", ["-2147483648", "0"], "bigint", SAME),
    ("bigint", ["9223372036854775807", "-9223372036854775808"], "bigint", SAME),
    ("numeric", ["12345678901234567890123.4500", "-0.000000000000000000001", "1e100"], "numeric", SAME),
    ("numeric(20,5)", ["12345.67800"], "numeric", SAME),
    ("numeric(9)", ["70000"], "bigint", SAME),
    ("real", ["3.4145", "1e30", "-0"], "numeric", "{}::numeric::text"),
    ("double precision", ["0.1", "1.7976931348623157e308"], "numeric", "{}::text::numeric::text"),
    ("boolean", ["t", "f"], "boolean", SAME),
    ("text", ["", " ", 'quotes " and \\ and \t\n\r\b\f\v\x01', "é😀\u2028", "\\N", "null"], "character varying", SAME),
    ("varchar(20)", ["a'b"], "character varying", SAME),
    ("char(5)", ["ab"], "character varying", "rpad({}, 5)"),
    ("date", ["1999-01-08", "0044-03-15 BC", "10000-01-01", "infinity", "-infinity"], "date", SAME),
    ("time", ["13:00:01.01", "24:00:00", "00:00:00.000001"], "time without time zone", SAME),
    ("timetz", ["13:00:01.5-07", "13:00:04+00", "24:00:00+05:30"], "time with time zone", SAME),
    (
        "timestamp",
        ["2004-10-19 10:23:00", "2004-10-19 10:23:00.123456", "0044-03-15 10:00:00 BC", "infinity", "99999-01-01"],
        "timestamp without time zone",
        SAME,
    ),
    (
        "timestamptz",
        ["2004-10-19 10:23:54.1+02", "3004-10-19 10:23:54 BC", "-infinity", "99999-01-01 00:00+00"],
        "timestamp with time zone",
        SAME,
    ),
    ("json", ['{"a":  [1, 2.50,null], "b": "x\\"y"}', "3"], "character varying", SAME),
    ("jsonb", ['{"a":  [1, 2.50,null], "b": "é\\\\"}', '"s"'], "character varying", SAME),
    ("uuid", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"], "character varying", SAME),
    ("mood", ["ok", "so 'so'"], "character varying", SAME),
    ("posint", ["7"], "bigint", SAME),
    ("bytea", ["\\xdeadbeef00", ""], "character varying", "'\\x' || encode({}, 'hex')"),
    ("smallint[]", ["{}", "{1,NULL,-3}", "{{1,2},{3,4}}", "[0:1]={5,6}"], "jsonb", AS_JSON),
    ("numeric[]", ["{12345678901234567890123.4500,0.1}"], "jsonb", AS_JSON),
    ("text[]", ['{a,"b,c","q\\"x\\\\","",NULL,"NULL","{}"}', '{{"é","t\tt"}}'], "jsonb", AS_JSON),
    ("boolean[]", ["{t,f,NULL}"], "jsonb", AS_JSON),
    ("uuid[]", ["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"], "jsonb", AS_JSON),
    ("mood[]", ["{ok,\"so 'so'\"}"], "jsonb", AS_JSON),
]
NAMES = [f"c{i}" for i in range(len(CASES))]


@pytest.fixture
def table(source_db):
    source_db.execute("create type mood as enum ('ok', 'so ''so''')")
    source_db.execute("create domain posint as int check (value > 0)")
    columns = ", ".join(f"{name} {case[0]}" for name, case in zip(NAMES, CASES, strict=True))
    source_db.execute(f"create table t (id int primary key, touched int default 0, {columns})")
    source_db.execute("insert into t (id) values (0)")  # a row of NULLs
    for row in range(max(len(case[1]) for case in CASES)):
        values = [case[1][row % len(case[1])] for case in CASES]
        places = ", ".join(["%s"] * (len(values) + 1))
        source_db.execute(f"insert into t (id, {', '.join(NAMES)}) values ({places})", row + 1, *values)
    return source_db


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_snapshot_and_stream_render_the_same_bytes(table, transport):
    catalog = catalog_of(table)
    first = read(table, catalog)
    table.execute("update t set touched = 0")
    second = read(table, catalog, first, transport=transport)
    table.execute("alter table t replica identity full")
    table.execute("update t set touched = 0")
    third = read(table, catalog, second, transport=transport)
    snapshot = raw_rows(first)
    assert len(snapshot) > 5
    assert raw_rows(second) == snapshot
    assert raw_rows(third) == snapshot


def test_final_columns_hold_the_source_values(table, destination_db):
    catalog = catalog_of(table)
    first = sync(table, destination_db, catalog)
    assert first.ok, first.printed[-3:]
    expect_equal(table, destination_db)
    table.execute("update t set touched = 1")
    second = sync(table, destination_db, catalog, first.states[-1])
    assert second.ok, second.printed[-3:]
    assert destination_db.value("select min(touched) from public.t") == 1
    expect_equal(table, destination_db)


def expect_equal(table, destination_db) -> None:
    types = dict(
        destination_db.rows("select column_name, data_type from information_schema.columns where table_name = 't'")
    )
    table.execute("set extra_float_digits = 3")  # the test's own session, to see a float whole
    for name, (source_type, _, final_type, written) in zip(NAMES, CASES, strict=True):
        assert types[name] == final_type, source_type
        expected = table.rows(f"select id, {written.format(name)} from t order by id")
        assert destination_db.rows(f"select id, {name}::text from public.t order by id") == expected, source_type
    # Nothing had to be left out.
    assert destination_db.value("select count(*) from public.t where _airbyte_meta -> 'changes' <> '[]'") == 0


def raw_rows(outcome: Outcome) -> dict[bytes, dict[str, bytes]]:
    """Every record's columns as the bytes that were printed, by id; without the meta columns."""
    assert outcome.exit_code == 0, outcome
    found = {}
    for line in outcome.lines:
        if line.startswith(b'{"type":"RECORD"'):
            record = msgspec.json.decode(line, type=dict[str, dict[str, msgspec.Raw] | str])["record"]
            assert isinstance(record, dict)
            assert "meta" not in record
            data = msgspec.json.decode(record["data"], type=dict[str, msgspec.Raw])
            row = {name: bytes(value) for name, value in data.items() if not name.startswith("_ab_cdc_")}
            found[row["id"]] = row
    return found
