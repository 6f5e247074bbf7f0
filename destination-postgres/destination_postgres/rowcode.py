"""RECORDs of one stream -> what COPY takes for its raw table (binary) and its final table (text).

Code is generated per stream, from its columns, so that a row costs one pass without a loop over its values (measured:
half the time). A row with a value that the generated code does not know to be right goes through ``RowEncoder._exact``,
which has each value judged by itself (exact.py) and writes what was refused into ``_airbyte_meta``.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from airbyte_pg.errors import StreamName, SystemFault
from destination_postgres import rawrow, values
from destination_postgres.columns import Column, Kind
from destination_postgres.exact import EMPTY_METAS, JSON_SPACE, NULL, Judge, broken_record, copy_escaped
from destination_postgres.inbox import Record
from destination_postgres.raw_ids import RawIds

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)

# (record, its decoded data or None, raw id, beginning of the raw row with that id, ends of the final and the raw row)
Item = tuple[Record, Any, str, bytes, tuple[str, bytes]]
# What the raw table's rows are joined from: record.data goes in as the slice of the input that it is.
Pieces = list[bytes | Raw]
RowCode = Callable[[Iterable[Item], Callable[[Item], None], Pieces, list[str]], None]


class Encoded(NamedTuple):
    """What COPY takes for some rows: raw (binary) and final (text); how many there are, and the bytes of their data."""

    raw: bytes
    final: bytes
    row_count: int
    data_bytes: int


class RowEncoder:
    """Makes the rows of one stream: user columns in the stream's order, then the four of our own."""

    def __init__(
        self,
        stream: StreamName,
        columns: Sequence[Column],
        ids: RawIds,
        *,
        generation_id: int | None,
        sync_id: int | None,
        numeric_infinity: bool = True,
        judged: bool = True,
    ) -> None:
        """``numeric_infinity``: whether the server's numeric knows the infinities (14 and later).

        Without ``judged`` ranges and the calendar are left to the server, which comes to the same rows.
        """
        self._stream = stream
        self._judge = Judge(stream, columns, numeric_infinity=numeric_infinity, judged=judged)
        self._ids = ids
        self._generation = generation_id
        self._generation_text = NULL if generation_id is None else str(generation_id)
        self._sync_id = "null" if sync_id is None else str(sync_id)
        row_type = _row_type(columns)
        self._decoder = None if row_type is None else msgspec.json.Decoder(row_type)
        self._plain = _compiled(columns, escaping=False, judged=judged)
        self._escaping = _compiled(columns, escaping=True, judged=judged)

    def encode(self, records: Sequence[Record], loaded_ms: int) -> Encoded:
        """The rows of ``records``, in order; ``loaded_ms``: now, in milliseconds since 1970.

        Raises SystemFault for a record whose data is no JSON object in UTF-8.
        """
        joined = b"\n".join([record.data for record in records])
        if b"\t" in joined or b"\r" in joined:
            joined = joined.translate(JSON_SPACE)
        if not is_utf8(joined):
            raise broken_record(self._stream)
        data_bytes = len(joined) - len(records) + 1
        rows = self._decoded(records, joined)
        code = self._escaping if b"\\" in joined else self._plain
        # The budget is five times the largest row: what is not needed any more is let go at once.
        del joined
        items = zip(records, rows, *self._ids.take(len(records)), self._ends(records, loaded_ms), strict=True)
        raw: Pieces = []
        final: list[str] = []

        def odd(item: Item) -> None:
            raw_pieces, final_line = self._exact(item, loaded_ms)
            raw.extend(raw_pieces)
            final.append(final_line)

        code(items, odd, raw, final)
        del rows, items
        text = "".join(final)
        final.clear()
        return Encoded(b"".join(raw), text.encode(), len(records), data_bytes)

    def _decoded(self, records: Sequence[Record], joined: bytes) -> Sequence[Any]:
        # None stands for a row that has to be looked at value by value.
        if self._decoder is None:
            return [None] * len(records)
        if b"\\u0000" not in joined:
            try:
                rows = self._decoder.decode_lines(joined)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
            else:
                if len(rows) == len(records):
                    return rows
        return [self._decoded_one(bytes(record.data)) for record in records]

    def _decoded_one(self, data: bytes) -> Any:
        if self._decoder is None or b"\\u0000" in data:
            return None
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def _ends(self, records: Iterable[Record], loaded_ms: int) -> Iterator[tuple[str, bytes]]:
        """The ends of each record's final and raw row, if nothing about it is odd."""
        meta = self._meta_text([])
        raw_tail = rawrow.tail(loaded_ms, meta, self._generation)
        # A source stamps many rows with the same millisecond.
        known: dict[int, tuple[str, bytes]] = {}
        for record in records:
            emitted_ms = record.emitted_at
            found = known.get(emitted_ms)
            if found is None:
                final_end = f"\t{self._timestamptz(emitted_ms)}\t{self._generation_text}\t{meta}\n"
                found = known[emitted_ms] = (final_end, rawrow.moment(emitted_ms) + raw_tail)
            yield found

    def _timestamptz(self, emitted_ms: int) -> str:
        try:
            moment = _EPOCH + datetime.timedelta(milliseconds=emitted_ms)
        except OverflowError:
            raise SystemFault("A record's emitted_at is no time in milliseconds.", stream=self._stream) from None
        # The C library does not pad years before 1000.
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f+00").rjust(len("0000-00-00 00:00:00.000000+00"), "0")

    def _exact(self, item: Item, loaded_ms: int) -> tuple[Pieces, str]:
        """The raw and the final row of one record, each value judged by itself."""
        record, _, raw_id, row_head, _ = item
        judged = self._judge.judge(record)
        meta = self._meta_text([*judged.nulled, *judged.own_changes])
        ends = (raw_id, self._timestamptz(record.emitted_at), self._generation_text, copy_escaped(meta))
        raw_tail = rawrow.tail(loaded_ms, self._meta_text(judged.own_changes), self._generation)
        data_head = rawrow.data_head(len(judged.data) + 1, 1)
        raw_row: Pieces = [row_head, data_head, judged.data, rawrow.moment(record.emitted_at), raw_tail]
        return raw_row, "\t".join((*judged.cells, *ends)) + "\n"

    def _meta_text(self, changes: Sequence[str]) -> str:
        return f'{{"changes":[{",".join(changes)}],"sync_id":{self._sync_id}}}'


