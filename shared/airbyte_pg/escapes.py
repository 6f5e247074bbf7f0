"""The escapes of JSON strings that PostgreSQL, and strict decoders, do not take."""

from __future__ import annotations

import re

# The escapes of a JSON string, one after the other, so that an escaped backslash is never taken for a beginning.
_ESCAPE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.", re.DOTALL)
_SURROGATES = frozenset({b"d8", b"d9", b"da", b"db", b"dc", b"dd", b"de", b"df"})


def repair_escapes(text: bytes, *, drop_nul: bool) -> bytes:
    """JSON ``text`` with U+FFFD for each lone surrogate and, if asked, without NUL characters."""

    def replaced(match: re.Match[bytes]) -> bytes:
        escape = match.group()
        if len(escape) != 6:
            return escape
        if drop_nul and escape == b"\\u0000":
            return b""
        return b"\\ufffd" if escape[2:4].lower() in _SURROGATES else escape

    return _ESCAPE.sub(replaced, text)
