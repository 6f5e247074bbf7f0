"""COPY's text format (PostgreSQL documentation, COPY, "Text Format"): unescape a value, split a line."""

from __future__ import annotations

import re

NULL = "\\N"

_NAMED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
# COPY TO writes these six, a doubled backslash, and nothing else behind a backslash.
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def unescape(value: str) -> str:
    """``value`` without COPY's backslash escapes."""
    return _ESCAPE.sub(lambda match: _NAMED.get(match[1], match[1]), value)


def split_line(line: str) -> list[str | None]:
    """The values of one line (without its line feed); None is NULL."""
    return [None if value == NULL else unescape(value) if "\\" in value else value for value in line.split("\t")]
