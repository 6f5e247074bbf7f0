"""Lines of an input, and the same lines spoilt: by bytes, by JSON values, by structure. One seed makes all of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from integration_tests.destination.writing import record, state, status
from integration_tests.support.catalogs import configured, stream

STREAMS = ("users", "orders")
FIELDS = {
    "id": "integer",
    "name": "string",
    "n": "number",
    "at": "timestamptz",
    "is": "boolean",
    "doc": "object",
    "list": "array",
}
CATALOG = configured([stream(name, FIELDS, key=["id"]) for name in STREAMS], destination="append")

ODD_VALUES = [
    *("null", "true", "[]", "{}", '""', "0", "-0", "-1", "1e5", "1E400", "1e-400", "1.50", "12345678901234567890123"),
    *('"1"', '"NaN"', '"Infinity"', '"\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\\\u0000"', '"é"', '"2024-02-30"'),
    *(
        '"now"',
        '"2024-01-01T24:00:00Z"',
        '"9999999-01-01"',
        '{"a":{"a":[{}]}}',
        "[" * 50 + "]" * 50,
        '"' + "x" * 5000 + '"',
    ),
    *('[1,"a",null]', "1" * 400, "0." + "1" * 400, '{"":""}', '{"a":1,"a":2}', "false"),
]
NOT_JSON = [
    "NaN",
    "Infinity",
    "01",
    "+1",
    "1.",
    ".5",
    "'a'",
    "nul",
    "tru",
    "",
    ",",
    "undefined",
    '"\n"',
    '"\x01"',
    "\\",
]
NOISE = [
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\t",
    b'"',
    b"\\",
    b"{",
    b"}",
    b",",
    b":",
    b"\\u0000",
    b"\\ud800",
]


class Mutator:
    """Draws lines; ``spoilt`` breaks one as a bad source or a bad pipe might."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def input(self, count: int) -> list[bytes]:
        """About ``count`` good lines of all kinds, statuses at the end."""
        lines: list[bytes] = []
        number = 0
        while len(lines) < count - len(STREAMS):
            name = self._draw.choice(STREAMS)
            if self._draw.random() < 0.05:
                lines.append(state(number, self._draw.choice([name, None])))
                continue
            number += 1
            lines.append(self.record(number, name))
        return [*lines, *map(status, STREAMS)]

    def record(self, number: int, name: str) -> bytes:
        """A RECORD; now and then with values that no column was made for."""
        data = {
            "id": str(number),
            "name": json.dumps(f"name {number}"),
            "n": f"{number}.5",
            "at": '"2024-01-01T00:00:00Z"',
            "is": "true",
            "doc": '{"a":[1,"x"]}',
            "list": "[1,2]",
        }
        while self._draw.random() < 0.15:
            data[self._draw.choice(list(data))] = self._draw.choice(ODD_VALUES)
        return record("{" + ",".join(f'"{field}":{value}' for field, value in data.items()) + "}", name)

    def spoilt(self, line: bytes) -> bytes:
        """``line``, which may then be several, or none."""
        for _ in range(self._draw.choice([1, 1, 1, 2, 5])):
            line = self._draw.choice(_WAYS)(self._draw, line)
        return line


def _places(draw: random.Random, line: bytes) -> tuple[int, int]:
    first, last = sorted(draw.randrange(len(line) + 1) for _ in range(2))
    return first, last


def _flip(draw: random.Random, line: bytes) -> bytes:
    if not line:
        return line
    place = draw.randrange(len(line))
    return line[:place] + bytes([draw.randrange(256)]) + line[place + 1 :]


def _cut_out(draw: random.Random, line: bytes) -> bytes:
    first, last = _places(draw, line)
    return line[:first] + line[last:]


def _cut_off(draw: random.Random, line: bytes) -> bytes:
    return line[: draw.randrange(len(line) + 1)]


def _double(draw: random.Random, line: bytes) -> bytes:
    first, last = _places(draw, line)
    return line[:last] + line[first:]


def _insert(draw: random.Random, line: bytes) -> bytes:
    place = draw.randrange(len(line) + 1)
    return line[:place] + draw.choice(NOISE) + line[place:]


def _join(draw: random.Random, line: bytes) -> bytes:
    return line.removesuffix(b"\n")


def _swap(draw: random.Random, line: bytes) -> bytes:
    first, last = _places(draw, line)
    return line[last:] + line[first:last] + line[:first]


def _respell(draw: random.Random, line: bytes) -> bytes:
    spellings: Sequence[tuple[bytes, bytes]] = [
        (b"RECORD", b"record"),
        (b"RECORD", b"RECORDS"),
        (b"STATE", b"RECORD"),
        (b"RECORD", b"STATE"),
        (b'"stream":"users"', b'"stream":"nobody"'),
        (b'"stream":"users"', b'"stream":null'),
        (b'"emitted_at":1700000000000', b'"emitted_at":"x"'),
        (b'"emitted_at":1700000000000', b'"emitted_at":1.7e12'),
        (b'"emitted_at":1700000000000', b'"emitted_at":-99999999999999999999'),
        (b'"namespace":"public"', b'"namespace":null'),
        (b'"namespace":"public"', b'"namespace":""'),
        (b"COMPLETE", b"INCOMPLETE"),
        (b'"type"', b'"Type"'),
        (b"\n", b"\r\n"),
    ]
    return line.replace(*draw.choice(spellings))


def _revalue(draw: random.Random, line: bytes) -> bytes:
    """Put another value, or what is none, in the place of one anywhere in the message."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return line
    marker = "the place of another value"
    places: list[Callable[[], None]] = []

    def collect(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append(lambda key=key, node=node: node.__setitem__(key, marker))  # type: ignore[misc]
            if isinstance(node[key], (dict, list)):
                collect(node[key])

    if not isinstance(document, (dict, list)):
        return line
    collect(document)
    if places:
        draw.choice(places)()
    value = draw.choice([*ODD_VALUES, *NOT_JSON])
    return json.dumps(document).replace(json.dumps(marker), value).encode(errors="surrogatepass") + b"\n"


def _drop_member(draw: random.Random, line: bytes) -> bytes:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return line
    node = document
    while isinstance(node, dict) and node:
        key = draw.choice(list(node))
        if not isinstance(node[key], dict) or draw.random() < 0.4:
            del node[key]
            break
        node = node[key]
    return json.dumps(document).encode() + b"\n"


_WAYS: Sequence[Callable[[random.Random, bytes], bytes]] = [
    *(_flip, _cut_out, _cut_off, _double, _insert, _join, _swap, _respell),
    *(_revalue, _revalue, _revalue, _drop_member),
]


def counted(lines: bytes) -> int:
    """How many RECORDs an input has that was taken without an error, by another reader of JSON than ours."""
    count = 0
    for line in lines.split(b"\n"):
        text = line.strip().removeprefix(b"\xef\xbb\xbf")
        if text.startswith(b"{"):
            # What is no UTF-8 may stand where nobody looks.
            count += json.loads(text.decode(errors="replace"))["type"] == "RECORD"
    return count
