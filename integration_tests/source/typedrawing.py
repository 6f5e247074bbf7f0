"""Hypothesis strategies: SQL literals of every type, and how their JSON is brought back to a value on the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

Literals = st.SearchStrategy[str]

# How a value comes back from the JSON ``j`` to be compared with the column ``c``: by the type's own equality, or by
# its text where that says more (digits behind the point, the parts of an interval) or there is none.
BY_VALUE = "(j #>> '{}')::{type} = c"
BY_TEXT = "(j #>> '{}')::{type}::text = c::text"
# A number, digit by digit; NaN alone is a string.
AS_NUMBER = "(j #>> '{}') = c::text and (json_typeof(j) = 'number' or c::text = 'NaN')"
ITEM_BY_ITEM = "array(select {} from json_array_elements_text(j) v) = array(select unnest(c))"
AS_ARRAY = "j::jsonb = to_jsonb(c)"


@dataclass(frozen=True)
class Drawn:
    """A type, the literals of its values, and the condition under which one has come back."""

    type: str
    literals: Literals
    back: str = BY_VALUE

    @property
    def condition(self) -> str:
        """SQL that is true where ``j`` is ``c``."""
        back = self.back.replace("{type}", self.type)
        # A composite of NULLs "is null", too.
        return f"case when c::text is null then json_typeof(j) = 'null' else coalesce({back}, false) end"


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
PRINTED = st.text(st.sampled_from("abcXYZ09 é\"\\'{},;:()[]\t\n\x01"), max_size=8)
TEXTS = TEXT | PRINTED | st.sampled_from(["", "NULL", "null", "\\N", "\\.", " ", "{}", "x" * 5000])


def whole(bits: int) -> Literals:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).map(str)


DIGITS = st.text("0123456789", min_size=1, max_size=60)
DECIMALS = st.builds("{}{}.{}".format, st.sampled_from(["", "-"]), DIGITS, DIGITS) | whole(200) | st.just("NaN")
FLOATS = {
    bits: st.floats(width=bits).map(
        lambda value: {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
    )
    for bits in (32, 64)
}
MONEY = st.integers(-(2**63), 2**63 - 1).map(
    lambda cents: f"{'-' * (cents < 0)}{abs(cents) // 100}.{abs(cents) % 100:02d}"
)


def day(first: int, last: int) -> Literals:
    """Days of the years from ``first`` to ``last``; those before 1 are BC, 0 is 1 BC."""

    def written(year: int, of: date) -> str:
        of_year = f"{of:%m-%d}" if f"{of:%m-%d}" != "02-29" else "02-28"
        return f"{year:04d}-{of_year}" if year > 0 else f"{1 - year:04d}-{of_year} BC"

    return st.builds(written, st.integers(first, last) | st.integers(1900, 2100), st.dates())


MICROS = st.integers(0, 86_400_000_000 - 1)
CLOCK = MICROS.map(
    lambda us: f"{us // 3_600_000_000:02d}:{us // 60_000_000 % 60:02d}:{us // 1_000_000 % 60:02d}.{us % 1_000_000:06d}"
) | st.sampled_from(["00:00:00", "12:00:00.5"])
ZONES = st.sampled_from(["+00", "-07", "+05:30", "+15:59:59", "-00:00:17", "-15:59"])
INFINITE = st.sampled_from(["infinity", "-infinity"])


NO_ZONE = st.just("")


def moment(zones: Literals = NO_ZONE) -> Literals:
    def written(on: str, at: str, zone: str) -> str:
        plain, _, era = on.partition(" ")
        return f"{plain} {at}{zone}{' ' + era if era else ''}"

    return st.builds(written, day(-4711, 294000), CLOCK, zones) | INFINITE


INTERVALS = st.builds(
    "{} months {} days {}.{:06d} seconds".format,
    st.integers(-(10**6), 10**6),
    st.integers(-(10**6), 10**6),
    st.integers(-(10**9), 10**9),
    st.integers(0, 999_999),
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.builds(
    lambda value, ascii_, space: json.dumps(value, ensure_ascii=ascii_, separators=(f",{space}", f":{space}")),
    JSONS,
    st.booleans(),
    st.sampled_from(["", " ", "\n\t"]),
)
BITS = st.text("01", max_size=70)
BYTES = st.binary(max_size=40).map(lambda value: f"\\x{value.hex()}")
UUIDS = st.uuids().map(str)
ADDRESSES = st.builds(
    lambda address, bits: f"{address}/{bits}" if bits <= (32 if address.version == 4 else 128) else str(address),
    st.ip_addresses(),
    st.integers(0, 200),
)
POINTS = st.builds("({},{})".format, FLOATS[64], FLOATS[64])


def escaped(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def array(items: Literals, dimensions: int = 3) -> Literals:
    """Arrays of so many dimensions at most, with NULLs and odd lower bounds."""

    @st.composite
    def drawn_array(draw: Callable[[Any], Any]) -> str:
        sizes = draw(st.lists(st.integers(1, 3), max_size=dimensions))
        if not sizes:
            return "{}"

        def level(depth: int) -> str:
            if depth == len(sizes):
                item = draw(st.none() | items)
                return "NULL" if item is None else escaped(item)
            return "{" + ",".join(level(depth + 1) for _ in range(sizes[depth])) + "}"

        bounds = draw(st.none() | st.lists(st.integers(-3, 3), min_size=len(sizes), max_size=len(sizes)))
        prefix = (
            "".join(f"[{low}:{low + size - 1}]" for low, size in zip(bounds, sizes, strict=True)) + "="
            if bounds
            else ""
        )
        return prefix + level(0)

    return drawn_array()


def pair(items: Literals, key: Callable[[str], Any]) -> Literals:
    """Ranges; a lower bound above the upper one is refused by the server."""

    def written(ends: list[str], marks: str) -> str:
        low, high = sorted(ends, key=key)
        return f'{marks[0]}"{low}","{high}"{marks[1]}'

    return st.builds(
        written, st.lists(items, min_size=2, max_size=2), st.sampled_from(["[)", "(]", "[]", "()"])
    ) | st.sampled_from(["empty", "(,)"])


def fields(*items: Literals) -> Literals:
    return st.builds(
        lambda *values: "(" + ",".join("" if value is None else escaped(value) for value in values) + ")",
        *(st.none() | item for item in items),
    )


LABELS = ("ok", "so 'so'", 'q"x\\y', "a,b {} NULL")
TYPES = [
    Drawn("smallint", whole(16), AS_NUMBER),
    Drawn("integer", whole(32), AS_NUMBER),
    Drawn("bigint", whole(64), AS_NUMBER),
    Drawn("oid", st.integers(0, 2**32 - 1).map(str), AS_NUMBER),
    Drawn("numeric", DECIMALS, AS_NUMBER),
    Drawn("real", FLOATS[32], BY_TEXT),
    Drawn("double precision", FLOATS[64], BY_TEXT),
    Drawn("money", MONEY, "(j #>> '{}')::numeric = c::numeric and json_typeof(j) = 'number'"),
    Drawn("boolean", st.sampled_from(["t", "f"])),
    Drawn("text", TEXTS),
    Drawn("char(7)", PRINTED.map(lambda text: text[:7]), "(j #>> '{}') = rpad(c::text, 7)"),
    Drawn("bytea", BYTES),
    Drawn("uuid", UUIDS),
    Drawn("date", day(-4711, 5874000) | INFINITE),
    Drawn("time", CLOCK | st.just("24:00:00"), BY_TEXT),
    Drawn("timetz", st.builds("{}{}".format, CLOCK, ZONES) | st.just("24:00:00+01"), BY_TEXT),
    Drawn("timestamp", moment()),
    Drawn("timestamptz", moment(ZONES)),
    Drawn("interval", INTERVALS, BY_TEXT),
    Drawn("json", DOCUMENTS, "(j #>> '{}') = c::text"),
    Drawn("jsonb", DOCUMENTS),
    Drawn("bit varying", BITS),
    Drawn("bit(5)", st.text("01", min_size=5, max_size=5), "(j #>> '{}')::bit(5) = c"),
    Drawn("inet", ADDRESSES),
    Drawn("point", POINTS, BY_TEXT),
    Drawn("path", st.lists(POINTS, min_size=1, max_size=4).map(lambda points: f"[{','.join(points)}]"), BY_TEXT),
    Drawn("mood", st.sampled_from(LABELS)),
    Drawn("item", fields(TEXTS, DECIMALS, moment(ZONES))),
    Drawn("numrange", pair(whole(100), int)),
    Drawn("tsrange", pair(st.integers(1900, 9999).map(lambda year: f"{year}-01-01 00:00:00.5"), str)),
    Drawn(
        "tsvector",
        st.lists(
            TEXT.filter(bool).map(lambda word: "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"), max_size=4
        ).map(" ".join),
    ),
    Drawn("integer[]", array(whole(32)), AS_ARRAY),
    Drawn("numeric[]", array(DECIMALS), "j::jsonb::text = to_jsonb(c)::text"),
    Drawn("double precision[]", array(FLOATS[64]), AS_ARRAY),
    Drawn("boolean[]", array(st.sampled_from(["t", "f"])), AS_ARRAY),
    Drawn("text[]", array(TEXTS), AS_ARRAY),
    Drawn("uuid[]", array(UUIDS), AS_ARRAY),
    Drawn("mood[]", array(st.sampled_from(LABELS)), AS_ARRAY),
    Drawn("bytea[]", array(BYTES, 1), ITEM_BY_ITEM.format("decode(v, 'base64')")),
    Drawn("timestamptz[]", array(moment(ZONES), 1), ITEM_BY_ITEM.format("v::timestamptz")),
    Drawn("numrange[]", array(pair(whole(100), int), 1), ITEM_BY_ITEM.format("v::numrange")),
]
SETUP = f"""
create type mood as enum ({", ".join("'" + label.replace("'", "''") + "'" for label in LABELS)});
create type item as (name text, price numeric, at timestamptz);
"""


def drawn(number: int, count: int) -> list[list[str | None]]:
    """``count`` rows of literals, in the order of TYPES; the same for the same seed."""
    found: list[list[str | None]] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.tuples(*(st.integers(0, 7).flatmap(_or_null(each)) for each in TYPES)))
    def collect(row: tuple[str | None, ...]) -> None:
        found.append(list(row))

    collect()
    return found


def _or_null(each: Drawn) -> Callable[[int], st.SearchStrategy[str | None]]:
    return lambda chance: each.literals if chance else st.none()
