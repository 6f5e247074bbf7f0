"""RECORDs of one stream -> COPY text for its raw and its final table.

Code is generated per stream, from its columns, so that a row costs one pass without a loop over its values (measured:
half the time). A row with a value that the generated code does not know to be right goes through ``RowEncoder._exact``,
which decides value by value and writes what it refused into ``_airbyte_meta``.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from airbyte_pg.errors import StreamName, SystemFault
from destination_postgres import values
from destination_postgres.columns import Column, Kind
from destination_postgres.inbox import Record, repair_escapes
from destination_postgres.raw_ids import RawIds

# COPY's text format (PostgreSQL documentation, COPY, File Formats).
NULL = "\\N"
_COPY_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
# White space that JSON allows between tokens, and COPY takes for the end of a column or line. Strings have none.
_JSON_SPACE = bytes.maketrans(b"\t\r", b"  ")

# Distinct times of extraction whose text is remembered; a source stamps many rows with the same millisecond.
_TIMES_LIMIT = 10_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)

# A record's meta that says nothing, as sources write it.
_EMPTY_METAS = tuple(map(Raw, (b"", b'{"changes":[]}', b"null", b"{}", b'{"changes":null}')))

# (record, its decoded data or None, the data as COPY text, raw id, time of extraction)
Item = tuple[Record, Any, str, str, str]
RowCode = Callable[[Iterable[Item], Callable[[Item], None], list[str], list[str], str, str], None]


class Encoded(NamedTuple):
    """COPY text of some rows: raw and final; how many rows there are, and the bytes of their ``data``."""

    raw: bytes
    final: bytes
    row_count: int
    data_bytes: int


class _Meta(msgspec.Struct):
    changes: list[Raw] | None = None


_decode_data = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_meta = msgspec.json.Decoder(_Meta).decode


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
    ) -> None:
        """``numeric_infinity``: whether the server's numeric knows the infinities (14 and later)."""
        self._stream = stream
        # As the exact judge looks for them: without the NUL characters that it removes from data.
        self._fields = [(column.field.replace("\0", ""), column.kind) for column in columns]
        self._nulled = [_nulled(column.field) for column in columns]
        self._ids = ids
        self._numeric_infinity = numeric_infinity
        self._generation = NULL if generation_id is None else str(generation_id)
        self._sync_id = "null" if sync_id is None else str(sync_id)
        self._times: dict[int, str] = {}
        row_type = _row_type(columns)
        self._decoder = None if row_type is None else msgspec.json.Decoder(row_type)
        self._plain = _compiled(columns, escaping=False)
        self._escaping = _compiled(columns, escaping=True)

    def encode(self, records: Sequence[Record], loaded_at: str) -> Encoded:
        """The rows of ``records``, in order; ``loaded_at`` is a timestamptz text.

        Raises SystemFault for a record whose data is no JSON object in UTF-8.
        """
        joined = b"\n".join([record.data for record in records])
        if b"\t" in joined or b"\r" in joined:
            joined = joined.translate(_JSON_SPACE)
        data_bytes = len(joined) - len(records) + 1
        code, items = self._items(records, joined)
        # The budget is five times the largest row: what is not needed any more is let go at once.
        del joined
        raw: list[str] = []
        final: list[str] = []

        def odd(item: Item) -> None:
            for lines, line in zip((raw, final), self._exact(item, loaded_at), strict=True):
                lines.append(line)

        meta = self._meta_text([])
        final_tail = f"\t{self._generation}\t{meta}\n"
        raw_tail = f"\t{loaded_at}\t{meta}\t{self._generation}\n"
        code(items, odd, raw, final, raw_tail, final_tail)
        del items
        return Encoded(_encoded(raw), _encoded(final), len(records), data_bytes)

    def _items(self, records: Sequence[Record], joined: bytes) -> tuple[RowCode, Iterator[Item]]:
        rows = self._decoded(records, joined)
        try:
            text = joined.decode()
        except UnicodeDecodeError:
            raise self._broken() from None
        code = self._plain
        if "\\" in text:
            text = text.replace("\\", "\\\\")
            code = self._escaping
        ids, times = self._ids.take(len(records)), self._extracted(records)
        return code, zip(records, rows, text.split("\n"), ids, times, strict=True)

    def _decoded(self, records: Sequence[Record], joined: bytes) -> Sequence[Any]:
        # None stands for a row that has to be looked at value by value.
        if self._decoder is None:
            return [None] * len(records)
        if b"\\u0000" not in joined:
            try:
                rows = self._decoder.decode_lines(joined)
            except (msgspec.DecodeError, UnicodeDecodeError):
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
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _extracted(self, records: Iterable[Record]) -> Iterator[str]:
        known = self._times
        for record in records:
            emitted_ms = record.emitted_at
            found = known.get(emitted_ms)
            if found is None:
                if len(known) >= _TIMES_LIMIT:
                    known.clear()
                found = known[emitted_ms] = self._moment(emitted_ms)
            yield found

    def _moment(self, emitted_ms: int) -> str:
        try:
            return timestamptz(_EPOCH + datetime.timedelta(milliseconds=emitted_ms))
        except (OverflowError, ValueError):
            raise SystemFault("A record's emitted_at is no time in milliseconds.", stream=self._stream) from None

    def _exact(self, item: Item, loaded_at: str) -> tuple[str, str]:
        """The raw and the final line of one row, each value judged by itself."""
        record, _, _, raw_id, extracted_at = item
        data = bytes(record.data).translate(_JSON_SPACE)
        if b"\\" in data:
            data = repair_escapes(data, drop_nul=True)
        try:
            fields = _decode_data(data)
            own_changes = self._own_changes(record)
            data_text = data.decode()
        except (msgspec.DecodeError, UnicodeDecodeError):
            # From None: the decoder's text may quote the data.
            raise self._broken() from None
        cells: list[str] = []
        changes: list[str] = []
        for (field, kind), nulled in zip(self._fields, self._nulled, strict=True):
            value = fields.get(field)
            text = "null" if value is None else str(value, "utf-8")
            if value is None or (text == "null" and kind is not Kind.UNKNOWN):
                cells.append(NULL)
                continue
            fitting = self._fitting(kind, text)
            if fitting is None:
                changes.append(nulled)
            cells.append(NULL if fitting is None else fitting.translate(_COPY_ESCAPES))
        raw_cells = (
            raw_id,
            data_text.translate(_COPY_ESCAPES),
            extracted_at,
            loaded_at,
            self._meta_text(own_changes),
            self._generation,
        )
        final_cells = (*cells, raw_id, extracted_at, self._generation, self._meta_text([*changes, *own_changes]))
        return "\t".join(raw_cells) + "\n", "\t".join(final_cells) + "\n"

    def _fitting(self, kind: Kind, text: str) -> str | None:
        fitting = values.from_json(kind, text)
        if kind is Kind.NUMBER and fitting is not None and not self._numeric_infinity and "inf" in fitting.lower():
            return None
        return fitting

    def _own_changes(self, record: Record) -> list[str]:
        if record.meta in _EMPTY_METAS:
            return []
        meta = repair_escapes(bytes(record.meta).translate(_JSON_SPACE), drop_nul=True)
        return [str(change, "utf-8") for change in _decode_meta(meta).changes or []]

    def _meta_text(self, changes: Sequence[str]) -> str:
        text = f'{{"changes":[{",".join(changes)}],"sync_id":{self._sync_id}}}'
        return text.replace("\\", "\\\\")

    def _broken(self) -> SystemFault:
        return SystemFault(
            "A record of the input has data or meta that is no JSON object in UTF-8.", stream=self._stream
        )


