"""What the server says when it does not take rows: a value that it refuses, or a rule that somebody made.

A SQLSTATE decides which; the rest of what is read here (line and column) is a hint, and is tried before it is believed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import psycopg2

from airbyte_pg.errors import ConfigError, StreamName
from destination_postgres.naming import META
from destination_postgres.sqlgen import Table

# Data exceptions; limits of the program (a value, a row, an index entry too large) and of its stack.
_VALUE_CLASS = "22"
_LIMIT_CLASS = "54"
# "invalid memory alloc request size": an array of jsonb with more elements than fit into a gigabyte is no limit of its
# own for the server.
_INTERNAL_ERROR = "XX000"
_NUMERIC_OUT_OF_RANGE = "22003"
# The rows are no COPY data: that is us.
_BAD_COPY = "22P04"
# The text has a character that the database's encoding lacks. The server converts a line before it looks for columns.
_ENCODING = frozenset({"22P05", "22021"})

_CONSTRAINT_CLASS = "23"
_NOT_NULL = "23502"
_RAISED = "P0001"
# index_form_tuple, index_form_tuple_context: the one place that tells an index entry of more than 8,191 bytes.
_INDEX_ENTRY = "index_form_tuple"


@dataclass(frozen=True)
class Refusal:
    """Some value was refused. ``line`` counts the COPY's rows from 1; 0 and None where the server did not say."""

    code: str
    line: int
    column: str | None

    @property
    def is_limit(self) -> bool:
        """Whether something was too large, or nested too deep."""
        return not self.code.startswith(_VALUE_CLASS)

    @property
    def is_number(self) -> bool:
        """Whether a number was beyond its type."""
        return self.code == _NUMERIC_OUT_OF_RANGE

    @property
    def is_encoding(self) -> bool:
        """Whether the database's encoding lacks a character."""
        return self.code in _ENCODING

    @property
    def is_of_row(self) -> bool:
        """Whether every value had been taken when the row was refused."""
        return self.line > 0 and self.column is None and not self.is_encoding

    @property
    def may_be_of_meta(self) -> bool:
        """Whether it may be the connector's own column that was refused."""
        return self.column == META or (self.column is None and not self.is_of_row)


# What a number inside jsonb would be refused with, for those that are found without asking.
HUGE_NUMBER = Refusal(_NUMERIC_OUT_OF_RANGE, 0, None)


def refusal_of(error: psycopg2.Error, table: Table, columns: Collection[str]) -> Refusal | None:
    """The refusal that ``error`` of a COPY into ``table`` is, or None if it is something else."""
    code = error.pgcode or ""
    is_known = code.startswith((_VALUE_CLASS, _LIMIT_CLASS)) or code == _INTERNAL_ERROR
    if not is_known or code == _BAD_COPY or _names_rule(error):
        return None
    # COPY users, line 7, column id: "…": in the server's language, with other contexts in front, and the value behind.
    place = re.search(
        rf"^COPY {re.escape(table.name)}, \S+ (\d+)(?:, \S+ (\w+))?", error.diag.context or "", re.MULTILINE
    )
    if place is None:
        return Refusal(code, 0, None)
    column = place.group(2) if place.group(2) in columns else None
    refusal = Refusal(code, int(place.group(1)), column)
    # A trigger or a check did its division by zero.
    return None if refusal.is_of_row and not refusal.is_limit else refusal


def broken_rule(error: psycopg2.Error, table: Table, stream: StreamName | None) -> ConfigError | None:
    """What to tell the user when a constraint, an index or a trigger of ``table`` does not let rows in, else None.

    None of them is ours: final tables are made without. It may be of a table that refers to a stream's.
    """
    code = error.pgcode or ""
    detail = f"SQLSTATE {code}, table {table}"
    name = error.diag.constraint_name
    if code.startswith(_LIMIT_CLASS):
        which = f"the index {name}" if name else "an index"
        return ConfigError(
            f"A row is too large for {which} of {table}.",
            remedy="Drop the index (and take it out of the option indexes), or choose a shorter primary key.",
            detail=detail,
            stream=stream,
        )
    if code != _BAD_COPY and (code.startswith((_CONSTRAINT_CLASS, _VALUE_CLASS)) or code == _RAISED):
        which = f"The constraint {name}" if name else "A trigger or an index"
        if code == _NOT_NULL:
            which = f"The NOT NULL of column {error.diag.column_name}"
        return ConfigError(
            f"{which} of {table} refuses a row.",
            remedy="Drop it: rows are written as the source has them.",
            detail=detail,
            stream=stream,
        )
    return None


def _names_rule(error: psycopg2.Error) -> bool:
    return bool(error.diag.constraint_name) or (error.diag.source_function or "").startswith(_INDEX_ENTRY)
