"""Row plans: for one relation, code generated once that turns its rows into RECORD lines.

The generated functions are the hot path: no loop over columns, no row object. What is rare (a value that JSON cannot
hold, an unchanged out-of-line value, an old tuple) goes the slow way, ``render_values``, which the fast way equals
byte for byte where both apply (a test holds them together).

A line is ``head`` + columns + ``tail`` + END; head ends with the opening brace of ``data``, tail holds the meta columns
with a leading comma. Both are made by the caller, once per snapshot chunk or change (see ``stamp.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import orjson

from airbyte_pg.errors import ConfigError
from source_postgres_cdc.core import copytext, values
from source_postgres_cdc.core.pgoutput import ProtocolError, RawValue, Unchanged
from source_postgres_cdc.core.values import Kind, Unrepresentable

END = "}}}\n"

# What JSON escapes in strings, but for the backslash, and COPY's own tab and line feed.
_ESCAPED_BY_JSON = bytes(set(range(32)) - {0x09, 0x0A}) + b'"'

_HUGE_CHUNK = 1 << 23

CopyFunction = Callable[[list[str], str, str], list[str]]  # values of all rows, head, tail


class PlanColumn(msgspec.Struct, frozen=True):
    """A column as it is sent: ``field`` is its name in the record, None for one that is read but not sent.

    A key must be sent whole: rows whose key cannot be held would be taken for one another. ``is_raw``: the bytes of its
    text need not be UTF-8.
    """

    field: str | None
    kind: Kind = Kind.TEXT
    element: Kind | None = None
    delimiter: str = ","
    is_key: bool = False
    is_raw: bool = False

    def json(self, text: str) -> str:
        """The JSON of a value's text. Raises Unrepresentable."""
        if self.is_raw:
            text = values.utf8(text)
        if self.kind is Kind.ARRAY:
            return values.array(text, self.element or Kind.TEXT, self.delimiter)
        return values.SCALARS[self.kind](text)

    def json_with_gaps(self, text: str) -> tuple[str, str]:
        """What can be sent of a value that JSON cannot hold, and what has become of it, in the protocol's words."""
        if self.is_raw:
            text = values.repaired(text)
        if self.kind is Kind.ARRAY:
            return values.array_with_gaps(text, self.element or Kind.TEXT, self.delimiter), "TRUNCATED"
        return (values.SCALARS[self.kind](text), "TRUNCATED") if self.is_raw else ("null", "NULLED")


class CopyPlan:
    """Renders lines of COPY text; the columns are those of the COPY, in its order."""

    def __init__(self, columns: Sequence[PlanColumn]) -> None:
        self._columns = tuple(columns)
        functions = _copy_functions(self._columns)
        self._clean: CopyFunction = functions["clean"]
        self._quoted: CopyFunction = functions["quoted"]
        self._mixed: CopyFunction = functions["mixed"]

    def render(self, chunk: bytes, head: str, tail: str) -> tuple[bytes, int]:
        """Whole lines of COPY text as RECORD lines, and how many they are."""
        text = chunk.decode("latin-1")
        count = text.count("\n")
        # Of a whole chunk at once: a call for each row, to split it, would cost as much as all the rest.
        row_values = text.replace("\n", "\t").split("\t")
        row_values.pop()  # behind the last line feed
        if len(row_values) != count * max(len(self._columns), 1):
            raise ProtocolError("a COPY line with another number of columns")
        try:
            rendered = self._function(chunk)(row_values, head, tail)
        except Unrepresentable:
            rendered = [self._slowly(line, head, tail) for line in text.split("\n")[:-1]]
        return "".join(rendered).encode("latin-1"), count

    def _function(self, chunk: bytes) -> CopyFunction:
        """The quickest function that can render ``chunk``."""
        if b"\\" in chunk:
            return self._mixed
        # Looked at through a copy: not worth it for a chunk that is one huge row.
        is_clean = len(chunk) <= _HUGE_CHUNK and len(chunk.translate(None, _ESCAPED_BY_JSON)) == len(chunk)
        return self._clean if is_clean else self._quoted

    def _slowly(self, line: str, head: str, tail: str) -> str:
        row = copytext.split_line(line) if self._columns else []
        if len(row) != len(self._columns):
            raise ProtocolError("a COPY line with another number of columns")
        return render_values(self._columns, row, head, tail)


