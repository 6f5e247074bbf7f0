"""A test-only encoder of pgoutput frames, the mirror of core/pgoutput.py."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from source_postgres_cdc.core.pgoutput import UNCHANGED, RawValue


def begin(commit_lsn: int, commit_us: int, xid: int) -> bytes:
    return struct.pack(">cQqI", b"B", commit_lsn, commit_us, xid)


def commit(commit_lsn: int, end_lsn: int, commit_us: int) -> bytes:
    return struct.pack(">cBQQq", b"C", 0, commit_lsn, end_lsn, commit_us)


def relation(oid: int, schema: str, name: str, identity: str, columns: Sequence[tuple[str, int, bool]]) -> bytes:
    head = b"R" + struct.pack(">I", oid) + _string(schema) + _string(name) + identity.encode()
    body = b"".join(
        struct.pack(">B", in_key) + _string(column) + struct.pack(">Ii", type_oid, -1)
        for column, type_oid, in_key in columns
    )
    return head + struct.pack(">H", len(columns)) + body


def truncate(*oids: int) -> bytes:
    return b"T" + struct.pack(f">IB{len(oids)}I", len(oids), 0, *oids)


def insert(oid: int, new: Sequence[RawValue]) -> bytes:
    return b"I" + struct.pack(">I", oid) + b"N" + row(new)


def update(oid: int, new: Sequence[RawValue], old: Sequence[RawValue] | None = None, kind: bytes = b"K") -> bytes:
    before = kind + row(old) if old is not None else b""
    return b"U" + struct.pack(">I", oid) + before + b"N" + row(new)


def delete(oid: int, old: Sequence[RawValue], kind: bytes = b"K") -> bytes:
    return b"D" + struct.pack(">I", oid) + kind + row(old)


def row(values: Sequence[RawValue]) -> bytes:
    return struct.pack(">H", len(values)) + b"".join(map(_value, values))


def _value(value: RawValue) -> bytes:
    if value is None:
        return b"n"
    if value is UNCHANGED:
        return b"u"
    text = str(value).encode("latin-1")
    return b"t" + struct.pack(">I", len(text)) + text


def _string(text: str) -> bytes:
    return text.encode() + b"\0"
