"""Which tables a configuration selects: schemas, and a whitelist of ``schema.table`` with quotes and globs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from airbyte_pg.errors import ConfigError, StreamName

# A name: quoted as SQL does ("" is a quote), or anything without dots, commas, quotes and outer spaces.
_NAME = r'"(?:[^"]|"")+"|[^".,\s][^".,]*?'
_ENTRY = re.compile(rf"\s*(?:(?P<schema>{_NAME})\s*\.\s*)?(?P<table>{_NAME})\s*(?:,|$)")


@dataclass(frozen=True)
class Selection:
    """Patterns of schema and table; none: every table of ``schemas`` (of every schema, when that is empty too)."""

    schemas: tuple[str, ...]
    patterns: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = ()

    def holds(self, table: StreamName) -> bool:
        """Whether ``table`` is selected."""
        schema = table.namespace or ""
        if self.patterns:
            return any(
                of_schema.fullmatch(schema) and of_table.fullmatch(table.name) for of_schema, of_table in self.patterns
            )
        return not self.schemas or schema in self.schemas


def selection(tables: str, schemas: Sequence[str], default_schema: str) -> Selection:
    """The selection of a whitelist ``tables`` (``public.a, "Odd.Schema".*, b``); an unqualified name is one of
    ``default_schema``. Names are case sensitive; ``*`` outside quotes stands for any characters.

    Raises ConfigError for an entry that is no name.
    """
    patterns = []
    at = 0
    while at < len(tables.rstrip()):
        entry = _ENTRY.match(tables, at)
        if entry is None:
            raise ConfigError(
                f"The table whitelist cannot be read from its character {at + 1} on.",
                remedy='Write schema.table, separated by commas; names with dots, commas or spaces in "quotes".',
            )
        schema = _pattern(entry["schema"]) if entry["schema"] else re.compile(re.escape(default_schema))
        patterns.append((schema, _pattern(entry["table"])))
        at = entry.end()
    return Selection(tuple(schemas), tuple(patterns))


def _pattern(name: str) -> re.Pattern[str]:
    if name.startswith('"'):
        return re.compile(re.escape(name[1:-1].replace('""', '"')), re.DOTALL)
    return re.compile(".*".join(map(re.escape, name.split("*"))), re.DOTALL)
