"""RECORDs of one stream -> what COPY takes for its raw table (binary) and its final table (text).

Code is generated per stream, from its columns, so that a row costs one pass without a loop over its values (measured:
half the time). A row with a value that the generated code does not know to be right goes through ``RowEncoder._exact``,
which has each value judged by itself (exact.py) and writes what was refused into ``_airbyte_meta``.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from airbyte_pg.errors import StreamName, SystemFault
from destination_postgres import rawrow, truncation, values
from destination_postgres.columns import Column, Kind
from destination_postgres.exact import EMPTY_METAS, JSON_SPACE, NULL, Judge, Judged, broken_record, copy_escaped
from destination_postgres.inbox import Record
from destination_postgres.raw_ids import RawIds
from destination_postgres.rawrow import Retention

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)

# (record, its decoded data or None, raw id, ends of the final and the raw row)
Item = tuple[Record, Any, str, tuple[str, bytes]]
# What is done with a record that has to be looked at, and its raw id.
Odd = Callable[[Any, str], None]
# What the raw table's rows are joined from: record.data goes in as the slice of the input that it is.
Pieces = list[bytes | Raw]
# A backslash that is not in front of a quote: what it escapes, if not this, is another one.
_OTHER_ESCAPE = re.compile(rb'\\[^"]')
# Which escapes the strings of some data have. A string in which only quotes are has nothing that COPY needs escaped.
Escapes = Literal["none", "quotes", "any"]
RowCode = Callable[[Iterable[Item], Odd, Pieces, list[str]], None]


# (position from 0, raw id of its final row) -> the raw row of a record that had no reason for one.
SpareRow = Callable[[int, str], bytes]


class Encoded(NamedTuple):
    """What COPY takes for some rows: raw (binary) and final (text); how many there are, and the bytes of their data.

    ``spare``: for a row of which the server refuses more than we did, where raw does not have all of them.
    ``truncations``: raw ids of the rows that stand for a TRUNCATE of the source's table.
    """

    raw: bytes
    final: bytes
    row_count: int
    data_bytes: int
    spare: SpareRow | None = None
    truncations: Sequence[str] = ()


class StoredRecord(Record, gc=False):
    """A record that a raw table has; what its final row takes from there, as COPY text. ``sync_id`` is JSON."""

    raw_id: str = ""
    extracted_at: str = NULL
    generation: str = NULL
    sync_id: str = "null"


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
        retention: Retention = "keep",
        raw_only: bool = False,
        judged: bool = True,
        has_truncations: bool = False,
    ) -> None:
        """``numeric_infinity``: whether the server's numeric knows the infinities (14 and later).

        ``retention``: which rows get a raw row; ``raw_only``: they get no other, and are not typed. Without ``judged``
        ranges and the calendar are left to the server, which comes to the same rows. ``has_truncations``: a record may
        stand for a TRUNCATE.
        """
        self._has_truncations = has_truncations
        self._stream = stream
        self._retention = retention
        self._raw_only = raw_only
        self._judged = judged
        self._judge = Judge(stream, columns, numeric_infinity=numeric_infinity, judged=judged)
        self._ids = ids
        self._generation = generation_id
        self._generation_text = NULL if generation_id is None else str(generation_id)
        self._sync_id = "null" if sync_id is None else str(sync_id)
        self._columns = columns
        row_type = _row_type(columns)
        self._decoder = None if row_type is None else msgspec.json.Decoder(row_type)
        moments_type = None if row_type is None else _moments_type(columns)
        self._moments = None if moments_type is None else msgspec.json.Decoder(moments_type)
        # Compiled when it is first needed: a catalog may have a thousand streams, most of them idle.
        self._codes: dict[tuple[Escapes, bool, bool], RowCode] = {}

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
        code = self._code_for(joined, raw=self._retention == "keep")
        raw_ids = self._ids.take(len(records))
        truncations = self._truncations(records, raw_ids, joined)
        # The budget is five times the largest row: what is not needed any more is let go at once.
        del joined
        items = zip(records, rows, raw_ids, self._ends(records, loaded_ms), strict=True)
        raw: Pieces = []
        final: list[str] = []

        def odd(record: Record, raw_id: str) -> None:
            raw_pieces, final_line = self._exact(record, raw_id, loaded_ms)
            raw.extend(raw_pieces)
            final.append(final_line)

        code(items, odd, raw, final)
        del rows, items
        text = "".join(final)
        final.clear()
        spare = partial(self._spare, records, loaded_ms) if self._retention == "typed" else None
        return Encoded(b"".join(raw), text.encode(), len(records), data_bytes, spare, truncations)

    def encode_stored(self, records: Sequence[StoredRecord]) -> tuple[bytes, list[str]]:
        """The final rows of ``records``, which have raw ones, and the raw ids of those that stand for a TRUNCATE."""
        joined = b"\n".join([record.data for record in records])
        raw_ids = [record.raw_id for record in records]
        ends = (
            (f"\t{record.extracted_at}\t{record.generation}\t{_meta([], record.sync_id)}\n", b"") for record in records
        )
        final: list[str] = []

        def odd(record: StoredRecord, raw_id: str) -> None:
            judged = self._judge.judge(record)
            meta = copy_escaped(_meta([*judged.changes, *judged.own_changes], record.sync_id))
            final.append("\t".join((*judged.cells, raw_id, record.extracted_at, record.generation, meta)) + "\n")

        items = zip(records, self._decoded(records, joined), raw_ids, ends, strict=True)
        self._code_for(joined, raw=False)(items, odd, [], final)
        return "".join(final).encode(), self._truncations(records, raw_ids, joined)

    def _truncations(self, records: Sequence[Record], raw_ids: Sequence[str], joined: bytes) -> list[str]:
        if not self._has_truncations or truncation.FIELD not in joined:
            return []
        return [raw_id for record, raw_id in zip(records, raw_ids, strict=True) if truncation.is_one(record.data)]

    def _spare(self, records: Sequence[Record], loaded_ms: int, position: int, raw_id: str) -> bytes:
        record = records[position]
        judged = self._judge.judge(record)
        return b"" if judged.changes else b"".join(self._raw_row(record, judged, raw_id, loaded_ms))

    def _code_for(self, joined: bytes, *, raw: bool) -> RowCode:
        form = _escapes(joined), self._has_ordinary_moments(joined), raw
        code = self._codes.get(form)
        if code is None:
            escapes, moments_known, _ = form
            source = source_of(self._columns, escapes, moments_known=moments_known, raw=raw, final=not self._raw_only)
            code = self._codes[form] = _compiled(source, judged=self._judged)
        return code

    def _has_ordinary_moments(self, joined: bytes) -> bool:
        """Whether every timestamp in ``joined`` is one of the calendar, in RFC 3339's spelling.

        The decoder's own check of all rows costs a third of what ours does value by value. What it makes of them is
        thrown away: a timestamp stays the text that came.
        """
        if self._moments is None:
            return False
        try:
            self._moments.decode_lines(joined)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return True

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
        raw_tail = rawrow.tail(None if self._raw_only else loaded_ms, meta, self._generation)
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

    def _exact(self, record: Record, raw_id: str, loaded_ms: int) -> tuple[Pieces, str]:
        """The raw and the final row of one record, each value judged by itself; empty where it gets none."""
        judged = self._judge.judge(record)
        meta = self._meta_text([*judged.changes, *judged.own_changes])
        ends = (raw_id, self._timestamptz(record.emitted_at), self._generation_text, copy_escaped(meta))
        final_row = "" if self._raw_only else "\t".join((*judged.cells, *ends)) + "\n"
        if self._retention == "none" or (self._retention == "typed" and not judged.changes):
            return [], final_row
        return self._raw_row(record, judged, raw_id, loaded_ms), final_row

    def _raw_row(self, record: Record, judged: Judged, raw_id: str, loaded_ms: int) -> Pieces:
        typed_ms = None if self._raw_only else loaded_ms
        raw_tail = rawrow.tail(typed_ms, self._meta_text(judged.own_changes), self._generation)
        data_head = rawrow.data_head(len(judged.data) + 1, 1)
        extracted_at = rawrow.moment(record.emitted_at)
        return [rawrow.ROW_HEAD, raw_id.encode(), data_head, judged.data, extracted_at, raw_tail]

    def _meta_text(self, changes: Sequence[str]) -> str:
        return _meta(changes, self._sync_id)


def _meta(changes: Sequence[str], sync_id: str) -> str:
    return f'{{"changes":[{",".join(changes)}],"sync_id":{sync_id}}}'


def _escapes(joined: bytes) -> Escapes:
    if b"\\" not in joined:
        return "none"
    return "any" if _OTHER_ESCAPE.search(joined) else "quotes"


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
        Kind.DECIMAL: raws,
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


def _moments_type(columns: Sequence[Column]) -> type[msgspec.Struct] | None:
    """What checks the timestamps of ``data``; None where there are none."""
    renamed = {
        f"f{index}": column.field
        for index, column in enumerate(columns)
        if column.kind in (Kind.TIMESTAMP, Kind.TIMESTAMPTZ)
    }
    fields = [(field, datetime.datetime | None, None) for field in renamed]
    return msgspec.defstruct("Moments", fields, rename=renamed, gc=False) if fields else None


# How a value is taken from the row, by kind; {v} is the variable, {f} the field. What is not known to be right is sent
# to the exact judge (values.py), and what that refuses makes the row an odd one.
_ODD = "odd(record, raw_id); continue"
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
_TAKE_DECIMAL = f"""\
    {{v}} = str(row.{{f}}, "latin-1")
    if {{v}} == "null": {{v}} = NULL
    elif not ({{usual}}): {_ODD}"""
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
    Kind.INTEGER: '({v}.isdigit() or {v}[1:].isdigit() and {v}[0] == "-") and len({v}) < 19',
    Kind.NUMBER: '"-" <= {v} < ":" and len({v}) < 1000 and "e" not in {v} and "E" not in {v}',
    # A digit more might be cut off, which has to be told.
    Kind.DECIMAL: (
        'len({v}) < 30 and ("." in {v}[-10:] or "." not in {v})'
        ' and "-" <= {v} < ":" and "e" not in {v} and "E" not in {v}'
    ),
    Kind.DATE: "{v} in DATES",
    Kind.TIME: "False",
    Kind.TIMETZ: "False",
    Kind.TIMESTAMP: "{v}[:10] in DATES and USUAL_TAIL({v}, 10)",
    Kind.TIMESTAMPTZ: "{v}[:10] in DATES and USUAL_TAIL({v}, 10)",
}

# Of timestamps that are known to be of the calendar (``_has_ordinary_moments``): the server's greatest displacement is
# smaller than RFC 3339's, so only those without one need no closer look; and one spelling is written, not two.
_USUAL_IF_KNOWN = {
    **_USUAL,
    Kind.TIMESTAMP: '{v}[10] == "T" and "+" not in {v} and {v}.find("-", 10) < 0 or ' + _USUAL[Kind.TIMESTAMP],
    Kind.TIMESTAMPTZ: '{v}[-1] == "Z" and {v}[10] == "T" or ' + _USUAL[Kind.TIMESTAMPTZ],
}


def source_of(
    columns: Sequence[Column], escapes: Escapes, *, moments_known: bool = False, raw: bool = True, final: bool = True
) -> str:
    """The generated function.

    ``escapes``: which ones the data of the rows has; ``moments_known``: whether its timestamps are of the calendar;
    ``raw``, ``final``: which rows it makes.
    """
    usual = _USUAL_IF_KNOWN if moments_known else _USUAL
    lines = [
        "def rows(items, odd, raw, final):",
        "  put_raw, put_final = raw.extend, final.append",
        "  for record, row, raw_id, (final_end, raw_end) in items:",
        f"    if row is None or (record.meta and record.meta not in EMPTY_METAS): {_ODD}",
    ]
    if final:
        for index, column in enumerate(columns):
            lines.append(_taken(column.kind, f"v{index}", f"f{index}", usual, escapes))
        cells = "".join(f"{{v{index}}}\\t" for index in range(len(columns)))
        lines.append(f'    put_final(f"{cells}{{raw_id}}{{final_end}}")')
    if raw:
        lines.append("    data = record.data")
        lines.append("    put_raw((ROW_HEAD, raw_id.encode(), DATA_HEAD(len(data) + 1, 1), data, raw_end))")
    return "\n".join(lines) + "\n"


def _taken(kind: Kind, variable: str, field: str, usual: Mapping[Kind, str], escapes: Escapes) -> str:
    escaped = "" if escapes == "none" else '.replace("\\\\", "\\\\\\\\")'
    if kind is Kind.STRING:
        return (_TAKE_ESCAPED_STRING if escapes == "any" else _TAKE_STRING).format(v=variable, f=field)
    if kind is Kind.BOOLEAN:
        return _TAKE_BOOLEAN.format(v=variable, f=field)
    if kind in (Kind.OBJECT, Kind.ARRAY):
        opening = "{" if kind is Kind.OBJECT else "["
        return _TAKE_NESTED.format(v=variable, f=field, escaped=escaped, opening=opening)
    if kind is Kind.UNKNOWN:
        return _TAKE_UNKNOWN.format(v=variable, f=field, escaped=escaped)
    if kind is Kind.DECIMAL:
        return _TAKE_DECIMAL.format(v=variable, f=field, usual=usual[kind].format(v=variable))
    template = _TAKE_NUMERIC if kind in (Kind.INTEGER, Kind.NUMBER) else _TAKE_MOMENT
    return template.format(v=variable, f=field, usual=usual[kind].format(v=variable), judge=f"JUDGE_{kind.name}")


def _compiled(source: str, *, judged: bool) -> RowCode:
    judges = values.TEXTS.items()
    scope: dict[str, Any] = {
        "NULL": NULL,
        "UNSET": UNSET,
        "EMPTY_METAS": EMPTY_METAS,
        "ESCAPED": copy_escaped,
        "ROW_HEAD": rawrow.ROW_HEAD,
        "DATA_HEAD": rawrow.data_head,
        "BOOLEANS": {True: "t", False: "f", None: NULL},
        "DATES": values.KNOWN_DATES,
        "USUAL_TAIL": values.USUAL_TAIL.fullmatch,
        **{f"JUDGE_{kind.name}": judge if judged else partial(judge, judged=False) for kind, judge in judges},
    }
    # The source holds no name or value from outside: fields are numbered.
    exec(compile(source, "<rows>", "exec"), scope)  # noqa: S102
    code: RowCode = scope["rows"]
    return code
