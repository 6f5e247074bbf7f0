"""JSON text as jsonb prints it: what a value that is no string becomes in a string column (reference 3.5).

Names in jsonb's order and once each, one blank behind commas and colons, numbers as numeric spells them. Text in, text
out: no digit is read as a number.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode

_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?)(\d+))?", re.ASCII)
# numeric's limits. What is beyond them keeps its spelling; jsonb refuses it.
_MOST_SHIFT = 131_072


def as_jsonb(text: str) -> str:
    """The valid JSON ``text`` as jsonb spells it; as it came where it is nested too deep.

    A number that is too large for jsonb keeps its spelling.
    """
    try:
        return _value(text)
    except RecursionError:
        return text


def number(text: str) -> str:
    """A JSON number as numeric spells it: without exponent or the sign of a zero, with the digits that it has."""
    matched = _NUMBER.fullmatch(text)
    if matched is None:
        return text
    sign, whole, fraction, exponent_sign, exponent = matched.groups()
    fraction, exponent = fraction or "", (exponent or "").lstrip("0")
    if len(exponent) > len(str(_MOST_SHIFT)) or int(exponent or "0") > _MOST_SHIFT:
        return text
    # By how many digits the point moves: a size, not a value.
    shift = int(exponent or "0") * (-1 if exponent_sign == "-" else 1)
    if shift >= 0:
        fraction = fraction.ljust(shift, "0")
        whole, fraction = whole + fraction[:shift], fraction[shift:]
    else:
        whole = whole.rjust(1 - shift, "0")
        whole, fraction = whole[:shift], whole[shift:] + fraction
    digits = f"{whole.lstrip('0') or '0'}{'.' if fraction else ''}{fraction}"
    return f"{sign}{digits}" if digits.strip("0.") else digits


def _value(text: str) -> str:
    if text[0] == "{":
        members = _decode_object(text)
        return (
            "{" + ", ".join(f"{_string(name)}: {_nested(members[name])}" for name in sorted(members, key=_rank)) + "}"
        )
    if text[0] == "[":
        return "[" + ", ".join(map(_nested, _decode_array(text))) + "]"
    if text[0] == '"':
        return _string(_decode_string(text))
    return text if text in ("true", "false", "null") else number(text)


def _nested(raw: Raw) -> str:
    return _value(str(raw, "utf-8"))


def _string(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _rank(name: str) -> tuple[int, bytes]:
    # By length first: PostgreSQL documentation, jsonb; lengthCompareJsonbString.
    encoded = name.encode()
    return len(encoded), encoded
