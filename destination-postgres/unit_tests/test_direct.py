"""Rows in COPY's text format as the arrays of a statement."""

from __future__ import annotations

import pytest

from destination_postgres.direct import array, columns
from destination_postgres.exact import NULL, copy_escaped


def test_rows_become_columns_and_columns_arrays():
    cells = columns("1\ta\n2\t\\N\n", ["id", "name"])
    assert cells == {"id": ("1", "2"), "name": ("a", NULL)}
    assert [array(column) for column in cells.values()] == ['{"1","2"}', '{"a",NULL}']


@pytest.mark.parametrize(
    ("text", "element"),
    [
        ("", '""'),
        ("NULL", '"NULL"'),
        (NULL, r'"\\N"'),
        ('{"a": "b"}', r'"{\"a\": \"b\"}"'),
        ("a\tb\nc\rd", '"a\tb\nc\rd"'),
        (r"\t", r'"\\t"'),
        ('\\"\\\t', '"\\\\\\"\\\\\t"'),
        ("a,b}", '"a,b}"'),
    ],
)
def test_each_text_is_what_the_server_reads(text: str, element: str):
    (cells,) = columns(copy_escaped(text) + "\n", ["text"]).values()
    assert array(cells) == f"{{{element}}}"
