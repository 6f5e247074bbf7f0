"""Every type of PostgreSQL with hard values: its JSON schema, the JSON of each value, and how final columns compare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2.errors

from integration_tests.support.databases import Database

Json = dict[str, Any]

STRING: Json = {"type": "string"}
BOOLEAN: Json = {"type": "boolean"}
INTEGER: Json = {"type": "number", "airbyte_type": "integer"}
NUMBER: Json = {"type": "number"}
DATE: Json = {"type": "string", "format": "date"}
TIME: Json = {"type": "string", "format": "time", "airbyte_type": "time_without_timezone"}
TIMETZ: Json = {"type": "string", "format": "time", "airbyte_type": "time_with_timezone"}
TIMESTAMP: Json = {"type": "string", "format": "date-time", "airbyte_type": "timestamp_without_timezone"}
TIMESTAMPTZ: Json = {"type": "string", "format": "date-time", "airbyte_type": "timestamp_with_timezone"}

# How the source's value is written, and the final column's, to be compared as text; {} is the column.
AS_TEXT = "{}::text"
AS_ARRAY = "to_jsonb({})::text"
# The comparing sessions' settings, since texts are compared.
PLAINLY = """
set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 3;
set bytea_output = 'hex'; set lc_monetary = 'C'
"""


def array_of(items: Json) -> Json:
    """The schema of an array."""
    return {"type": "array", "items": items}


@dataclass(frozen=True)
class T:
    """A type: SQL literals and the JSON text that each becomes, byte for byte.

    ``source`` and ``final``: the expressions that are equal on both sides. The one exception, of every array: its lower
    bounds are not in JSON, nor in to_jsonb.
    """

    type: str
    schema: Json
    values: dict[str, str]
    source: str = AS_TEXT
    final: str = AS_TEXT


def quoted(*texts: str) -> dict[str, str]:
    """Texts that are sent as they are, in quotes."""
    return {text: f'"{text}"' for text in texts}


def same(*texts: str) -> dict[str, str]:
    """Texts that are JSON already."""
    return {text: text for text in texts}


SETUP = """
create type mood as enum ('ok', 'so ''so''', 'q"x\\y');
create domain posint as int check (value > 0);
create domain smallpos as posint check (value < 1000);
create domain price as numeric(12,0);
create domain tags as text[];
create domain flag as bit(1);
create type item as (name text, supplier int, price numeric);
create type floats as range (subtype = float8, subtype_diff = float8mi);
create type geometry;
create function geometry_in(cstring) returns geometry language internal immutable strict as 'textin';
create function geometry_out(geometry) returns cstring language internal immutable strict as 'textout';
create type geometry (input = geometry_in, output = geometry_out, like = text, delimiter = ':');
"""
EXTENSIONS = ("hstore", "citext", "ltree", "isn", "cube", "seg", "vector", "intarray")

UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
WHOLE = [
    T("smallint", INTEGER, same("-32768", "32767", "0")),
    T("integer", INTEGER, same("-2147483648", "2147483647")),
    T("bigint", INTEGER, same("9223372036854775807", "-9223372036854775808")),
    T("oid", INTEGER, same("0", "4294967295")),
    T("numeric(9)", INTEGER, same("70000", "-999999999")),
    T("numeric(18,0)", INTEGER, same("999999999999999999")),
    # Of Airbyte's an integer, too, for which destinations have 64 bits.
    T("numeric(19,0)", NUMBER, same("9223372036854775807", "9999999999999999999")),
    T("numeric(38,0)", NUMBER, same("12345678901234567890123456789012345678")),
    T("posint", INTEGER, same("7")),
    T("smallpos", INTEGER, same("999")),
    T("price", INTEGER, same("123456789012")),
]
DECIMALS = [
    T(
        "numeric",
        NUMBER,
        same(
            "12345678901234567890123.4500",
            "-0.000000000000000000001",
            "0",
            "9" * 200 + "." + "8" * 200,
        )
        | {"1e100": "1" + "0" * 100},
    ),
    T("numeric(20,5)", NUMBER, {"12345.678": "12345.67800", "-1e-5": "-0.00001"}),
    T("real", NUMBER, {"3.4145": "3.4145", "1e30": "1e+30", "-0": "-0", "1e-45": "1e-45"}, "{}::text::numeric::text"),
    T(
        "double precision",
        NUMBER,
        {"0.1": "0.1", "1.7976931348623157e308": "1.7976931348623157e+308", "5e-324": "5e-324", "-0": "-0"},
        "{}::text::numeric::text",
    ),
    T(
        "money",
        NUMBER,
        {"-1234.5": "-1234.50", "92233720368547758.07": "92233720368547758.07", "0": "0.00"},
        "{}::numeric::text",
    ),
]
TEXTS = [
    T(
        "text",
        STRING,
        {
            "": '""',
            " ": '" "',
            'quotes " and \\ and \t\n\r\b\f\v\x01': '"quotes \\" and \\\\ and \\t\\n\\r\\b\\f\\u000b\\u0001"',
            "é😀\u2028\x7f\u00a0": '"é😀\u2028\x7f\u00a0"',
            "\\N": '"\\\\N"',
            "null": '"null"',
            "\\.": '"\\\\."',
        },
    ),
    T("varchar(20)", STRING, quoted("a'b")),
    T("varchar", STRING, quoted("{}", "a,b")),
    T("char(5)", STRING, quoted("ab   "), "rpad({}, 5)"),
    T('"char"', STRING, quoted("A")),
    T("name", STRING, quoted("a name")),
    T(
        "json",
        STRING,
        {'{"a":  [1, 2.50,null], "b": "x\\"y"}': '"{\\"a\\":  [1, 2.50,null], \\"b\\": \\"x\\\\\\"y\\"}"', "3": '"3"'},
    ),
    T(
        "jsonb",
        STRING,
        {
            '{"b":  [1, 2.50,null], "a": "é\\\\"}': '"{\\"a\\": \\"é\\\\\\\\\\", \\"b\\": [1, 2.50, null]}"',
            '"s"': '"\\"s\\""',
        },
    ),
    T("uuid", STRING, quoted(UUID)),
    T("mood", STRING, {"ok": '"ok"', "so 'so'": "\"so 'so'\"", 'q"x\\y': '"q\\"x\\\\y"'}),
    T("bytea", STRING, {"\\xdeadbeef00": '"\\\\xdeadbeef00"', "": '"\\\\x"'}, "'\\x' || encode({}, 'hex')"),
    T("bit(1)", STRING, quoted("1")),
    T("bit(3)", STRING, quoted("101")),
    T("varbit", STRING, quoted("10110", "")),
    T("flag", STRING, quoted("0")),
    T("xml", STRING, {'<a b="c">é</a>': '"<a b=\\"c\\">é</a>"', "": '""'}),
    T("tsvector", STRING, {"a:1A 'b c':2": "\"'a':1A 'b c':2\""}),
    T("tsquery", STRING, {"a & !b:*": "\"'a' & !'b':*\""}),
    T("jsonpath", STRING, {"$.a[*] ? (@ > 1)": '"$.\\"a\\"[*]?(@ > 1)"'}),
    T("item", STRING, {'("fuzzy ""dice""",42,1.99)': '"(\\"fuzzy \\"\\"dice\\"\\"\\",42,1.99)"'}),
    T("inet", STRING, quoted("192.168.0.1", "10.1.0.0/16", "::1", "2001:db8::/32"), "format('%s', {})"),
    T("cidr", STRING, quoted("192.168.100.128/25", "10.0.0.1/32"), "{}::text"),
    T("macaddr", STRING, quoted("08:00:2b:01:02:03")),
    T("macaddr8", STRING, quoted("08:00:2b:01:02:03:04:05")),
    T("pg_lsn", STRING, quoted("7/A25801C8")),
    T("xid", STRING, quoted("4294967295")),
    T("cid", STRING, quoted("7")),
    T("tid", STRING, quoted("(4521,17)")),
    T("xid8", STRING, quoted("18446744073709551615")),
    T("pg_snapshot", STRING, quoted("10:20:10,14,15")),
    T("txid_snapshot", STRING, quoted("10:20:10,14,15")),
    T("int2vector", STRING, quoted("1 2 3", "")),
    T("oidvector", STRING, quoted("1 4294967295")),
    T("regtype", STRING, quoted("integer")),
    T("regclass", STRING, quoted("pg_class")),
    T("refcursor", STRING, quoted("c")),
    T("point", STRING, quoted("(3,7)", "(1e+24,-0)", "(NaN,Infinity)")),
    T("line", STRING, quoted("{1,-1,0.5}")),
    T("lseg", STRING, quoted("[(3,7),(15,18)]")),
    T("box", STRING, quoted("(15,18),(3,7)")),
    T("path", STRING, quoted("((3,7),(15,18))", "[(3,7),(15,18)]")),
    T("polygon", STRING, quoted("((3,7),(15,18))")),
    T("circle", STRING, quoted("<(5,7),10>")),
    T("int4range", STRING, quoted("[1,5)", "empty", "(,)")),
    T("int8range", STRING, quoted("[1,9223372036854775807)")),
    T("numrange", STRING, quoted("[1.50,5]", "(NaN,)")),
    T(
        "daterange",
        STRING,
        quoted("[2010-01-01,2010-01-03)") | {'["0044-03-15 BC",infinity]': '"[\\"0044-03-15 BC\\",infinity]"'},
    ),
    T(
        "tsrange",
        STRING,
        {'["2010-01-01 14:30:00","2010-01-01 15:30:00")': '"[\\"2010-01-01 14:30:00\\",\\"2010-01-01 15:30:00\\")"'},
    ),
    T(
        "tstzrange",
        STRING,
        {'["2010-01-01 14:30:00+00",)': '"[\\"2010-01-01 14:30:00+00\\",)"'},
        "'[\"2010-01-01 14:30:00+00\",)'",
    ),
    T("floats", STRING, quoted("[0.1,1e+300)")),
    T("int4multirange", STRING, quoted("{[1,3),[5,8)}", "{}")),
    T("int8multirange", STRING, quoted("{[1,3)}")),
    T("nummultirange", STRING, quoted("{[1.5,3]}")),
    T("datemultirange", STRING, quoted("{[2010-01-01,2010-01-03)}")),
    T(
        "tsmultirange",
        STRING,
        {
            '{["2010-01-01 14:30:00",infinity)}': '"{[\\"2010-01-01 14:30:00\\",infinity)}"',
        },
    ),
    T("tstzmultirange", STRING, {"{}": '"{}"'}),
    T(
        "interval",
        STRING,
        quoted("1 year 2 mons 3 days 04:05:06.789", "-1 years -2 mons +3 days -04:05:06.789", "-49444:26:40"),
    ),
    T("geometry", STRING, quoted("0101000020E6100000000000000000F03F")),
]
MOMENTS = [
    T("boolean", BOOLEAN, {"t": "true", "f": "false"}),
    T("date", DATE, quoted("1999-01-08", "0044-03-15 BC", "10000-01-01", "5874897-12-31", "infinity", "-infinity")),
    T("time", TIME, quoted("13:00:01.01", "24:00:00", "00:00:00.000001")),
    T(
        "timetz",
        TIMETZ,
        {
            "13:00:01.5-07": '"13:00:01.5-07:00"',
            "13:00:04+00": '"13:00:04Z"',
            "24:00:00+05:30": '"24:00:00+05:30"',
            "01:02:03-00:00:17": '"01:02:03-00:00:17"',
        },
    ),
    T(
        "timestamp",
        TIMESTAMP,
        {
            "2004-10-19 10:23:00": '"2004-10-19T10:23:00.000000"',
            "2004-10-19 10:23:00.123456": '"2004-10-19T10:23:00.123456"',
            "0044-03-15 10:00:00.5 BC": '"0044-03-15T10:00:00.500000 BC"',
            "294276-12-31 23:59:59.999999": '"294276-12-31T23:59:59.999999"',
            "infinity": '"infinity"',
            "-infinity": '"-infinity"',
        },
    ),
    T(
        "timestamptz",
        TIMESTAMPTZ,
        {
            "2004-10-19 10:23:54.1+02": '"2004-10-19T08:23:54.100000Z"',
            "3004-10-19 10:23:54+00 BC": '"3004-10-19T10:23:54.000000Z BC"',
            "99999-01-01 00:00+00": '"99999-01-01T00:00:00.000000Z"',
            "infinity": '"infinity"',
            "-infinity": '"-infinity"',
        },
    ),
]
ARRAYS = [
    T(
        "smallint[]",
        array_of(INTEGER),
        {"{}": "[]", "{1,NULL,-3}": "[1,null,-3]", "{{1,2},{3,4}}": "[[1,2],[3,4]]", "[0:1]={5,6}": "[5,6]"},
        AS_ARRAY,
    ),
    T("integer[]", array_of(INTEGER), {"{2147483647}": "[2147483647]"}, AS_ARRAY),
    T("bigint[]", array_of(INTEGER), {"{9223372036854775807,NULL}": "[9223372036854775807,null]"}, AS_ARRAY),
    T("oid[]", array_of(NUMBER), {"{564182,4294967295}": "[564182,4294967295]"}, "to_jsonb({}::bigint[])::text"),
    T(
        "numeric[]",
        array_of(NUMBER),
        {"{12345678901234567890123.4500,0.1}": "[12345678901234567890123.4500,0.1]"},
        AS_ARRAY,
    ),
    T("numeric(5,0)[]", array_of(NUMBER), {"{7,NULL}": "[7,null]"}, AS_ARRAY),
    T("real[]", array_of(NUMBER), {"{131070.23,1e30}": "[131070.23,1e+30]"}, "to_jsonb({})::text"),
    T("double precision[]", array_of(NUMBER), {"{0.1,-0,5e-324}": "[0.1,-0,5e-324]"}, AS_ARRAY),
    T("money[]", array_of(NUMBER), {"{999.99,-45000}": "[999.99,-45000.00]"}, "to_jsonb({}::numeric[])::text"),
    T("boolean[]", array_of(BOOLEAN), {"{t,f,NULL}": "[true,false,null]"}, AS_ARRAY),
    T(
        "text[]",
        array_of(STRING),
        {
            '{a,"b,c","q\\"x\\\\","",NULL,"NULL","{}"}': '["a","b,c","q\\"x\\\\","",null,"NULL","{}"]',
            '{{"é","t\tt"}}': '[["é","t\\tt"]]',
            "{a,b}": '["a","b"]',
        },
        AS_ARRAY,
    ),
    T("varchar[]", array_of(STRING), {"{a}": '["a"]'}, AS_ARRAY),
    T("char(3)[]", array_of(STRING), {"{ab,NULL}": '["ab ",null]'}, AS_ARRAY),
    T("name[]", array_of(STRING), {"{ab}": '["ab"]'}, AS_ARRAY),
    T("citext[]", array_of(STRING), {"{Ab}": '["Ab"]'}, AS_ARRAY),
    T("uuid[]", array_of(STRING), {f"{{{UUID},NULL}}": f'["{UUID}",null]'}, AS_ARRAY),
    T("mood[]", array_of(STRING), {"{ok,\"so 'so'\"}": '["ok","so \'so\'"]'}, AS_ARRAY),
    T("json[]", array_of(STRING), {'{"{\\"a\\": 1}"}': '["{\\"a\\": 1}"]'}, "to_jsonb({}::text[])::text"),
    T("jsonb[]", array_of(STRING), {'{"{\\"a\\":1}",NULL}': '["{\\"a\\": 1}",null]'}, "to_jsonb({}::text[])::text"),
    T(
        "bytea[]",
        array_of(STRING),
        {'{"\\\\xdeadbeef00","\\\\x",NULL}': '["3q2+7wA=","",null]'},
        "(select jsonb_agg(encode(v, 'base64') order by place)::text from unnest({}) with ordinality u (v, place))",
    ),
    T(
        "bit(1)[]",
        array_of(BOOLEAN),
        {"{1,0,NULL}": "[true,false,null]"},
        "to_jsonb(translate({}::text, '10', 'tf')::boolean[])::text",
    ),
    T(
        "flag[]",
        array_of(BOOLEAN),
        {"{1,0}": "[true,false]"},
        "to_jsonb(translate({}::text, '10', 'tf')::boolean[])::text",
    ),
    T("bit(3)[]", array_of(STRING), {"{101,NULL}": '["101",null]'}, "to_jsonb({}::text[])::text"),
    T("varbit[]", array_of(STRING), {"{1,10110}": '["1","10110"]'}, "to_jsonb({}::text[])::text"),
    T(
        "date[]",
        array_of(DATE),
        {'{1999-01-08,"0044-03-15 BC",infinity}': '["1999-01-08","0044-03-15 BC","infinity"]'},
        "to_jsonb({}::text[])::text",
    ),
    T("time[]", array_of(TIME), {"{24:00:00,13:00:01.5}": '["24:00:00","13:00:01.5"]'}, "to_jsonb({}::text[])::text"),
    T(
        "timetz[]",
        array_of(TIMETZ),
        {"{13:00:01.5-07,13:00:04+00}": '["13:00:01.5-07:00","13:00:04Z"]'},
        '\'["13:00:01.5-07:00", "13:00:04Z"]\'',
    ),
    T(
        "timestamp[]",
        array_of(TIMESTAMP),
        {'{"2004-10-19 10:23:00",infinity}': '["2004-10-19T10:23:00.000000","infinity"]'},
        '\'["2004-10-19T10:23:00.000000", "infinity"]\'',
    ),
    T(
        "timestamptz[]",
        array_of(TIMESTAMPTZ),
        {'{"2004-10-19 10:23:54.1+02",NULL}': '["2004-10-19T08:23:54.100000Z",null]'},
        "'[\"2004-10-19T08:23:54.100000Z\", null]'",
    ),
    T("interval[]", array_of(STRING), {'{"1 day 01:00:00"}': '["1 day 01:00:00"]'}, "'[\"1 day 01:00:00\"]'"),
    T("inet[]", array_of(STRING), {"{10.0.0.1,::1}": '["10.0.0.1","::1"]'}, '\'["10.0.0.1", "::1"]\''),
    T(
        "box[]",
        array_of(STRING),
        {"{(1,1),(0,0);(2,2),(1,1)}": '["(1,1),(0,0)","(2,2),(1,1)"]'},
        "to_jsonb({}::text[])::text",
    ),
    T("point[]", array_of(STRING), {'{"(1,2)","(3,4)"}': '["(1,2)","(3,4)"]'}, "to_jsonb({}::text[])::text"),
    T("int4range[]", array_of(STRING), {'{"[1,5)",empty}': '["[1,5)","empty"]'}, "to_jsonb({}::text[])::text"),
    T("item[]", array_of(STRING), {'{"(a,1,2.50)",NULL}': '["(a,1,2.50)",null]'}, "to_jsonb({}::text[])::text"),
    T("posint[]", array_of(INTEGER), {"{7}": "[7]"}, "to_jsonb({}::int[])::text"),
    T("tags", array_of(STRING), {"{a,b}": '["a","b"]'}, AS_ARRAY),
    T("tags[]", array_of(STRING), {'{"{a,b}","{}"}': '["{a,b}","{}"]'}, "to_jsonb({}::text[])::text"),
    T("geometry[]", array_of(STRING), {"{0101:NULL:0102}": '["0101",null,"0102"]'}, '\'["0101", null, "0102"]\''),
    T("pg_lsn[]", array_of(STRING), {"{7/A25801C8}": '["7/A25801C8"]'}, "to_jsonb({}::text[])::text"),
    T("tsvector[]", array_of(STRING), {"{\"'a':1\"}": "[\"'a':1\"]"}, "to_jsonb({}::text[])::text"),
]
OF_EXTENSIONS = [
    T("citext", STRING, quoted("Straße")),
    T(
        "hstore",
        STRING,
        {
            "k=>v, n=>NULL": '"{\\"k\\":\\"v\\",\\"n\\":null}"',
            "": '"{}"',
            '"q\\"\\\\"=>"é, \\"=>"': '"{\\"q\\\\\\"\\\\\\\\\\":\\"é, \\\\\\"=>\\"}"',
        },
        "hstore_to_jsonb({})::text",
        "{}::jsonb::text",
    ),
    T(
        "hstore[]",
        array_of(STRING),
        {'{"\\"a\\"=>\\"1\\"",NULL}': '["{\\"a\\":\\"1\\"}",null]'},
        '\'["{\\"a\\":\\"1\\"}", null]\'',
    ),
    T("ltree", STRING, quoted("Top.Science")),
    T("lquery", STRING, quoted("Top.*{1,2}.b|c")),
    T("isbn13", STRING, quoted("978-0-393-04002-9")),
    T("cube", STRING, quoted("(1, 2),(3, 4)")),
    T("seg", STRING, quoted("5.0 .. 6.5")),
    T("vector(3)", STRING, quoted("[1,2.5,-3]")),
    T("vector[]", array_of(STRING), {'{"[1,2]","[3,4]"}': '["[1,2]","[3,4]"]'}, "to_jsonb({}::text[])::text"),
]
CASES = [*WHOLE, *DECIMALS, *TEXTS, *MOMENTS, *ARRAYS, *OF_EXTENSIONS]