def is_utf8(text: bytes) -> bool:
    """Whether ``text`` is valid UTF-8."""
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def _row_type(columns: Sequence[Column]) -> type[msgspec.Struct] | None:
    """What msgspec decodes ``data`` into; None where a field's name is one that it cannot look for."""
    texts = (str | None, None)
    raws = (Raw, Raw(b"null"))
    kinds: dict[Kind, tuple[Any, Any]] = {
        Kind.BOOLEAN: (bool | None, None),
        Kind.INTEGER: raws,
        Kind.NUMBER: raws,
        Kind.OBJECT: raws,
        Kind.ARRAY: raws,
        # A JSON null is a value here, and not the same as no value.
        Kind.UNKNOWN: (Raw, UNSET),
    }
    fields = [(f"f{index}", *kinds.get(column.kind, texts)) for index, column in enumerate(columns)]
    renamed = {f"f{index}": column.field for index, column in enumerate(columns)}
    try:
        return msgspec.defstruct("Row", fields, rename=renamed, gc=False)
    except ValueError:
        # Quotes, backslashes and control characters in a name.
        return None


# How a value is taken from the row, by kind; {v} is the variable, {f} the field. What is not known to be right is sent
# to the exact judge (values.py), and what that refuses makes the row an odd one.
_ODD = "odd(item); continue"
_JUDGED = f"""\
        {{v}} = {{judge}}({{v}})
        if {{v}} is None: {_ODD}"""
_TAKE_STRING = """\
    {v} = row.{f}
    if {v} is None: {v} = NULL"""
_TAKE_ESCAPED_STRING = """\
    {v} = row.{f}
    if {v} is None: {v} = NULL
    elif "\\\\" in {v} or "\\n" in {v} or "\\t" in {v} or "\\r" in {v}: {v} = ESCAPED({v})"""
_TAKE_BOOLEAN = """\
    {v} = BOOLEANS[row.{f}]"""