def render_values(columns: Sequence[PlanColumn], row: Sequence[RawValue], head: str, tail: str) -> str:
    """A row as a RECORD line, with ``meta.changes`` for what could not be sent.

    A number (or array element) that JSON cannot hold is null, what is no UTF-8 in a text is U+FFFD; an UNCHANGED value
    is left out. Raises ConfigError for a key that JSON cannot hold.
    """
    fields: list[str] = []
    changes: list[dict[str, str]] = []
    for column, value in zip(columns, row, strict=True):
        if column.field is None:
            continue
        if isinstance(value, Unchanged):
            changes.append(_change(column.field, "NULLED", "SOURCE_RETRIEVAL_ERROR"))
            continue
        if value is None:
            text = "null"
        else:
            try:
                text = column.json(value)
            except Unrepresentable:
                if column.is_key:
                    raise ConfigError(
                        f"The key column {column.field} holds a value that JSON cannot (NaN, an infinity, or text that "
                        "is no UTF-8).",
                        remedy="Change such keys, or configure the stream as full_refresh.",
                    ) from None
                text, change = column.json_with_gaps(value)
                changes.append(_change(column.field, change, "SOURCE_SERIALIZATION_ERROR"))
        fields.append(f"{_json_key(column.field)}:{text}")
    data = ",".join(fields) + (tail if fields else tail[1:])
    if not changes:
        return f"{head}{data}{END}"
    meta = orjson.dumps({"changes": changes}).decode("latin-1")
    return f'{head}{data}}},"meta":{meta}}}}}\n'


def _change(field: str, change: str, reason: str) -> dict[str, str]:
    return {"field": field, "change": change, "reason": reason}


def _json_key(field: str) -> str:
    return orjson.dumps(field).decode("latin-1")


# Generated code. c0, c1, … are the columns, H and T head and tail. A line is one f-string: one allocation, however
# many columns. Expressions inside an f-string may hold neither quotes nor backslashes before Python 3.12, so
# every constant has a name in the scope.


