"""Write the tables of docs/errors.md from the classification of errors; with --check only compare."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from airbyte_pg.classify import CONNECT_TEXTS, INTERNAL_TEXTS, SQLSTATES
from airbyte_pg.errors import ConnectorError
from tools.generated import write

Row = tuple[str, type[ConnectorError], str, str]


def tables() -> Iterator[str]:
    """The lines of both tables."""
    yield "\n## While connecting\n"
    yield from _table(("message", "what to do"), CONNECT_TEXTS, with_origin=False)
    yield "\n## At work, by SQLSTATE\n"
    states: list[Row] = [(state, *rest) for state, rest in SQLSTATES.items()]
    internal: list[Row] = [(f"XX000, {text}", *rest) for text, *rest in INTERNAL_TEXTS]  # type: ignore[misc]
    yield from _table(("SQLSTATE", "message", "what to do"), [*states, *internal], with_origin=True)


def _table(heads: tuple[str, ...], rows: Iterable[Row], *, with_origin: bool) -> Iterator[str]:
    yield "| " + " | ".join([*heads, "failure type"]) + " |"
    yield "| --- " * (len(heads) + 1) + "|"
    seen = set[str]()
    for origin, kind, message, remedy in rows:
        cells = [f"`{origin}`"] if with_origin else []
        line = "| " + " | ".join([*cells, message, remedy, f"`{kind.failure_type}`"]) + " |"
        if line not in seen:
            yield line
        seen.add(line)


if __name__ == "__main__":
    sys.exit(write("errors.md", tables()))