def timestamptz(moment: datetime.datetime) -> str:
    """``moment`` (UTC) as the server reads it, microseconds included."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f+00").rjust(len("0000-00-00 00:00:00.000000+00"), "0")


def _encoded(lines: list[str]) -> bytes:
    text = "".join(lines)
    lines.clear()
    return text.encode()


def _nulled(field: str) -> str:
    # jsonb cannot hold the character that a field's name may have.
    named = msgspec.json.encode(field.replace("\0", "")).decode()
    return f'{{"field":{named},"change":"NULLED","reason":"DESTINATION_TYPECAST_ERROR"}}'


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
    {v} = NULL if {v} is None else {v}.translate(ESCAPES)"""
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
        "def rows(items, odd, raw, final, raw_tail, final_tail):",
        "  put_raw, put_final = raw.append, final.append",
        "  for item in items:",
        "    record, row, text, raw_id, extracted_at = item",
        f"    if row is None or (record.meta and record.meta not in EMPTY_METAS): {_ODD}",
    ]
    for index, column in enumerate(columns):
        lines.append(_taken(column.kind, f"v{index}", f"f{index}", escaping=escaping))
    cells = "".join(f"{{v{index}}}\\t" for index in range(len(columns)))
    lines.append(f'    put_final(f"{cells}{{raw_id}}\\t{{extracted_at}}{{final_tail}}")')
    lines.append('    put_raw(f"{raw_id}\\t{text}\\t{extracted_at}{raw_tail}")')
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


def _compiled(columns: Sequence[Column], *, escaping: bool) -> RowCode:
    scope: dict[str, Any] = {
        "NULL": NULL,
        "UNSET": UNSET,
        "EMPTY_METAS": _EMPTY_METAS,
        "ESCAPES": _COPY_ESCAPES,
        "BOOLEANS": {True: "t", False: "f", None: NULL},
        "DATES": values.KNOWN_DATES,
        "USUAL_TAIL": values.USUAL_TAIL.fullmatch,
        **{f"JUDGE_{kind.name}": judge for kind, judge in values.TEXTS.items()},
    }
    # The source holds no name or value from outside: fields are numbered.
    exec(compile(source_of(columns, escaping=escaping), "<rows>", "exec"), scope)  # noqa: S102
    code: RowCode = scope["rows"]
    return code
