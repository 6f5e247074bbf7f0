"""What jsonb prints, without a server; the server's own word is in integration_tests/destination/test_values.py."""

from __future__ import annotations

import pytest

from destination_postgres.jsonbtext import as_jsonb

CASES = {
    '{"b":1,"aa":[1,{}],"a":"\\u0041"}': '{"a": "A", "b": 1, "aa": [1, {}]}',
    '{"a":1,"a":2}': '{"a": 2}',
    '{"é":1,"zz":2,"z":3}': '{"z": 3, "zz": 2, "é": 1}',
    '[ true , null,"x\\/\\"\\\\\\n\\u001f"]': '[true, null, "x/\\"\\\\\\n\\u001f"]',
    "1e3": "1000",
    "-1.50E-3": "-0.00150",
    "-0": "0",
    "-0.00e1": "0.0",
    "0e5": "0",
    "1.234e1": "12.34",
    "12e-5": "0.00012",
    "1e-5": "0.00001",
    "100": "100",
    "1e999999": "1e999999",
    "true": "true",
}


@pytest.mark.parametrize(("text", "wanted"), CASES.items())
def test_as_jsonb(text: str, wanted: str):
    assert as_jsonb(text) == wanted


def test_what_is_nested_too_deep_stays_as_it_came():
    text = "[" * 5000 + "1e3" + "]" * 5000
    assert as_jsonb(text) == text
