"""Records -> rows as COPY takes them. The generated code and the exact judge must say the same of every row."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from airbyte_pg.errors import StreamName, SystemFault
from destination_postgres.columns import Column, Kind, columns_of
from destination_postgres.inbox import Record
from destination_postgres.raw_ids import RawIds
from destination_postgres.rowcode import Encoded, RowEncoder

STREAM = StreamName("public", "s")
RAW_ID = "0" * 36
LOADED_AT = 1_704_164_645_006
EXTRACTED = "1970-01-01 00:00:01.500000+00"
ALL_KINDS = tuple(Column(f"{kind.name} 'é", kind.name.lower(), kind) for kind in Kind)


def encoder(columns: tuple[Column, ...], **more: Any) -> RowEncoder:
    return RowEncoder(STREAM, columns, RawIds(), **{"generation_id": 3, "sync_id": 42, **more})


def record(data: bytes | str, meta: bytes = b"") -> Record:
    return Record("s", Raw(data.encode() if isinstance(data, str) else data), 1500, "public", Raw(meta))


def cells(copy_text: bytes) -> list[list[str | None]]:
    """COPY's text format read back, as the server does it."""
    assert copy_text.endswith(b"\n")
    return [[unescaped(cell) for cell in line.split("\t")] for line in copy_text.decode()[:-1].split("\n")]


def raw_rows(copied: bytes) -> list[list[str | int | None]]:
    """COPY's binary format read back: raw id, data, extracted at (ms), loaded at (ms), meta, generation."""
    found: list[list[str | int | None]] = []
    position = 0
    while position < len(copied):
        (count,) = struct.unpack_from(">h", copied, position)
        assert count == 6
        position += 2
        fields: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", copied, position)
            position += 4
            fields.append(None if length < 0 else copied[position : position + length])
            position += max(length, 0)
        found.append([read(field) for read, field in zip(RAW_READERS, fields, strict=True)])
    return found


def jsonb(field: bytes | None) -> str:
    assert field is not None
    assert field[:1] == b"\x01"
    return field[1:].decode()


