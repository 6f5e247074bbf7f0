"""Write the source's part of docs/types.md from the table of types; with --check only compare."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from source_postgres_cdc.core.values import Kind
from source_postgres_cdc.pgtypes import ANY_OTHER, BUILTIN, EXTENSIONS, JsonSchema, TypeRow
from tools.generated import write

PRINTED = "the text that PostgreSQL prints"
VALUES = {
    Kind.INTEGER: "its digits",
    Kind.DECIMAL: "its digits; NaN and infinities are null with a change, or text",
    Kind.MONEY: "the amount, as digits",
    Kind.BOOLEAN: "`true`, `false`",
    Kind.TEXT: PRINTED,
    Kind.PLAIN: PRINTED,
    Kind.BYTEA: "`\\x` and hex digits",
    Kind.BASE64: "base64",
    Kind.HSTORE: "the text of a JSON object",
    Kind.TIMETZ: "`13:00:01.5-07:00`, `13:00:04Z`",
    Kind.TIMESTAMP: "`2004-10-19T10:23:00.123456`, always six digits; `0044-03-15T10:00:00.000000 BC`",
    Kind.TIMESTAMPTZ: "the same in UTC, with `Z` before ` BC`",
}


def table() -> Iterator[str]:
    """The lines of the table; types that are alike share one."""
    yield "| PostgreSQL | JSON schema | value | element of an array, if other | decision |"
    yield "| --- | --- | --- | --- | --- |"
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in [*BUILTIN.values(), *EXTENSIONS.values(), ANY_OTHER]:
        alike.setdefault(cells(row), []).append(row.name)
    for shared, names in alike.items():
        yield f"| {', '.join(names)} | {' | '.join(shared)} |"


def cells(row: TypeRow) -> tuple[str, ...]:
    """What the table says of a type behind its name."""
    value = VALUES[row.kind]
    item_schema, item_kind = row.as_item
    other = [named(item_schema)] if item_schema != row.schema else []
    other += [VALUES[item_kind]] if item_kind is not row.kind else []
    return named(row.schema), value, ", ".join(other), row.decision


def named(schema: JsonSchema) -> str:
    """A schema in few words."""
    if "airbyte_type" in schema:
        return f"{schema['type']}, `{schema['airbyte_type']}`"
    return f"{schema['type']}, `{schema['format']}`" if "format" in schema else json.dumps(schema["type"]).strip('"')


if __name__ == "__main__":
    sys.exit(write("types.md", table()))
