"""Plans of pgoutput tuples: for one relation, code generated once for a tuple, and for a run of rows of a block."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from source_postgres_cdc.core.blocks import ROW_HEADER, Block, unpack_row
from source_postgres_cdc.core.pgoutput import ProtocolError, RawValue
from source_postgres_cdc.core.plan import PlanColumn, compiled, expression, line_of, render_values
from source_postgres_cdc.core.values import Kind, Unrepresentable

TupleFunction = Callable[[bytes, int, str, str], str]
RunFunction = Callable[[bytes, str, int, int, str, str, str, int, list[Any]], int]

# What stands before a value of less than 64 KiB, with its length in two more bytes. Text holds no zero byte, and where
# a tuple is shorter than that itself, no length has two of them behind a "t": so one that has this as often as it has
# columns has text in all of them, and falls into their values where this stands.
_SHORT = "t\0\0"
_LENGTH = 2
_SHORT_TUPLE = 1 << 16

# Rows are numbered 2, 4, 6, … within a transaction: the delete half of a key change takes the odd number before.
ORDINAL_STEP = 2


class SlowRow(Exception):
    """The generated code met something rare; the caller takes the slow way."""


class TuplePlan:
    """Renders tuples of pgoutput; the columns are those of the RELATION message, in its order.

    ``numbered``: the tail of a row is followed by its number within the transaction.
    """

    def __init__(self, columns: Sequence[PlanColumn], oid: int, *, numbered: bool = False) -> None:
        self.columns = tuple(columns)
        functions = _tuple_functions(self.columns, oid, numbered=numbered)
        self._new: TupleFunction = functions["new"]
        self._run: RunFunction = functions["run"]

    def render_new(self, frame: bytes, at: int, head: str, tail: str) -> str:
        """The tuple that ends ``frame``, starting at ``at``, as a RECORD line. Raises SlowRow, ProtocolError."""
        try:
            return self._new(frame, at, head, tail)
        except (Unrepresentable, IndexError, ValueError, struct.error):
            # A value out of the ordinary or a broken frame: the slow way tells which.
            raise SlowRow from None

    def render_run(self, block: Block, last: int, head: str, tail: tuple[str, str], number: int, out: list[Any]) -> int:
        """Append the lines of the rows of this relation that ``block`` goes on with, and move it behind them.

        Rows that hold a new tuple and nothing rare, of one transaction, beginning before ``last`` in the buffer;
        ``tail`` stands around the LSN, ``number`` is that of the row before. Returns the number of the last row.
        """
        before = len(out)
        block.at = self._run(block.buffer, block.text, block.at, last, head, *tail, number, out)
        return number + ORDINAL_STEP * (len(out) - before)

    def render_values(self, row: Sequence[RawValue], head: str, tail: str) -> str:
        """A split tuple as a RECORD line."""
        if len(row) != len(self.columns):
            raise ProtocolError("a tuple with another number of columns than its relation")
        return render_values(self.columns, row, head, tail)


_NAMES = {
    "SlowRow": SlowRow,
    "Unrepresentable": Unrepresentable,
    "error": struct.error,
    "row": unpack_row,
    "SHORT": _SHORT,
    "STEP": ORDINAL_STEP,
    "u16": struct.Struct(">H").unpack_from,
    "u32": struct.Struct(">I").unpack_from,
}


def _tuple_functions(columns: Sequence[PlanColumn], oid: int, *, numbered: bool) -> dict[str, Any]:
    return compiled([*_one_tuple(columns), *_run_of_tuples(columns, oid, numbered=numbered)], columns, _NAMES)


def _one_tuple(columns: Sequence[PlanColumn]) -> list[str]:
    """``new``: the tuple at ``p``, which ends the frame ``f``."""
    lines = [
        "def new(f, p, H, T):",
        f"    if u16(f, p)[0] != {len(columns)}: raise SlowRow",
        "    s = f.decode('latin-1')",
        "    p += 2",
    ]
    for i, column in enumerate(columns):
        lines += [
            "    k = f[p]",
            "    if k == 116:",
            # Nearly every length fits one byte: comparing is cheaper than unpacking.
            "        q = p + 5; p = q + (f[p + 4] if f[p + 1:p + 4] == b'\\0\\0\\0' else u32(f, p + 1)[0])",
        ]
        if column.field is not None:
            lines += [f"        c{i} = s[q:p]", f"        c{i} = {expression(column, f'c{i}', i)}"]
        lines += ["    elif k == 110:", f"        p += 1; c{i} = NULL", "    else: raise SlowRow"]
    return [
        *lines,
        "    if p != len(f): raise SlowRow",
        f"    return {line_of(columns, [f'{{c{i}}}' for i in range(len(columns))])}",
    ]


def _run_of_tuples(columns: Sequence[PlanColumn], oid: int, *, numbered: bool) -> list[str]:
    """``run``: rows of a block from ``p`` on, while they are of this relation and plain; returns where it ended."""
    rest = oid.to_bytes(4, "big") + b"N" + len(columns).to_bytes(2, "big")
    insert, update = ((tag + rest).decode("latin-1") for tag in (b"I", b"U"))
    values_ = "".join(f"c{i}, " for i in range(len(columns)))
    pieces = [_short_piece(column, i) for i, column in enumerate(columns)]
    return [
        "def run(b, s, p, last, H, A, Z, n, out):",
        "    end = len(b)",
        f"    last = min(last, end - {ROW_HEADER})",
        "    try:",
        "        while p <= last:",
        "            L, q = row(b, p)",
        f"            p += {ROW_HEADER}",
        "            q += p",
        f"            k = s[p:p + {len(insert)}]",
        f"            if q > end or (k != {insert!r} and k != {update!r}):",
        f"                return p - {ROW_HEADER}",
        *(["            n += STEP"] if numbered else []),
        f"            T = f'{{A}}{{L}}{{Z}}{'{n}' if numbered else ''}'",
        f"            v = s[p + {len(insert)}:q].split(SHORT)",
        f"            if len(v) == {len(columns) + 1} and q - p < {_SHORT_TUPLE}:",
        f"                _, {values_} = v",
        *(f"                c{i} = c{i}[{_LENGTH}:]" for i, column in enumerate(columns) if _is_named_often(column)),
        f"                out.append({line_of(columns, pieces)})",
        "            else:",
        "                out.append(new(b[p:q], 6, H, T))",
        "            p = q",
        "    except (Unrepresentable, SlowRow, IndexError, ValueError, error):",
        # The row at p goes the slow way.
        f"        return p - {ROW_HEADER}",
        "    return p",
    ]


def _is_named_often(column: PlanColumn) -> bool:
    """Whether the expression of ``column`` names its value more than once."""
    return column.field is not None and column.kind in (
        Kind.DECIMAL,
        Kind.DECIMAL_OR_TEXT,
        Kind.TIMESTAMP,
        Kind.TIMESTAMPTZ,
    )


def _short_piece(column: PlanColumn, index: int) -> str:
    """The f-string piece of a value that has its length in the first two bytes."""
    if column.field is None:
        return ""
    name = f"c{index}" if _is_named_often(column) else f"c{index}[{_LENGTH}:]"
    if column.kind is Kind.PLAIN:
        return f'"{{{name}}}"'
    return f"{{{expression(column, name, index)}}}"