def moment_ms(field: bytes | None) -> int | None:
    if field is None:
        return None
    microseconds = struct.unpack(">q", field)[0]
    assert microseconds % 1000 == 0
    return int(microseconds // 1000 + 946_684_800_000)


RAW_READERS: tuple[Callable[[bytes | None], str | int | None], ...] = (
    lambda field: (field or b"").decode(),
    jsonb,
    moment_ms,
    moment_ms,
    jsonb,
    lambda field: None if field is None else int(struct.unpack(">q", field)[0]),
)


def unescaped(cell: str) -> str | None:
    if cell == "\\N":
        return None
    assert "\r" not in cell
    plain, position = [], 0
    while position < len(cell):
        if cell[position] == "\\":
            position += 1
            plain.append({"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}[cell[position]])
        else:
            plain.append(cell[position])
        position += 1
    return "".join(plain)


def final_cells(columns: tuple[Column, ...], *data: str, **more: Any) -> list[list[str | None]]:
    encoded = encoder(columns, **more).encode([record(one) for one in data], LOADED_AT)
    return cells(encoded.final)


def columns(**types: Any) -> tuple[Column, ...]:
    return columns_of({name: {"type": kind} if isinstance(kind, str) else kind for name, kind in types.items()})


def test_a_row_in_full():
    encoded = encoder(columns(id="integer", name="string")).encode([record('{"name":"é","id":1,"x":[1.0]}')], LOADED_AT)
    ((raw_id, *raw),) = raw_rows(encoded.raw)
    assert raw == ['{"name":"é","id":1,"x":[1.0]}', 1500, LOADED_AT, '{"changes":[],"sync_id":42}', 3]
    assert cells(encoded.final) == [["1", "é", raw_id, EXTRACTED, "3", '{"changes":[],"sync_id":42}']]
    assert (encoded.row_count, encoded.data_bytes) == (1, len('{"name":"é","id":1,"x":[1.0]}'.encode()))


def test_ids_that_the_platform_does_not_give_are_null():
    encoded = encoder(columns(), generation_id=None, sync_id=None).encode([record("{}")], LOADED_AT)
    assert cells(encoded.final)[0][2:] == [None, '{"changes":[],"sync_id":null}']
    assert raw_rows(encoded.raw)[0][4:] == ['{"changes":[],"sync_id":null}', None]


def test_what_does_not_fit_is_null_with_a_reason_and_stays_in_raw():
    encoded = encoder(columns(a="integer", b="string", c="boolean")).encode(
        [record('{"a":"x","b":7,"c":"y"}', b'{"changes":[{"field":"z","change":"NULLED","reason":"NEW"}]}')], LOADED_AT
    )
    nulled = '{{"field":"{}","change":"NULLED","reason":"DESTINATION_TYPECAST_ERROR"}}'
    own = '{"field":"z","change":"NULLED","reason":"NEW"}'
    ((a, b, c, _, _, _, final_meta),) = cells(encoded.final)
    assert (a, b, c) == (None, "7", None)
    assert final_meta == f'{{"changes":[{nulled.format("a")},{nulled.format("c")},{own}],"sync_id":42}}'
    ((_, data, _, _, raw_meta, _),) = raw_rows(encoded.raw)
    assert data == '{"a":"x","b":7,"c":"y"}'
    assert raw_meta == f'{{"changes":[{own}],"sync_id":42}}'


@pytest.mark.parametrize("meta", [b"", b"null", b"{}", b'{"changes":[]}', b'{"changes":null}', b'{ "changes" : [ ] }'])
def test_an_empty_meta_is_no_meta(meta: bytes):
    encoded = encoder(columns(id="integer")).encode([record('{"id":1}', meta)], LOADED_AT)
    assert cells(encoded.final)[0][-1] == '{"changes":[],"sync_id":42}'


def test_which_records_get_a_raw_row():
    data = [record('{"a":1}'), record('{"a":"x"}'), record('{"a":"2"}', b'{"changes":[{"field":"z"}]}'), record("{}")]

    def encoded(**more: Any) -> Encoded:
        return encoder(columns(a="integer"), **more).encode(data, LOADED_AT)

    kept, typed, none = (encoded(retention=retention) for retention in ("keep", "typed", "none"))
    assert [row[1] for row in raw_rows(kept.raw)] == ['{"a":1}', '{"a":"x"}', '{"a":"2"}', "{}"]
    assert [row[1] for row in raw_rows(typed.raw)] == ['{"a":"x"}']
    assert raw_rows(none.raw) == []
    for one in (kept, typed, none):
        assert [row[0] for row in cells(one.final)] == ["1", None, "2", None]
        assert one.row_count == 4
    # The server may refuse a value that we let pass: then its row must have a raw one after all.
    assert typed.spare is not None
    assert kept.spare is none.spare is None
    assert typed.spare(1, RAW_ID) == b""
    assert raw_rows(typed.spare(2, RAW_ID)) == [
        [RAW_ID, '{"a":"2"}', 1500, LOADED_AT, '{"changes":[{"field":"z"}],"sync_id":42}', 3]
    ]


def test_raw_rows_alone_have_not_been_typed():
    encoded = encoder((), raw_only=True).encode(
        [record('{"a":"\\u0000\\ud800","b":[1.0]}'), record("{}", b'{"changes":[{"field":"z"}]}')], LOADED_AT
    )
    assert encoded.final == b""
    assert [row[1:] for row in raw_rows(encoded.raw)] == [
        ['{"a":"\\ufffd","b":[1.0]}', 1500, None, '{"changes":[],"sync_id":42}', 3],
        ["{}", 1500, None, '{"changes":[{"field":"z"}],"sync_id":42}', 3],
    ]
    with pytest.raises(SystemFault):
        encoder((), raw_only=True).encode([record("[1]")], LOADED_AT)


def test_null_absent_and_the_json_null_of_an_untyped_column():
    ((id_null, any_null, *_), (id_absent, any_absent, *_)) = final_cells(
        (Column("id", "id", Kind.INTEGER), Column("any", "any", Kind.UNKNOWN)), '{"id":null,"any":null}', "{}"
    )
    assert (id_null, any_null) == (None, "null")
    assert (id_absent, any_absent) == (None, None)


def test_backslashes_and_control_characters_survive_copy():
    data = json.dumps({"s": "a\\N\tb\nc\rd\\\u2028\x7f", "o": {"k\\": "\n"}})
    encoded = encoder(columns(s="string", o="object")).encode([record(data), record('{"s":"\\\\N"}')], LOADED_AT)
    first, second = cells(encoded.final)
    assert first[0] == "a\\N\tb\nc\rd\\\u2028\x7f"
    assert json.loads(first[1] or "") == {"k\\": "\n"}
    assert second[0] == "\\N"
    assert raw_rows(encoded.raw)[0][1] == data


@pytest.mark.parametrize("text", ['"', '\\"', '"\\', '\\\\"', "/", '"\n"', "plain"])
def test_every_way_of_escaping(text: str):
    data = json.dumps({"s": text, "o": {text: text}})
    ((first, second, *_),) = final_cells(columns(s="string", o="object"), data)
    assert first == text
    assert json.loads(second or "") == {text: text}


def test_white_space_between_tokens_does_not_break_the_row():
    encoded = encoder(columns(id="integer", o="object")).encode(
        [record('{\t"id"\r:\t1 ,"o":{\t"a":1\r}}'), record('{"id": 2\t,"o":"x"}')], LOADED_AT
    )
    assert [row[:2] for row in cells(encoded.final)] == [["1", '{ "a":1 }'], ["2", None]]


def test_nul_is_removed_and_the_rest_of_the_run_is_left_alone():
    found = final_cells(
        columns(s="string", **{"k\u0000ey": "string"}, o="object"),
        '{"s":"a\\u0000b","k\\u0000ey":"x","o":{"\\u0000":["\\u0000"]}}',
        '{"s":"\\\\u0000"}',
        '{"s":"plain"}',
    )
    assert [row[:3] for row in found] == [["ab", "x", '{"":[""]}'], ["\\u0000", None, None], ["plain", None, None]]


def test_nul_is_found_in_a_run_of_ordinary_rows():
    found = final_cells(columns(s="string"), '{"s":"\\\\"}', '{"s":"a\\u0000b"}', '{"s":"c"}')
    assert [row[0] for row in found] == ["\\", "ab", "c"]


def test_digits_are_copied_not_read():
    big, decimal = "9" * 5000, "0." + "1234567890" * 12
    ((one, other, *_), (quoted, *_)) = final_cells(
        columns(n="number", m="number"), f'{{"n":{big},"m":{decimal}}}', f'{{"n":"{decimal}"}}'
    )
    assert (one, other, quoted) == (big, decimal, decimal)


def test_infinite_numbers_are_null_where_the_server_knows_none():
    assert final_cells(columns(n="number"), '{"n":"-Infinity"}')[0][0] == "-Infinity"
    ((cell, *_, meta),) = final_cells(columns(n="number"), '{"n":"-Infinity"}', numeric_infinity=False)
    assert cell is None
    assert "DESTINATION_TYPECAST_ERROR" in (meta or "")


def test_fields_with_any_name():
    names = ['a"b', "a\\b", "a\nb", "", "é", "class", "f0", "{v}", "'", "%s"]
    made = columns_of({name: {"type": "integer"} for name in names})
    data = json.dumps({name: number for number, name in enumerate(names)})
    assert final_cells(made, data)[0][: len(names)] == [str(number) for number in range(len(names))]


def test_a_stream_without_columns_and_one_with_as_many_as_can_be():
    assert len(final_cells((), '{"a":1}')[0]) == 4
    wide = columns_of({f"c{number}": {"type": "string"} for number in range(1596)})
    assert final_cells(wide, '{"c1595":"x"}')[0][1595] == "x"


@pytest.mark.parametrize("data", [b"null", b"[]", b"7", b'{"s":"\xff"}', b'{"\xff":1}', b'{"z":["\xff"]}'])
def test_data_that_is_no_object_in_utf_8_ends_the_sync_without_showing_it(data: bytes):
    with pytest.raises(SystemFault) as caught:
        encoder(columns(s="string")).encode([record('{"s":"x"}'), record(data)], LOADED_AT)
    assert caught.value.stream == STREAM
    assert caught.value.__cause__ is None


def test_a_meta_that_is_none_ends_the_sync():
    with pytest.raises(SystemFault):
        encoder(columns(s="string")).encode([record("{}", b'{"changes":{}}')], LOADED_AT)


@pytest.mark.parametrize(
    ("emitted_ms", "text"),
    [
        (0, "1970-01-01 00:00:00.000000+00"),
        (-1, "1969-12-31 23:59:59.999000+00"),
        (1_710_283_178_100, "2024-03-12 22:39:38.100000+00"),
        (-62_135_596_800_000, "0001-01-01 00:00:00.000000+00"),
    ],
)
def test_times_of_extraction(emitted_ms: int, text: str):
    encoded = encoder(()).encode([Record("s", Raw(b"{}"), emitted_ms)], LOADED_AT)
    assert cells(encoded.final)[0][1] == text
    assert raw_rows(encoded.raw)[0][2] == emitted_ms


@pytest.mark.parametrize("emitted_ms", [10**15, -(10**15), 10**40])
def test_a_time_of_extraction_that_is_none_ends_the_sync(emitted_ms: int):
    with pytest.raises(SystemFault, match="emitted_at"):
        encoder(()).encode([Record("s", Raw(b"{}"), emitted_ms)], LOADED_AT)


moments = st.sampled_from(
    [
        *("2024-02-29", "2023-02-29", "0001-01-01 BC", "99999-01-01", "infinity", "now", ""),
        *(
            "2024-03-12T22:41:18.042000Z",
            "2024-03-12 22:41:18+05",
            "2024-03-12T22:41:18.0Z\t",
            "2024-03-12T22:41:18Z\\",
        ),
        *("12:34:56", "24:00:00Z"),
    ]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**63) - 2, 2**63 + 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | moments
)
documents = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)
rows = st.fixed_dictionaries({}, optional={column.field: documents for column in ALL_KINDS})
# What RFC 3339 calls a time, which is more than the server does: only where all are of these is a shorter way taken.
of_the_calendar = st.none() | st.sampled_from(
    [
        *("2024-03-12T22:41:18.123456", "2024-03-12T22:41:18Z", "2024-03-12t22:41:18z", "2024-03-12 22:41:18Z"),
        *("2024-03-12T22:41:18+15:59", "2024-03-12T22:41:18-16:00", "2024-03-12T22:41:18.123456789+2359"),
    ]
)
rows_of_the_calendar = st.fixed_dictionaries(
    {column.field: of_the_calendar for column in ALL_KINDS if column.kind in (Kind.TIMESTAMP, Kind.TIMESTAMPTZ)},
    optional={column.field: scalars for column in ALL_KINDS if column.kind is Kind.STRING},
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(rows, min_size=1, max_size=5) | st.lists(rows_of_the_calendar, min_size=1, max_size=5), st.booleans())
def test_the_generated_code_says_what_the_exact_judge_says(data: list[dict[str, Any]], ascii_only: bool):
    texts = [json.dumps(one, ensure_ascii=ascii_only) for one in data]
    records = [record(text) for text in texts]
    fast = encoder(ALL_KINDS)
    encoded = fast.encode(records, LOADED_AT)
    judge = encoder(ALL_KINDS)
    ids = [str(row[0]) for row in raw_rows(encoded.raw)]
    exact = [judge._exact(*item, LOADED_AT) for item in zip(records, ids, strict=True)]
    assert raw_rows(encoded.raw) == [raw_rows(b"".join(raw))[0] for raw, _ in exact]
    assert cells(encoded.final) == [cells(final.encode())[0] for _, final in exact]
