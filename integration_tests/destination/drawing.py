"""Hypothesis strategies: streams with odd schemas, and records with every kind of JSON for their columns."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from integration_tests.support.catalogs import TYPES


class Text(NamedTuple):
    """A piece of JSON as it is sent, and as jsonb can hold it: without NUL, U+FFFD for half a surrogate pair."""

    given: str
    stored: str


class Row(NamedTuple):
    data: Text
    own_changes: list[dict[str, str]]


class Stream(NamedTuple):
    """The columns (name, schema, rule) and the records of a stream."""

    columns: list[tuple[str, Any, str]]
    rows: list[Row]


# Strings.


def quoted(name: str, *, as_ascii: bool) -> Text:
    return Text(*(json.dumps(text, ensure_ascii=as_ascii) for text in (name, name.replace("\0", ""))))


def string_of(pieces: list[Text]) -> Text:
    return Text(*('"' + "".join(parts) + '"' for parts in zip(Text("", ""), *pieces, strict=True)))


def plain(text: str) -> Text:
    return Text(text, text)


CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
ESCAPES = [
    Text("\\u0000", ""),
    Text("\\ud800", "\ufffd"),
    # Never right behind the half that would make it a whole.
    Text(".\\uDC00", ".\ufffd"),
    *map(plain, ("\\ud83d\\ude00", "\\\\u0000", "\\\\", '\\"', "\\/", "\\b\\f\\n\\r\\t", "\\u00e9")),
]
PIECES = st.sampled_from(ESCAPES) | st.text(CHARACTERS, max_size=8).flatmap(
    lambda text: st.booleans().map(lambda as_ascii: plain(json.dumps(text, ensure_ascii=as_ascii)[1:-1]))
)
ANY_STRINGS = st.lists(PIECES, max_size=5).map(string_of)

CLOCKS = ["00:00:00", "12:34", "12:34:56", "23:59:59.9999999", "12:34:56.123456789", "24:00:00", "24:00:01", "25:00:00"]
ZONES = ["", "Z", "+00", "-08", "+0530", "-08:00", "+15:59", "+16:00", " UTC", " Europe/Berlin"]
YEARS = "2023 2024 1970 2000 1900 0001 0004 0000 9999 10000 294276 294277"
ODD_WORDS = "true false t yes on 1 0 null NaN nan Infinity -infinity inf now today epoch allballs"
ODD_NUMBERS = "007 +5 0x10 1_000 .5 5. 1e3 1.5e1 1.50e1 42.0"
EDGE_DAYS = "02-29 02-28 02-30 01-01 12-31 04-31 11-24 13-01 00-10 10-00"
EDGE_NUMBERS = (
    "0 -0 1 -1 9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809 1e18"
    " 9223372036854775808e0 1e19 1.0 100e-2 1.5E1 0e5 12345678901234567890.12345678901234567890"
)
DATES = st.builds(
    "{}-{}".format,
    st.sampled_from(YEARS.split()),
    st.sampled_from(EDGE_DAYS.split()) | st.builds("{:02}-{:02}".format, st.integers(1, 12), st.integers(1, 31)),
)
TIMES = st.builds("{}{}".format, st.sampled_from(CLOCKS), st.sampled_from(ZONES))
MOMENTS = st.builds("{}{}{}{}".format, DATES, st.sampled_from("T t"), TIMES, st.sampled_from(["", "", "", " BC"]))
NUMBERS = st.one_of(
    st.sampled_from(EDGE_NUMBERS.split()),
    st.integers().map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
WORDS = st.sampled_from([*ODD_WORDS.split(), *ODD_NUMBERS.split()])
LOOK_ALIKES = st.one_of(DATES, TIMES, MOMENTS, NUMBERS, WORDS)
PADDED = st.builds("{}{}{}".format, st.sampled_from(["", "", "", " "]), LOOK_ALIKES, st.sampled_from(["", "", "", " "]))
STRINGS = ANY_STRINGS | PADDED.map(lambda text: plain(json.dumps(text)))

# Documents.

SPACE = st.sampled_from(["", "", "", "", " ", "\t", "\r", "  "])
LITERALS = st.sampled_from(["null", "true", "false"]).map(plain)
SCALARS = st.one_of(LITERALS, NUMBERS.map(plain), STRINGS)
KEYS = st.sampled_from(['"a"', '"b"', '""']).map(plain) | ANY_STRINGS


def array_of(values: list[Text], space: str) -> Text:
    return Text(*(f"[{space}{f',{space}'.join(parts)}{space}]" for parts in columns_of(values)))


def object_of(members: list[tuple[Text, Text]], space: str) -> Text:
    pairs = [Text(*(f"{key}{space}:{space}{value}" for key, value in zip(*member, strict=True))) for member in members]
    return Text(*(f"{{{space}{f'{space},'.join(parts)}{space}}}" for parts in columns_of(pairs)))


def columns_of(texts: list[Text]) -> tuple[list[str], list[str]]:
    return [text.given for text in texts], [text.stored for text in texts]


def containers(inner: st.SearchStrategy[Text]) -> st.SearchStrategy[Text]:
    return st.builds(array_of, st.lists(inner, max_size=4), SPACE) | st.builds(
        object_of, st.lists(st.tuples(KEYS, inner), max_size=4), SPACE
    )


def wrapped(value: Text, openings: str) -> Text:
    for opening in openings:
        head, tail = ("[", "]") if opening == "[" else ('{"k":', "}")
        value = Text(*(f"{head}{text}{tail}" for text in value))
    return value


DEEP = st.builds(wrapped, SCALARS, st.text("[{", min_size=5, max_size=50))
DOCUMENTS = st.one_of(SCALARS, st.recursive(SCALARS, containers, max_leaves=6), DEEP)

# Schemas: what is said, and the rule of reference 3.5 that follows from it.

SCHEMAS: list[tuple[Any, str]] = [
    *((TYPES[kind], kind) for kind in ("number", "integer", "date", "timestamp", "timestamptz")),
    *((schema, kind) for kind, schema in TYPES.items()),
    *(({**schema, "type": ["null", schema["type"]]}, kind) for kind, schema in TYPES.items()),
    ({"type": ["string", "integer"]}, "string"),
    ({"type": ["integer", "boolean"]}, "integer"),
    ({"type": ["null", "integer", "number"]}, "number"),
    ({"type": ["object", "string"]}, "object"),
    ({"type": ["object", "array"]}, "array"),
    ({"type": "string", "format": "email"}, "string"),
    ({"properties": {"a": {"type": "string"}}}, "object"),
    ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "unknown"),
    ({"$ref": "#/definitions/a"}, "unknown"),
    ({"type": "foo"}, "unknown"),
    ({}, "unknown"),
    (True, "unknown"),
]
ODD_NAMES = [
    *(
        "a",
        "b",
        "A",
        "a b",
        "a_b",
        "",
        " ",
        "é",
        "名前",
        "😀",
        'qu"ote',
        "back\\slash",
        "tab\tnl\n",
        "select",
        "%s",
        "{}",
    ),
    *("select", "{}", "_airbyte_raw_id", "_airbyte_meta", "_ab_cdc_deleted_at", "nul\0inside", "\x7f", "f0", "x" * 70),
    "x" * 70 + "y",
]
NAMES = st.sampled_from(ODD_NAMES) | st.text(CHARACTERS, max_size=6)
FITTING: dict[str, st.SearchStrategy[str]] = {
    "date": DATES | MOMENTS,
    "time": TIMES,
    "timetz": TIMES,
    "timestamp": DATES | MOMENTS,
    "timestamptz": DATES | MOMENTS,
    "number": NUMBERS,
    "integer": NUMBERS,
}


def values_for(rule: str) -> st.SearchStrategy[Text]:
    """Values of which many fit: of numbers half are quoted."""
    if rule not in FITTING:
        return DOCUMENTS
    quoted_ones = FITTING[rule].map(lambda text: plain(json.dumps(text)))
    bare = [NUMBERS.map(plain)] if rule in ("number", "integer") else []
    return st.one_of(*bare, quoted_ones, DOCUMENTS)


OWN_CHANGE = {"field": "x", "change": "TRUNCATED", "reason": "SOURCE_FIELD_SIZE_LIMITATION"}
# How often a field is given.
TIMES_GIVEN = st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2])


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    names = draw(st.lists(NAMES, min_size=2, max_size=5, unique_by=lambda name: name.replace("\0", "")))
    columns = [(name, *draw(st.sampled_from(SCHEMAS))) for name in names]
    rows = []
    for _ in range(draw(st.integers(2, 5))):
        members = [
            (quoted(name, as_ascii=draw(st.booleans())), draw(values_for(rule)))
            for name, _, rule in columns
            for _ in range(draw(TIMES_GIVEN))
        ]
        members += draw(st.lists(st.tuples(KEYS, DOCUMENTS), max_size=1))
        data = object_of(draw(st.permutations(members)), draw(SPACE))
        rows.append(Row(data, draw(st.sampled_from([[], [], [OWN_CHANGE]]))))
    return Stream(columns, rows)


def drawn(number: int, count: int) -> list[Stream]:
    """``count`` streams of a seed; the same for the same seed."""
    found: list[Stream] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(streams())
    def collect(one: Stream) -> None:
        found.append(one)

    collect()
    return found