_TAKE_NUMERIC = f"""\
    {{v}} = str(row.{{f}}, "latin-1")
    if {{v}} == "null": {{v}} = NULL
    elif not ({{usual}}):
{_JUDGED}"""
_TAKE_MOMENT = f"""\
    {{v}} = row.{{f}}
    if {{v}} is None: {{v}} = NULL
    elif not ({{usual}}):
{_JUDGED}"""
_TAKE_NESTED = f"""\
    {{v}} = str(row.{{f}}, "utf-8"){{escaped}}
    if {{v}} == "null": {{v}} = NULL
    elif {{v}}[0] != "{{opening}}": {_ODD}"""
_TAKE_UNKNOWN = """\
    {v} = row.{f}
    {v} = NULL if {v} is UNSET else str({v}, "utf-8"){escaped}"""

# Right without a closer look. JSON numbers have no leading zeros, and 18 digits are within bigint.
_USUAL = {
    Kind.INTEGER: "{v}.isdigit() and len({v}) < 19",
    Kind.NUMBER: '"-" <= {v} < ":" and len({v}) < 1000 and "e" not in {v} and "E" not in {v}',
    Kind.DATE: "{v} in DATES",
    Kind.TIME: "False",
    Kind.TIMETZ: "False",
    Kind.TIMESTAMP: "{v}[:10] in DATES and USUAL_TAIL({v}, 10)",
    Kind.TIMESTAMPTZ: "{v}[:10] in DATES and USUAL_TAIL({v}, 10)",
}


def source_of(columns: Sequence[Column], *, escaping: bool) -> str:
    """The generated function; ``escaping``: for rows whose data has backslashes."""
    lines = [
        "def rows(items, odd, raw, final):",
        "  put_raw, put_final = raw.extend, final.append",
        "  for item in items:",
        "    record, row, raw_id, row_head, (final_end, raw_end) = item",
        f"    if row is None or (record.meta and record.meta not in EMPTY_METAS): {_ODD}",
    ]
    for index, column in enumerate(columns):
        lines.append(_taken(column.kind, f"v{index}", f"f{index}", escaping=escaping))
    cells = "".join(f"{{v{index}}}\\t" for index in range(len(columns)))
    lines.append(f'    put_final(f"{cells}{{raw_id}}{{final_end}}")')
    lines.append("    data = record.data")
    lines.append("    put_raw((row_head, DATA_HEAD(len(data) + 1, 1), data, raw_end))")
    return "\n".join(lines) + "\n"


def _taken(kind: Kind, variable: str, field: str, *, escaping: bool) -> str:
    escaped = '.replace("\\\\", "\\\\\\\\")' if escaping else ""
    if kind is Kind.STRING:
        return (_TAKE_ESCAPED_STRING if escaping else _TAKE_STRING).format(v=variable, f=field)
    if kind is Kind.BOOLEAN:
        return _TAKE_BOOLEAN.format(v=variable, f=field)
    if kind in (Kind.OBJECT, Kind.ARRAY):
        opening = "{" if kind is Kind.OBJECT else "["
        return _TAKE_NESTED.format(v=variable, f=field, escaped=escaped, opening=opening)
    if kind is Kind.UNKNOWN:
        return _TAKE_UNKNOWN.format(v=variable, f=field, escaped=escaped)
    template = _TAKE_NUMERIC if kind in (Kind.INTEGER, Kind.NUMBER) else _TAKE_MOMENT
    return template.format(v=variable, f=field, usual=_USUAL[kind].format(v=variable), judge=f"JUDGE_{kind.name}")


def _compiled(columns: Sequence[Column], *, escaping: bool, judged: bool) -> RowCode:
    judges = values.TEXTS.items()
    scope: dict[str, Any] = {
        "NULL": NULL,
        "UNSET": UNSET,
        "EMPTY_METAS": EMPTY_METAS,
        "ESCAPED": copy_escaped,
        "DATA_HEAD": rawrow.data_head,
        "BOOLEANS": {True: "t", False: "f", None: NULL},
        "DATES": values.KNOWN_DATES,
        "USUAL_TAIL": values.USUAL_TAIL.fullmatch,
        **{f"JUDGE_{kind.name}": judge if judged else partial(judge, judged=False) for kind, judge in judges},
    }
    # The source holds no name or value from outside: fields are numbered.
    exec(compile(source_of(columns, escaping=escaping), "<rows>", "exec"), scope)  # noqa: S102
    code: RowCode = scope["rows"]
    return code