# What JSON numbers cannot be: null and a change, or text. The element of an array alone is null.
SPECIALS = [
    T("numeric", NUMBER, {"NaN": "null"}),
    T("numeric", NUMBER, {"Infinity": "null", "-Infinity": "null"}),
    T("real", NUMBER, {"NaN": "null", "Infinity": "null", "-Infinity": "null"}),
    T("double precision", NUMBER, {"NaN": "null", "Infinity": "null", "-Infinity": "null"}),
    T("numeric[]", array_of(NUMBER), {"{1.50,NaN}": "[1.50,null]"}, AS_ARRAY),
    T("double precision[]", array_of(NUMBER), {"{{1.5,-Infinity}}": "[[1.5,null]]"}, AS_ARRAY),
]
SPECIALS_AS_TEXT = {
    "NaN": '"NaN"',
    "Infinity": '"Infinity"',
    "-Infinity": '"-Infinity"',
    "{1.50,NaN}": '[1.50,"NaN"]',
    "{{1.5,-Infinity}}": '[[1.5,"-Infinity"]]',
}


def made(database: Database) -> list[tuple[str, T]]:
    """The table ``t`` of every case that the server has: column names with their cases.

    Row 0 is NULL, row n has the n-th value of each case, beginning anew where there are fewer.
    """
    database.execute(SETUP)
    for extension in EXTENSIONS:
        with contextlib.suppress(psycopg2.errors.UndefinedFile, psycopg2.errors.FeatureNotSupported):
            database.execute(f"create extension {extension}")
    found = known(database, CASES)
    columns = ", ".join(f"{name} {case.type}" for name, case in found)
    database.execute(f"create table t (id int primary key, touched int default 0, {columns})")
    database.execute("insert into t (id) values (0)")
    for row in range(1, max(len(case.values) for _, case in found) + 1):
        places = ", ".join(["%s"] * len(found))
        names = ", ".join(name for name, _ in found)
        literals = [literal(case, row) for _, case in found]
        database.execute(f"insert into t (id, {names}) values ({row}, {places})", *literals)
    return found


def literal(case: T, row: int) -> str:
    """The SQL literal of a case in a row from 1 on."""
    literals = list(case.values)
    return literals[(row - 1) % len(literals)]


def rows(found: list[tuple[str, T]]) -> Iterator[int]:
    """The numbers of the rows that are not NULL."""
    return iter(range(1, max(len(case.values) for _, case in found) + 1))


def known(database: Database, cases: Sequence[T]) -> list[tuple[str, T]]:
    """The cases that the server has, each with a column's name."""
    return [(f"c{i}", case) for i, case in enumerate(cases) if _is_known(database, case)]


def _is_known(database: Database, case: T) -> bool:
    try:
        database.execute(f"select %s::{case.type}", literal(case, 1))
    except (
        psycopg2.errors.UndefinedObject,
        psycopg2.errors.FeatureNotSupported,
        psycopg2.errors.NumericValueOutOfRange,
        psycopg2.errors.InvalidTextRepresentation,
    ):
        return False
    return True
