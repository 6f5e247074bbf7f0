"""Kinds of values, and for each the way from PostgreSQL's text to JSON text. A value is never a Python number.

Text here is a ``str`` decoded as latin-1: one character for each byte of the server's UTF-8, so slicing, searching
and formatting are cheap and ``encode("latin-1")`` gives the server's bytes back, whatever they are.
The rules hold for snapshot and stream alike; both carry the server's own output under the same settings.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import NoReturn

# JSON string of a text: escapes the quote, the backslash and control characters only (C code in CPython).
quote: Callable[[str], str] = encode_basestring


class Unrepresentable(Exception):
    """A value that JSON cannot hold (NaN, an infinite number). The message says nothing of it."""


class Kind(enum.Enum):
    """How a value's text becomes JSON."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    MONEY = "money"
    BOOLEAN = "boolean"
    TEXT = "text"
    PLAIN = "plain"  # text that never needs escaping: dates and times
    TIMETZ = "timetz"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    ARRAY = "array"


def unrepresentable() -> NoReturn:
    """Raise Unrepresentable, from within an expression."""
    raise Unrepresentable


def integer(text: str) -> str:
    """Digits are JSON already."""
    return text


def decimal(text: str) -> str:
    """numeric, real, double precision: PostgreSQL's digits and exponents are JSON; NaN and infinities are not."""
    return text if text[-1] <= "9" else unrepresentable()


def money(text: str) -> str:
    """money under lc_monetary C (``-$1,234.50``) as a JSON number."""
    return text.replace("$", "").replace(",", "")


def boolean(text: str) -> str:
    """``t`` and ``f``."""
    return "true" if text == "t" else "false"


def plain(text: str) -> str:
    """A string without characters that JSON escapes."""
    return f'"{text}"'


def timetz(text: str) -> str:
    """``13:00:01.5-07`` to ``"13:00:01.5-07:00"``; offset zero is ``Z``. Offsets with seconds stay whole."""
    if text.endswith("+00"):
        return f'"{text[:-3]}Z"'
    return f'"{text}:00"' if text[-3] in "+-" else f'"{text}"'


# Zeros that are missing from a fraction of n digits, by n (0 = none and no point either).
_FRACTION = (".000000", "00000", "0000", "000", "00", "0", "")


# The same by the length of the whole text, 2024-03-12 22:41:18.042; with a time zone it is three longer, and Z follows.
MISSING_FRACTION = ("",) * 19 + (_FRACTION[0], *_FRACTION)
MISSING_FRACTION_BEFORE_ZONE = ("",) * 3 + tuple(f"{zeros}Z" for zeros in MISSING_FRACTION)


def timestamp(text: str) -> str:
    """``2024-03-12 22:41:18.042`` to ``"2024-03-12T22:41:18.042000"``; ``BC`` and infinity are kept."""
    return _timestamp(text, "")


def timestamptz(text: str) -> str:
    """``2024-03-12 22:41:18.042+00`` (session time zone UTC) to ``"2024-03-12T22:41:18.042000Z"``."""
    size = len(text)
    if 22 <= size <= 29 and text[10] == " " and text[-3:] == "+00":
        return f'"{text[:10]}T{text[11:-3]}{_FRACTION[size - 23 if size > 22 else 0]}Z"'
    return _timestamp(text, "Z")


def _timestamp(text: str, zone: str) -> str:
    if text[-1] == "y":  # infinity, -infinity
        return f'"{text}"'
    era = ""
    if text.endswith(" BC"):
        text, era = text[:-3], " BC"
    if zone:
        if not text.endswith("+00"):
            raise ValueError("a timestamp with time zone that is not in UTC")
        text = text[:-3]
    day, _, time = text.partition(" ")
    return f'"{day}T{time}{_FRACTION[len(time) - 9 if len(time) > 8 else 0]}{zone}{era}"'


def array(text: str, element: Callable[[str], str], delimiter: str, lost: list[int] | None = None) -> str:
    """An array's text (PostgreSQL documentation 8.15.6) as a JSON array, nested by dimension.

    Lower bounds (``[0:2]={…}``) are dropped, NULL elements are null. An element that JSON cannot hold raises
    Unrepresentable, or with ``lost`` becomes null and its ordinal is appended there.
    """
    out: list[str] = []
    at = text.index("=") + 1 if text[0] == "[" else 0
    ordinal = 0
    size = len(text)
    while at < size:
        character = text[at]
        if character == "{":
            out.append("[")
            at += 1
        elif character == "}":
            out.append("]")
            at += 1
        elif character == delimiter:
            out.append(",")
            at += 1
        else:
            quoted = character == '"'
            item, at = _quoted_element(text, at + 1) if quoted else _bare_element(text, at, delimiter)
            if not quoted and item == "NULL":
                out.append("null")
            else:
                try:
                    out.append(element(item))
                except Unrepresentable:
                    if lost is None:
                        raise
                    lost.append(ordinal)
                    out.append("null")
            ordinal += 1
    return "".join(out)


_BARE = {delimiter: re.compile(f"[^{delimiter}}}]*") for delimiter in ",;"}


def _bare_element(text: str, at: int, delimiter: str) -> tuple[str, int]:
    match = _BARE[delimiter].match(text, at)
    end = match.end() if match else at
    if end == len(text):
        raise ValueError("an array without an end")
    return text[at:end], end


def _quoted_element(text: str, at: int) -> tuple[str, int]:
    end = text.index('"', at)
    if "\\" not in text[at:end]:
        return text[at:end], end + 1
    parts: list[str] = []
    while True:
        backslash = text.find("\\", at)
        end = text.index('"', at)
        if backslash < 0 or end < backslash:
            parts.append(text[at:end])
            return "".join(parts), end + 1
        parts.append(text[at:backslash])
        parts.append(text[backslash + 1])
        at = backslash + 2


SCALARS: dict[Kind, Callable[[str], str]] = {
    Kind.INTEGER: integer,
    Kind.DECIMAL: decimal,
    Kind.MONEY: money,
    Kind.BOOLEAN: boolean,
    Kind.TEXT: quote,
    Kind.PLAIN: plain,
    Kind.TIMETZ: timetz,
    Kind.TIMESTAMP: timestamp,
    Kind.TIMESTAMPTZ: timestamptz,
}
