"""Kinds of values, and for each the way from PostgreSQL's text to JSON text. A value is never a Python number.

Text here is a ``str`` decoded as latin-1: one character for each byte of the server's UTF-8, so slicing, searching
and formatting are cheap and ``encode("latin-1")`` gives the server's bytes back, whatever they are.
The rules hold for snapshot and stream alike; both carry the server's own output under the same settings.
"""

from __future__ import annotations

import enum
import re
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from json.encoder import encode_basestring
from typing import NoReturn

# JSON string of a text: escapes the quote, the backslash and control characters only (C code in CPython).
quote: Callable[[str], str] = encode_basestring


class Unrepresentable(Exception):
    """A value that JSON cannot hold: NaN, an infinite number, text that is no UTF-8. The message says nothing of it."""


class Kind(enum.Enum):
    """How a value's text becomes JSON."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    DECIMAL_OR_TEXT = "decimal_or_text"  # the option special_values: text
    MONEY = "money"
    MONEY_WHOLE = "money_whole"  # a currency without smaller units, as lc_monetary of the server says
    MONEY_MILLE = "money_mille"  # of a thousand smaller units
    BOOLEAN = "boolean"
    BIT = "bit"  # an element of bit(1)[]
    TEXT = "text"
    PLAIN = "plain"  # text of ASCII that never needs escaping: dates, addresses, uuid
    BYTEA = "bytea"
    BASE64 = "base64"  # an element of bytea[]
    HSTORE = "hstore"
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


def decimal_or_text(text: str) -> str:
    """As ``decimal``, with NaN and infinities as strings."""
    return text if text[-1] <= "9" else f'"{text}"'


def money(text: str) -> str:
    """money under lc_monetary C (``-$1,234.50``) as a JSON number."""
    return text.replace("$", "").replace(",", "")


def money_whole(text: str) -> str:
    """The same text where the unit is what it shows as a hundredth."""
    return _scaled(text, 0)


def money_mille(text: str) -> str:
    """The same text where a thousand of what it shows as hundredths are a unit."""
    return _scaled(text, 3)


def _scaled(text: str, digits: int) -> str:
    units = money(text).replace(".", "")
    sign = "-" * units.startswith("-")
    units = units[len(sign) :].lstrip("0").zfill(digits + 1)
    return f"{sign}{units[:-digits]}.{units[-digits:]}" if digits else f"{sign}{units}"


def boolean(text: str) -> str:
    """``t`` and ``f``."""
    return "true" if text == "t" else "false"


def bit(text: str) -> str:
    """``1`` and ``0`` of a bit(1)."""
    return "true" if text == "1" else "false"


def plain(text: str) -> str:
    """A string without characters that JSON escapes."""
    return f'"{text}"'


def bytea(text: str) -> str:
    """bytea under bytea_output hex: ``\\x01ff``, whose backslash is all that JSON escapes."""
    return f'"\\{text}"'


def base64(text: str) -> str:
    """The same bytes in base64."""
    return f'"{b64encode(bytes.fromhex(text[2:])).decode("ascii")}"'


# PostgreSQL documentation F.18: keys and values in double quotes, in which a backslash stands before a quote and a
# backslash, but for NULL.
_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def hstore(text: str) -> str:
    """``"a"=>"1", "b"=>NULL`` as a string that holds a JSON object, in the order of the server."""
    pairs = (
        f"{quote(_ESCAPED.sub(_escaped, key))}:{'null' if value is None else quote(_ESCAPED.sub(_escaped, value))}"
        for key, value in (match.groups() for match in _PAIR.finditer(text))
    )
    return quote(f"{{{','.join(pairs)}}}")


def _escaped(match: re.Match[str]) -> str:
    return match[1]


def utf8(text: str) -> str:
    """``text`` itself, where its bytes are UTF-8. Raises Unrepresentable."""
    if not text.isascii():
        try:
            text.encode("latin-1").decode("utf-8")
        except UnicodeDecodeError:
            raise Unrepresentable from None
    return text


def repaired(text: str) -> str:
    """``text`` with U+FFFD for what is no UTF-8."""
    return text.encode("latin-1").decode("utf-8", "replace").encode("utf-8").decode("latin-1")


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


def array(text: str, kind: Kind, delimiter: str) -> str:
    """An array's text (PostgreSQL documentation 8.15.6) as a JSON array, nested by dimension.

    Lower bounds (``[0:2]={…}``) are dropped, NULL elements are null. Raises Unrepresentable.
    """
    if text[0] == "[":
        text = text[text.index("=") + 1 :]
    # The ordinary ones in one go: what stands for numbers and truth values is never in quotes, and of text neither the
    # delimiter nor braces are, unless there are quotes.
    if kind is Kind.INTEGER or (kind in (Kind.DECIMAL, Kind.DECIMAL_OR_TEXT) and not _SPECIAL.search(text)):
        return text.replace("{", "[").replace("}", "]").replace("NULL", "null")
    if kind is Kind.BOOLEAN:
        return (
            text.replace("f", "false").replace("t", "true").replace("NULL", "null").replace("{", "[").replace("}", "]")
        )
    if kind in (Kind.TEXT, Kind.PLAIN) and text.rfind("{") == 0:
        if '"' not in text and "NULL" not in text:
            return f"[{quote(text[1:-1]).replace(delimiter, _BETWEEN)}]" if len(text) > 2 else "[]"
        if text.isprintable():
            # In quotes both escape the same two characters in the same way.
            items = _items(delimiter).findall(text)
            return f"[{','.join([i if i[0] == _QUOTE else 'null' if i == 'NULL' else quote(i) for i in items])}]"
    return _array(text, SCALARS[kind], delimiter)


_QUOTE = '"'
_BETWEEN = '","'


@cache
def _items(delimiter: str) -> re.Pattern[str]:
    """The elements of an array of one dimension: in quotes, or bare."""
    return re.compile(rf'"(?:[^"\\]|\\.)*"|[^{{}}"{re.escape(delimiter)}]+')


_SPECIAL = re.compile("Na|I")


def array_with_gaps(text: str, kind: Kind, delimiter: str) -> str:
    """As ``array``, with null for an element that JSON cannot hold."""
    element = SCALARS[kind]

    def with_gap(item: str) -> str:
        try:
            return element(item)
        except Unrepresentable:
            return "null"

    return _array(text, with_gap, delimiter)


def _array(text: str, element: Callable[[str], str], delimiter: str) -> str:
    out: list[str] = []
    at = text.index("=") + 1 if text[0] == "[" else 0
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
        elif character == '"':
            item, at = _quoted_element(text, at + 1)
            out.append(element(item))
        else:
            item, at = _bare_element(text, at, delimiter)
            out.append("null" if item == "NULL" else element(item))
    return "".join(out)


@cache
def _bare(delimiter: str) -> re.Pattern[str]:
    return re.compile(f"[^{re.escape(delimiter)}}}]*")


def _bare_element(text: str, at: int, delimiter: str) -> tuple[str, int]:
    match = _bare(delimiter).match(text, at)
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
    Kind.DECIMAL_OR_TEXT: decimal_or_text,
    Kind.MONEY: money,
    Kind.MONEY_WHOLE: money_whole,
    Kind.MONEY_MILLE: money_mille,
    Kind.BOOLEAN: boolean,
    Kind.BIT: bit,
    Kind.TEXT: quote,
    Kind.PLAIN: plain,
    Kind.BYTEA: bytea,
    Kind.BASE64: base64,
    Kind.HSTORE: hstore,
    Kind.TIMETZ: timetz,
    Kind.TIMESTAMP: timestamp,
    Kind.TIMESTAMPTZ: timestamptz,
}
