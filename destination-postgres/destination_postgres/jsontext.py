"""JSON text taken apart without reading it: bytes in, slices of them out, whatever their length and depth.

Only for what the decoder does not take (nested deeper than its recursion goes) and for what the server refused.
Values are passed through; whether a nested one is valid JSON is for the server to say.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

from destination_postgres import values

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode

# What the decoder raises for what it does not take. The bytes of a Raw have not been looked at before.
INVALID = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_SPACE = re.compile(rb"[ \t\r\n]*")
_SCALAR = re.compile(rb"-?[0-9][0-9.eE+-]*|true|false|null")
# What the nesting of a value depends on.
_BRACKET_OR_QUOTE = re.compile(rb'["{}\[\]]')
_NUMBER_OR_QUOTE = re.compile(rb'"|-?[0-9][0-9.eE+-]*')
# A number beyond numeric's limits has an exponent or a run of digits like this (16,383 digits may stand behind the
# point; an exponent of four digits moves it by 9,999).
_MAY_BE_HUGE = re.compile(rb"[eE][+-]?[0-9]{5}|[0-9]{6000}")
_NOT_ASCII = re.compile("[^\0-\x7f]")


def members(text: bytes | memoryview) -> dict[str, Raw]:
    """The members of the JSON object ``text``, nested to any depth; of equal names the last.

    Raises msgspec.DecodeError or UnicodeDecodeError for what is none.
    """
    try:
        return _decode_members(text)
    except RecursionError:
        # Slices of Raw are checked for nothing, so the whole is.
        whole = bytes(text)
        whole.decode()
        return _members(whole)


def has_huge_number(text: bytes) -> bool:
    """Whether a number in the JSON ``text`` is beyond what numeric, and so jsonb, can hold."""
    if _MAY_BE_HUGE.search(text) is None:
        return False
    position = 0
    while found := _NUMBER_OR_QUOTE.search(text, position):
        if found.group() == b'"':
            position = _string_end(text, found.start())
            continue
        position = found.end()
        if _MAY_BE_HUGE.search(found.group()) and values.number_text(found.group().decode()) is None:
            return True
    return False


def may_have_huge_number(text: bytes | memoryview) -> bool:
    """Whether a closer look is needed; ``text`` may be anything that has JSON in it."""
    return _MAY_BE_HUGE.search(text) is not None


def quoted(text: bytes) -> bytes:
    """The JSON string that holds the JSON ``text``, which has no control characters."""
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def in_ascii(text: str) -> str:
    r"""``text`` with ``\u`` escapes for what is not ASCII: of JSON text, the same value."""
    return _NOT_ASCII.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def _members(text: bytes) -> dict[str, Raw]:
    found: dict[str, Raw] = {}
    position = _after(text, 0, b"{")
    if text[position : position + 1] == b"}":
        position += 1
    else:
        while True:
            end = _value_end(text, position)
            name = _decode_string(text[position:end])
            start = _after(text, _spaces_end(text, end), b":")
            end = _value_end(text, start)
            found[name] = Raw(text[start:end])
            position = _spaces_end(text, end)
            if text[position : position + 1] == b"}":
                position += 1
                break
            position = _after(text, position, b",")
    if _spaces_end(text, position) != len(text):
        raise msgspec.DecodeError("text behind a JSON object")
    return found


def _after(text: bytes, position: int, token: bytes) -> int:
    """Where the next token begins behind ``token``, which stands at ``position`` or behind spaces there."""
    position = _spaces_end(text, position)
    if text[position : position + 1] != token:
        raise msgspec.DecodeError("no JSON object")
    return _spaces_end(text, position + 1)


def _spaces_end(text: bytes, position: int) -> int:
    matched = _SPACE.match(text, position)
    return position if matched is None else matched.end()


def _value_end(text: bytes, start: int) -> int:
    first = text[start : start + 1]
    if first == b'"':
        return _string_end(text, start)
    if first not in (b"{", b"["):
        scalar = _SCALAR.match(text, start)
        if scalar is None:
            raise msgspec.DecodeError("no JSON value")
        return scalar.end()
    depth, position = 0, start
    while found := _BRACKET_OR_QUOTE.search(text, position):
        token = found.group()
        if token == b'"':
            position = _string_end(text, found.start())
            continue
        position = found.end()
        depth += 1 if token in b"{[" else -1
        if not depth:
            return position
    raise msgspec.DecodeError("a JSON value without end")


def _string_end(text: bytes, start: int) -> int:
    """Behind the string that begins at ``start``. A loop: a pattern would keep a place to return to for each escape."""
    end = start
    while (end := text.find(b'"', end + 1)) >= 0:
        backslashes = end
        while text[backslashes - 1] == 0x5C:
            backslashes -= 1
        if (end - backslashes) % 2 == 0:
            return end + 1
    raise msgspec.DecodeError("a JSON string without end")
