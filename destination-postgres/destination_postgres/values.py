"""What a value of ``data`` becomes in its column: text that the server takes without question, or None (NULL).

Values stay text: they are judged by their shape and copied, never turned into numbers or dates. Rules and limits:
reference 3.5 and 3.6. What is refused here becomes NULL with an entry in ``_airbyte_meta.changes``, as does what the
server refuses (copyin.py), but that costs a hundred times as much; so these functions refuse all but a few texts that
the server would. What they refuse and it would not are other spellings: words like ``now``, dates without hyphens.

Two entrances: the ``*_text`` functions take the decoded text of a JSON string, ``from_json`` takes any JSON text. With
``judged=False`` they look at the spelling alone: ranges and the calendar are left to the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

import msgspec

from destination_postgres import jsonbtext
from destination_postgres.columns import Kind

_INT8_MAX = "9223372036854775807"
_INT8_MIN = "9223372036854775808"

# numeric: 131,072 digits before the point and 16,383 after (PostgreSQL documentation, Numeric Types).
_NUMERIC_WHOLE = 131_072
_NUMERIC_FRACTION = 16_383
# decimal(38,9).
_DECIMAL_WHOLE = 29
_DECIMAL_FRACTION = 9
# numeric_in takes no exponent beyond, even behind zeros (before 16 not this one either).
_EXPONENT_LIMIT = 1_073_741_823

_NUMBER = re.compile(r"\s*([+-]?)(?:(\d+)(?:\.(\d*))?|\.(\d+))(?:[eE]([+-]?)(\d+))?\s*", re.ASCII)
_INTEGER = re.compile(r"\s*([+-]?)0*(\d+)\s*", re.ASCII)
_SPECIAL_NUMBERS = frozenset({"nan", "infinity", "-infinity"})
_INFINITIES = frozenset({"infinity", "-infinity"})

_CLOCK = r"(?:(?:[01]\d|2[0-3]):[0-5]\d(?::(?:[0-5]\d|60)(?:\.\d{1,30})?)?|24:00(?::00(?:\.0{1,30})?)?)"
# The server's greatest displacement is 15:59:59.
_ZONE = r"(?: ?(?:[Zz]|UTC|[+-](?:0\d|1[0-5])(?::?[0-5]\d(?::?[0-5]\d)?)?))"
_TIME = re.compile(rf"\s*({_CLOCK})({_ZONE}?)\s*", re.ASCII)
_MOMENT = re.compile(
    rf"\s*\+?((\d{{4,7}})-(\d\d)-(\d\d))(?:[Tt ]({_CLOCK})({_ZONE})?)?( (?:BC|bc|AD|ad))?\s*", re.ASCII
)
# What stands behind the date in nearly every timestamp.
USUAL_TAIL = re.compile(r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:0\d|1[0-4]):[0-5]\d)?", re.ASCII)

_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# The first (BC) and the last day: year, month and day as one number.
_FIRST_DATE, _LAST_DATE = 4714_11_24, 5874897_12_31
# A timestamp on the day next to its first or last may be one in its zone; the server decides.
_FIRST_TIMESTAMP, _LAST_TIMESTAMP = 4714_11_23, 294277_01_01

# Dates (YYYY-MM-DD) that exist, so that the calendar is asked once per date and not once per value; bounded.
KNOWN_DATES: set[str] = set()
_KNOWN_DATES_LIMIT = 100_000


class Judge(Protocol):
    """Judges a decoded string."""

    def __call__(self, text: str, *, judged: bool = True) -> str | None:
        """The column's text, or None."""


_decode_string = msgspec.json.Decoder(str).decode


def integer_text(text: str, *, judged: bool = True) -> str | None:
    """A whole number within bigint. ``1e3`` is one (as in jsonb), ``42.0`` is not."""
    matched = _INTEGER.fullmatch(text)
    if matched is None:
        return _whole_of_exponent(text, judged=judged)
    sign, digits = matched.groups()
    if judged and len(digits) > len(_INT8_MAX):
        return None
    # Equally long digits compare like the numbers that they are.
    if judged and len(digits) == len(_INT8_MAX) and digits > (_INT8_MIN if sign == "-" else _INT8_MAX):
        return None
    return f"-{digits}" if sign == "-" else digits


