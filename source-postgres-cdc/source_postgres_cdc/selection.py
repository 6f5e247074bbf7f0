"""Which tables a configuration selects: schemas, and a whitelist of ``schema.table`` with quotes and globs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from airbyte_pg.errors import ConfigError, StreamName

# A name: quoted as SQL does ("" is a quote), or anything without dots, commas, quotes and outer spaces.
_NAME = r'"(?:[^"]|"")+"|[^".,\s][^".,]*?'
_ENTRY = re.compile(rf"\s*(?:(?P<schema>{_NAME})\s*\.\s*)?(?P<table>{_NAME})\s*(?:,|$)")


class Entry(msgspec.Struct, frozen=True):
    """An entry of the whitelist. ``is_exact``: it names one table, without a glob."""

    text: str
    schema: re.Pattern[str]
    table: re.Pattern[str]
    is_exact: bool

    def holds(self, table: StreamName) -> bool:
        """Whether the entry means ``table``."""
        return bool(self.schema.fullmatch(table.namespace or "") and self.table.fullmatch(table.name))


class Selection(msgspec.Struct, frozen=True):
    """A whitelist; without one every table of ``schemas`` (of every schema, when that is empty too)."""

    schemas: tuple[str, ...]
    entries: tuple[Entry, ...] = ()

    def holds(self, table: StreamName) -> bool:
        """Whether ``table`` is selected."""
        if self.entries:
            return any(entry.holds(table) for entry in self.entries)
        return not self.schemas or (table.namespace or "") in self.schemas

    def names(self, table: StreamName) -> bool:
        """Whether ``table`` is selected by its very name."""
        return any(entry.is_exact and entry.holds(table) for entry in self.entries)

    def without_any(self, tables: Iterable[StreamName]) -> list[str]:
        """The entries that mean none of ``tables``."""
        known = list(tables)
        return [entry.text for entry in self.entries if not any(map(entry.holds, known))]


def selection(tables: str, schemas: Sequence[str], default_schema: str) -> Selection:
    """The selection of a whitelist ``tables`` (``public.a, "Odd.Schema".*, b``); an unqualified name is one of
    ``default_schema``. Names are case sensitive; ``*`` outside quotes stands for any characters.

    Raises ConfigError for an entry that is no name.
    """
    entries = []
    at = 0
    while at < len(tables.rstrip()):
        entry = _ENTRY.match(tables, at)
        if entry is None:
            raise ConfigError(
                f"The table whitelist cannot be read from its character {at + 1} on.",
                remedy='Write schema.table, separated by commas; names with dots, commas or spaces in "quotes".',
            )
        schema = _pattern(entry["schema"]) if entry["schema"] else re.compile(re.escape(default_schema))
        is_exact = not any(_is_glob(name) for name in (entry["schema"] or "", entry["table"]))
        text = entry[0].strip().removesuffix(",").rstrip()
        entries.append(Entry(text, schema, _pattern(entry["table"]), is_exact))
        at = entry.end()
    return Selection(tuple(schemas), tuple(entries))


def _is_glob(name: str) -> bool:
    return "*" in name and not name.startswith('"')


def _pattern(name: str) -> re.Pattern[str]:
    if name.startswith('"'):
        return re.compile(re.escape(name[1:-1].replace('""', '"')), re.DOTALL)
    return re.compile(".*".join(map(re.escape, name.split("*"))), re.DOTALL)
