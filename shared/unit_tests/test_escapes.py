"""Escapes that are repaired: lone surrogates, and NUL where it is asked."""

from __future__ import annotations

import pytest

from airbyte_pg.escapes import repair_escapes


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (b'"a"', b'"a"'),
        (b'"\\ud83d\\ude00"', b'"\\ud83d\\ude00"'),
        (b'"\\uD83D\\uDE00"', b'"\\uD83D\\uDE00"'),
        (b'"\\ude00\\ud83d"', b'"\\ufffd\\ufffd"'),
        (b'"\\ud83d\\ud83d\\ude00"', b'"\\ufffd\\ud83d\\ude00"'),
        (b'"\\ud83dn"', b'"\\ufffdn"'),
        (b'"\\ud83d\\n"', b'"\\ufffd\\n"'),
        (b'"\\\\u0000"', b'"\\\\u0000"'),
        (b'"\\\\\\u0000"', b'"\\\\"'),
        (b'{"\\u0000k":["\\u0000"]}', b'{"k":[""]}'),
        (b'"\\ud83d\\u0000\\ude00"', b'"\\ufffd\\ufffd"'),
        (b'"\\u00e9\\u0001"', b'"\\u00e9\\u0001"'),
    ],
)
def test_repairs(given: bytes, wanted: bytes):
    assert repair_escapes(given, drop_nul=True) == wanted