def is_number(json_text: str) -> bool:
    """Whether it is spelt as a number in digits, in or out of quotes: if numeric refuses it, then for its size."""
    return _NUMBER.fullmatch(_decode_string(json_text) if json_text.startswith('"') else json_text) is not None


def number_text(text: str, *, judged: bool = True) -> str | None:
    """A number that numeric can hold, with every digit; NaN and the infinities are numbers."""
    matched = _NUMBER.fullmatch(text)
    if matched is None:
        return text.strip() if text.strip().lower() in _SPECIAL_NUMBERS else None
    if judged and not _fits_numeric(matched):
        return None
    return text.strip()


def decimal_text(text: str, *, judged: bool = True) -> str | None:
    """A number with at most 29 digits before the point; the server rounds it to nine behind it. NaN is one."""
    matched = _NUMBER.fullmatch(text)
    if matched is None:
        return text.strip() if text.strip().lower() == "nan" else None
    return text.strip() if not judged or _fits_decimal(matched) else None


def is_rounded(text: str) -> bool:
    """Whether ``text``, of decimal_text, has digits that the server's rounding cuts off."""
    matched = _NUMBER.fullmatch(text)
    if matched is None:
        return False
    digits, shift = _digits(matched)
    fraction = len(matched.group(3) or matched.group(4) or "")
    return bool(digits) and fraction - shift - (len(digits) - len(digits.rstrip("0"))) > _DECIMAL_FRACTION


def boolean_text(text: str) -> str | None:
    """A JSON true or false; the numbers 1 and 0 are taken as the server takes them."""
    return {"true": "t", "false": "f", "1": "t", "0": "f"}.get(text)


def date_text(text: str, *, judged: bool = True) -> str | None:
    """A date of the calendar; of a timestamp its date."""
    if text in KNOWN_DATES:
        return text
    matched = _MOMENT.fullmatch(text)
    if matched is None:
        return text.strip() if text.strip().lower() in _INFINITIES else None
    date, year, month, day, _, _, era = matched.groups()
    if not _exists(year, month, day, era, _FIRST_DATE, _LAST_DATE, judged=judged):
        return None
    return f"{date}{era or ''}"


def timestamp_text(text: str, *, judged: bool = True) -> str | None:
    """A moment, with or without zone; a date is its midnight. For both timestamp types."""
    if text[:10] in KNOWN_DATES and USUAL_TAIL.fullmatch(text, 10):
        return text
    matched = _MOMENT.fullmatch(text)
    if matched is None:
        return text.strip() if text.strip().lower() in _INFINITIES else None
    date, year, month, day, clock, zone, era = matched.groups()
    if not _exists(year, month, day, era, _FIRST_TIMESTAMP, _LAST_TIMESTAMP, judged=judged):
        return None
    # The usual spelling is left alone, whether its date is known by now or was not.
    if text[:10] == date and USUAL_TAIL.fullmatch(text, 10):
        return text
    clock_text = f" {clock}{(zone or '').strip()}" if clock else ""
    return f"{date}{clock_text}{era or ''}"


def time_text(text: str, *, judged: bool = True) -> str | None:
    """A time of day; its zone is dropped, as the server does."""
    matched = _TIME.fullmatch(text)
    return matched.group(1) if matched else None


def timetz_text(text: str, *, judged: bool = True) -> str | None:
    """A time of day with its zone; without one it is UTC, by the session's TimeZone."""
    matched = _TIME.fullmatch(text)
    return f"{matched.group(1)}{matched.group(2).strip()}" if matched else None


def from_json(kind: Kind, value: str, *, judged: bool = True) -> str | None:
    """The column text of the JSON text ``value``, which is not ``null`` (but for UNKNOWN); None if it does not fit.

    Raises msgspec.DecodeError for a string with a lone surrogate.
    """
    quoted = value.startswith('"')
    if kind is Kind.UNKNOWN:
        return value
    if kind is Kind.STRING:
        return _decode_string(value) if quoted else jsonbtext.as_jsonb(value)
    if kind is Kind.OBJECT:
        return value if value.startswith("{") else None
    if kind is Kind.ARRAY:
        return value if value.startswith("[") else None
    if kind is Kind.BOOLEAN:
        return boolean_text(jsonbtext.number(value))
    if kind in (Kind.INTEGER, Kind.NUMBER, Kind.DECIMAL):
        text = _decode_string(value) if quoted else value
        return TEXTS[kind](jsonbtext.number(text) if kind is Kind.INTEGER and not quoted else text, judged=judged)
    return TEXTS[kind](_decode_string(value), judged=judged) if quoted else None


