"""The table whitelist: qualified, quoted, with globs; what is no name is refused with its place."""

from __future__ import annotations

import pytest

from airbyte_pg.errors import ConfigError, StreamName
from source_postgres_cdc.selection import selection

CASES = [
    ("", ["public"], [("public", "a"), ("other", "a")], [True, False]),
    ("", [], [("public", "a"), ("other", "a")], [True, True]),
    ("public.a, other.b", ["public"], [("public", "a"), ("public", "b"), ("other", "b")], [True, False, True]),
    ("a", ["x"], [("sales", "a"), ("public", "a"), ("x", "a")], [True, False, False]),
    ("sales.order*", [], [("sales", "orders"), ("sales", "order"), ("sales", "my_order")], [True, True, False]),
    ("*.audit", [], [("a", "audit"), ("b", "audit"), ("b", "audits")], [True, True, False]),
    ('"Odd.Schema".*', [], [("Odd.Schema", "x y"), ("Odd", "Schema")], [True, False]),
    ('public."a, ""b"" *"', [], [("public", 'a, "b" *'), ("public", 'a, "b" c')], [True, False]),
    (" public . a ,public.b, ", [], [("public", "a"), ("public", "b")], [True, True]),
    ("public.ta ble.x", [], [], ConfigError),
    ("public.", [], [], ConfigError),
    ('public."open', [], [], ConfigError),
    (",", [], [], ConfigError),
    ("Public.A", [], [("public", "a"), ("Public", "A")], [False, True]),
    ("public.a(b)", [], [("public", "a(b)"), ("public", "ab")], [True, False]),
]


@pytest.mark.parametrize(("tables", "schemas", "names", "expected"), CASES)
def test_selection(tables, schemas, names, expected):
    if expected is ConfigError:
        with pytest.raises(ConfigError):
            selection(tables, schemas, "sales")
        return
    chosen = selection(tables, schemas, "sales")
    assert [chosen.holds(StreamName(*name)) for name in names] == expected
