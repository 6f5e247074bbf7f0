"""JSON text taken apart: the same members as a real parser finds, at any depth, and numbers judged where they stand."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from destination_postgres import jsontext

DEEP = "[" * 5000 + "]" * 5000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
SPACED = st.sampled_from([None, 1])


@given(st.dictionaries(st.text(), JSON, max_size=5), SPACED, st.booleans())
def test_members_are_those_that_a_parser_finds(members, indent, ascii_only):
    text = json.dumps({"deep": 0, **members}, indent=indent, ensure_ascii=ascii_only).replace("\n", "\t")
    # A lone surrogate is repaired before (inbox.repair_escapes).
    found = jsontext.members(text.replace(": 0", f": {DEEP}", 1).encode())
    assert bytes(found.pop("deep")).decode() == DEEP
    members.pop("deep", None)
    assert {name: json.loads(bytes(value)) for name, value in found.items()} == members


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":%s',
        b'{"a":%s}}',
        b'{"a":%s} x',
        b'{"a":%s,}',
        b'{"a":%s"b":1}',
        b'{"a":%s,"b" 1}',
        b'{"a":%s,"b":nothing}',
        b'{"a":%s,b:1}',
        b'{"a":%s,"b":"x}',
        b'{"a":%s,"b":"x\\"}',
        b'{"a":%s,"b":"\xff"}',
        b"%s",
    ],
)
def test_what_is_no_object_is_none_at_any_depth(text: bytes):
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        jsontext.members(text % DEEP.encode())


@pytest.mark.parametrize(
    ("text", "huge"),
    [
        (b"1e999999", True),
        (b'{"a":[1,{"b":-2.5E+131072}]}', True),
        (b'["\\"1e999999",1e-16384]', True),
        (b"[" + b"1" * 131_073 + b"]", True),
        (b"[0." + b"1" * 16_384 + b"]", True),
        (b"[" + b"1" * 125_000 + b"e6073]", True),
        (b'["1e999999"]', False),
        (b'["\\\\","1e999999"]', False),
        (b'{"1e999999":1e131071}', False),
        (b"[1e-16383]", False),
        (b"[0e999999]", False),
        (b"[" + b"1" * 131_072 + b",0." + b"1" * 16_383 + b"]", False),
        (b"[" + b"1" * 125_000 + b"e6072]", False),
    ],
)
def test_numbers_that_jsonb_refuses_are_found_outside_of_strings(text: bytes, huge: bool):
    assert jsontext.has_huge_number(text) is huge


def test_a_text_in_a_string_and_in_ascii_is_the_same_text():
    text = '{"\u00e9\\\\":"\U0001f600 \\" 文"}'
    assert json.loads(jsontext.quoted(text.encode())) == text
    assert jsontext.in_ascii(text).isascii()
    assert json.loads(jsontext.in_ascii(text)) == json.loads(text)