# The judge of a decoded string, by kind.
TEXTS: Mapping[Kind, Judge] = {
    Kind.INTEGER: integer_text,
    Kind.NUMBER: number_text,
    Kind.DECIMAL: decimal_text,
    Kind.DATE: date_text,
    Kind.TIME: time_text,
    Kind.TIMETZ: timetz_text,
    Kind.TIMESTAMP: timestamp_text,
    Kind.TIMESTAMPTZ: timestamp_text,
}


def _digits(matched: re.Match[str]) -> tuple[str, int]:
    """The digits of a number, without leading zeros, and by how many the exponent moves the point."""
    _, whole, fraction, bare_fraction, exponent_sign, exponent = matched.groups()
    exponent = (exponent or "").lstrip("0")
    # A size, not a value; cut where it is beyond every limit.
    shift = int(exponent[: len(str(_EXPONENT_LIMIT)) + 1] or "0") * (-1 if exponent_sign == "-" else 1)
    return f"{whole or ''}{fraction or bare_fraction or ''}".lstrip("0"), shift


def _fits_numeric(matched: re.Match[str]) -> bool:
    digits, shift = _digits(matched)
    fraction = len(matched.group(3) or matched.group(4) or "") - shift
    if abs(shift) > _EXPONENT_LIMIT or fraction > _NUMERIC_FRACTION:
        return False
    return not digits or len(digits) - fraction <= _NUMERIC_WHOLE


def _fits_decimal(matched: re.Match[str]) -> bool:
    digits, shift = _digits(matched)
    whole = len(digits) + shift - len(matched.group(3) or matched.group(4) or "")
    if not _fits_numeric(matched) or (digits and whole > _DECIMAL_WHOLE):
        return False
    # Nothing but nines may be rounded up to one digit more.
    nines = _DECIMAL_WHOLE + _DECIMAL_FRACTION
    return whole < _DECIMAL_WHOLE or len(digits) <= nines or digits[:nines] != "9" * nines


def _whole_of_exponent(text: str, *, judged: bool) -> str | None:
    # The point is moved in the text. Digits behind it, be they zeros, make it no whole number for the server.
    matched = _NUMBER.fullmatch(text)
    if matched is None or not matched.group(6) or matched.group(5) == "-":
        return None
    sign, whole, fraction, bare_fraction, _, exponent = matched.groups()
    digits, fraction = whole or "", fraction or bare_fraction or ""
    exponent = exponent.lstrip("0") or "0"
    if len(exponent) > 2 or len(fraction) > int(exponent):
        return None
    return integer_text(f"{sign}{digits}{fraction.ljust(int(exponent), '0')}", judged=judged)


def _exists(year: str, month: str, day: str, era: str | None, first: int, last: int, *, judged: bool) -> bool:
    # No spelling of the server's.
    if len(year) > 4 and year[0] == "0":
        return False
    if not judged:
        return True
    number, before_christ = int(year), era is not None and era.strip().upper() == "BC"
    date = int(f"{year}{month}{day}")
    first_year = first // 1_00_00
    if number < 1 or (
        date > last if not before_christ else number > first_year or (number == first_year and date < first)
    ):
        return False
    if not ("01" <= month <= "12" and "01" <= day <= "31"):
        return False
    # 1 BC is the year 0 of the leap rule, and a leap year.
    leap_year = 1 - number if before_christ else number
    leap = leap_year % 4 == 0 and (leap_year % 100 != 0 or leap_year % 400 == 0)
    if int(day) > _DAYS[int(month) - 1] or (month == "02" and day == "29" and not leap):
        return False
    if not era and len(year) == 4:
        _remember(f"{year}-{month}-{day}")
    return True


def _remember(date: str) -> None:
    if len(KNOWN_DATES) >= _KNOWN_DATES_LIMIT:
        KNOWN_DATES.clear()
    KNOWN_DATES.add(date)
