"""Names of schemas, tables and columns: Airbyte 2.x's, made safe where 2.x lets two things share one.

Rules: reference 3.1. Deviations: a name that is longer than an identifier may be ends in a hash of the whole (2.x only
cuts, and mixes two streams' rows), and a stream keeps the names that the ledger recorded for it, so that a new
stream in the catalog does not rename an old one.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from airbyte_pg.errors import ConfigError, StreamName

# PostgreSQL's NAMEDATALEN less the terminating zero; sanitised names are ASCII, so characters are bytes.
IDENTIFIER_LIMIT = 63

# The connector's own columns, which a user's column must not take.
RAW_ID = "_airbyte_raw_id"
EXTRACTED_AT = "_airbyte_extracted_at"
GENERATION_ID = "_airbyte_generation_id"
META = "_airbyte_meta"
META_COLUMNS = (RAW_ID, EXTRACTED_AT, GENERATION_ID, META)

# Columns that every table has (PostgreSQL documentation, System Columns). Before 12 oid was one, too.
_SYSTEM_COLUMNS = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")

_HASH_DIGITS = 8


class TableNames(NamedTuple):
    """Where a stream's rows go: the raw table (in the raw schema) and the final table."""

    raw_table: str
    final_schema: str
    final_table: str


class Recorded(NamedTuple):
    """The names that a stream had in earlier syncs.

    ``columns``: those of its final table that are the stream's; ``by_field``: of fields that are not spelt like their
    column.
    """

    tables: TableNames
    columns: Collection[str] = ()
    by_field: Mapping[str, str] = MappingProxyType({})


def sanitise(name: str) -> str:
    """``name`` in ASCII letters, digits and underscores, as 2.x spells it; never empty, not cut."""
    decomposed = unicodedata.normalize("NFKD", name)
    unmarked = "".join(char for char in decomposed if not unicodedata.combining(char))
    return re.sub(r"[^A-Za-z0-9_]", "_", re.sub(r"\s+", "_", unmarked)) or "_"


def schema_name(name: str) -> str:
    """The schema of final tables for a namespace."""
    return _fit(sanitise(name), name)


def raw_schema_name(name: str) -> str:
    """The schema of raw tables; 2.x treats it as unquoted."""
    return schema_name(name).lower()


def raw_table_name(namespace: str, name: str) -> str:
    """2.x's raw name: more underscores in the joint than in either part, so that no two streams share one."""
    longest = max((len(run) for run in re.findall("_+", namespace + name)), default=0)
    joint = "_" * (max(longest, 1) + 1)
    whole = f"{namespace}_raw{joint}stream_{name}"
    return _fit(sanitise(whole), whole).lower()


def table_names(
    streams: Iterable[StreamName], default_schema: str, recorded: Mapping[tuple[str, str], TableNames]
) -> list[TableNames]:
    """The tables of ``streams``, in their order; no two alike.

    ``recorded`` maps (namespace, name), the namespace filled in, to the names of earlier syncs: a stream keeps its
    own, and nobody else gets them. Of two streams that would share a table the later is called ``<name>_<hash>``.
    """
    taken_raw = {names.raw_table for names in recorded.values()}
    taken_final = {(names.final_schema, names.final_table) for names in recorded.values()}
    found: list[TableNames] = []
    for stream in streams:
        namespace = stream.namespace if stream.namespace is not None else default_schema
        kept = recorded.get((namespace, stream.name))
        names = kept
        if names is None or names.final_schema != schema_name(namespace):
            names = _free_names(namespace, stream, taken_raw, taken_final)
        taken_raw.add(names.raw_table)
        taken_final.add((names.final_schema, names.final_table))
        found.append(names)
    return found


def column_names(fields: Sequence[str], before: Recorded | None = None) -> list[str]:
    """A column name for each JSON field, in order; no two alike, none the connector's own or the server's.

    As in 2.x a later one gets ``_1``, ``_2`` …; where that would be cut off, a count goes into the middle. But a field
    keeps the name that it had ``before``, and no other field gets it, as long as the table has the column.
    Raises ConfigError when no name is left.
    """
    columns, by_field = (before.columns, before.by_field) if before else ((), {})
    kept = {field: by_field.get(field, field) for field in fields if field in by_field or field in columns}
    # A column that is spelt like a field may be another field's.
    others = {name for field, name in by_field.items() if field != name}
    kept = {field: name for field, name in kept.items() if field in by_field or name not in others}
    taken = {*META_COLUMNS, *_SYSTEM_COLUMNS, *columns, *by_field.values()}
    found: list[str] = []
    for field in fields:
        name = kept.get(field) or _free_column(sanitise(field)[:IDENTIFIER_LIMIT], sanitise(field), taken)
        taken.add(name)
        found.append(name)
    return found


def helper_name(role: str, *parts: str) -> str:
    """A short name for a table or index of the connector's own: the role, and a hash of what it belongs to."""
    return f"_airbyte_pg_{role}_{_hash(*parts, digits=16)}"


def _free_names(
    namespace: str, stream: StreamName, taken_raw: Collection[str], taken_final: Collection[tuple[str, str]]
) -> TableNames:
    schema = schema_name(namespace)
    # 2.x's suffix first, so that its tables are found again; three digits may collide too, eight do not.
    digest = hashlib.sha1(f"{namespace}&airbyte&{stream.name}".encode(), usedforsecurity=False).hexdigest()
    candidates = [stream.name, *(f"{stream.name}_{digest[:digits]}" for digits in (3, 8, 40))]
    for candidate in candidates:
        names = TableNames(raw_table_name(namespace, candidate), schema, _fit(sanitise(candidate), candidate))
        if names.raw_table not in taken_raw and (schema, names.final_table) not in taken_final:
            return names
    raise ConfigError("No free table name for this stream was found.", stream=stream)


def _free_column(cut: str, whole: str, taken: Collection[str]) -> str:
    if cut not in taken:
        return cut
    for count in range(1, len(taken) + 2):
        name = f"{whole}_{count}"
        if len(name) > IDENTIFIER_LIMIT:
            break
        if name not in taken:
            return name
    # As "internationalization" becomes "i18n": the ends, and how much is left out between them.
    side = (IDENTIFIER_LIMIT - 5) // 2
    name = f"{whole[:side]}{len(whole) - 2 * side}{whole[-side:]}"
    if name in taken:
        raise ConfigError(f"Two columns would both be named {cut}.", remedy="Deselect one of them.")
    return name


def _fit(sanitised: str, whole: str) -> str:
    if len(sanitised) <= IDENTIFIER_LIMIT:
        return sanitised
    return f"{sanitised[: IDENTIFIER_LIMIT - _HASH_DIGITS - 1]}_{_hash(whole, digits=_HASH_DIGITS)}"


def _hash(*parts: str, digits: int) -> str:
    # Length-prefixed, so that no two lists of parts are one text.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