def compiled(lines: list[str], columns: Sequence[PlanColumn], more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The functions that ``lines`` define, for ``columns``; ``more`` are names that they use."""
    scope: dict[str, Any] = {
        "quote": values.quote,
        "unescape": copytext.unescape,
        "unrepresentable": values.unrepresentable,
        "utf8": values.utf8,
        **{kind.value: function for kind, function in values.SCALARS.items()},
        "QUOTE": '"',
        "SPACE": " ",
        "UTC": "+00",
        "FRACTION": values.MISSING_FRACTION,
        "FRACTION_AND_ZONE": values.MISSING_FRACTION_BEFORE_ZONE,
        "BACKSLASH": "\\",
        "NINE": "9",
        "YES": "t",
        "TRUE": "true",
        "FALSE": "false",
        "NULL": "null",
        "N": copytext.NULL,
    }
    scope |= more or {}
    scope |= {
        f"array{i}": partial(values.array, kind=column.element or Kind.TEXT, delimiter=column.delimiter)
        for i, column in enumerate(columns)
        if column.kind is Kind.ARRAY
    }
    exec(compile("\n".join(lines), "<row plan>", "exec"), scope)  # noqa: S102 - our own text; names are escaped
    return scope


def expression(column: PlanColumn, name: str, index: int) -> str:
    """The expression of the JSON of the non-null text in ``name``."""
    if column.is_raw:
        name = f"utf8({name})"
    match column.kind:
        case Kind.INTEGER:
            return name
        case Kind.DECIMAL:
            return f"{name} if {name}[-1] <= NINE else unrepresentable()"
        case Kind.DECIMAL_OR_TEXT:
            return f"{name} if {name}[-1] <= NINE else decimal_or_text({name})"
        case Kind.BOOLEAN:
            return f"TRUE if {name} == YES else FALSE"
        case Kind.TEXT:
            return f"quote({name})"
        case Kind.ARRAY:
            return f"array{index}({name})"
        # The ordinary ones without a call: neither infinite nor BC (which end otherwise), the year of four digits.
        case Kind.TIMESTAMPTZ:
            usual = f'f"{{QUOTE}}{{{name}[:10]}}T{{{name}[11:-3]}}{{FRACTION_AND_ZONE[len({name})]}}{{QUOTE}}"'
            return f"{usual} if {name}[-3:] == UTC and {name}[10] == SPACE else timestamptz({name})"
        case Kind.TIMESTAMP:
            usual = f'f"{{QUOTE}}{{{name}[:10]}}T{{{name}[11:]}}{{FRACTION[len({name})]}}{{QUOTE}}"'
            return f"{usual} if {name}[-1] <= NINE and {name}[10] == SPACE else timestamp({name})"
        case _:
            return f"{column.kind.value}({name})"


# Texts that COPY writes as JSON does, but for the quotes around them: bytea has one backslash, and both double it.
_AS_COPIED = (Kind.PLAIN, Kind.BYTEA)


def _clean_piece(column: PlanColumn, index: int) -> str:
    """The f-string piece of a value that is neither NULL nor holds anything to be escaped."""
    if column.kind in _AS_COPIED or (column.kind is Kind.TEXT and not column.is_raw):
        return f'"{{c{index}}}"'
    return f"{{{expression(column, f'c{index}', index)}}}"


def _quoted_piece(column: PlanColumn, index: int) -> str:
    """The f-string piece of a value without a backslash, so not NULL, that may hold a quote."""
    return f"{{{expression(column, f'c{index}', index)}}}" if column.kind is Kind.TEXT else _clean_piece(column, index)


def _nullable_piece(column: PlanColumn, index: int) -> str:
    """The f-string piece of any value."""
    name = f"c{index}"
    if column.is_key and column.kind is Kind.INTEGER:
        return f"{{{name}}}"  # never NULL, nothing to escape
    if column.kind in _AS_COPIED:
        return f'{{f"{{QUOTE}}{{{name}}}{{QUOTE}}" if {name} != N else NULL}}'
    bare = f"({expression(column, name, index)})"
    if column.kind in (Kind.TEXT, Kind.ARRAY, Kind.HSTORE):
        escaped = f"({expression(column, f'unescape({name})', index)})"
        return f"{{{bare} if BACKSLASH not in {name} else NULL if {name} == N else {escaped}}}"
    return f"{{{bare} if {name} != N else NULL}}"


def line_of(columns: Sequence[PlanColumn], pieces: Sequence[str]) -> str:
    """The f-string of a finished line, from the pieces of its values."""
    parts = ["{H}"]
    separator = ""
    for column, piece in zip(columns, pieces, strict=True):
        if column.field is not None:
            parts += [_literal(f"{separator}{_json_key(column.field)}:"), piece]
            separator = ","
    parts += ["{T}" if separator else "{T[1:]}", _literal(END)]
    return f"f'{''.join(parts)}'"


def _literal(text: str) -> str:
    escaped = text.encode("unicode_escape").decode("ascii")
    return escaped.replace("'", "\\'").replace("{", "{{").replace("}", "}}")


def _copy_functions(columns: Sequence[PlanColumn]) -> dict[str, Any]:
    # A row without columns is still one (empty) value.
    names = [f"c{i}" for i in range(max(len(columns), 1))]
    target = "".join(f"{name}, " for name in names)
    # The same iterator in each place: zip hands out the values row by row.
    rows = f"for {target} in zip({', '.join(['each'] * len(names))})"

    def line(piece: Callable[[PlanColumn, int], str]) -> str:
        return line_of(columns, [piece(column, i) for i, column in enumerate(columns)])

    return compiled(
        [
            "def clean(values, H, T):",
            "    each = iter(values)",
            f"    return [{line(_clean_piece)} {rows}]",
            "def quoted(values, H, T):",
            "    each = iter(values)",
            f"    return [{line(_quoted_piece)} {rows}]",
            "def mixed(values, H, T):",
            "    each = iter(values)",
            f"    return [{line(_nullable_piece)} {rows}]",
        ],
        columns,
    )
