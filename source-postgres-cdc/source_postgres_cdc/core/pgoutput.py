"""pgoutput, protocol version 1, text format: frames to control messages and raw rows. Pure, no I/O.

PostgreSQL documentation 55.9, "Logical Replication Message Formats". Every length is checked against the frame's
end; the only exception is ProtocolError, and it never holds a value.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

BEGIN: Final = 0x42
COMMIT: Final = 0x43
INSERT: Final = 0x49
UPDATE: Final = 0x55
DELETE: Final = 0x44
RELATION: Final = 0x52
TRUNCATE: Final = 0x54

NEW_TUPLE: Final = 0x4E  # 'N'
KEY_TUPLE: Final = 0x4B  # 'K': the old key
OLD_TUPLE: Final = 0x4F  # 'O': the whole old row (REPLICA IDENTITY FULL)

_TEXT: Final = 0x74  # 't'
_NULL: Final = 0x6E  # 'n'
_UNCHANGED: Final = 0x75  # 'u'

_U16 = struct.Struct(">H").unpack_from
_U32 = struct.Struct(">I").unpack_from
_TYPE = struct.Struct(">Ii").unpack_from
_BEGIN = struct.Struct(">cQqI")
_COMMIT = struct.Struct(">cBQQq")


class ProtocolError(Exception):
    """A frame that is not what the protocol says. Names tag and place, never a value."""


class Unchanged:
    """The type of UNCHANGED: a stored-out-of-line value that the change did not touch and the server did not send."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()

RawValue = str | None | Unchanged


class Begin(msgspec.Struct, frozen=True):
    """BEGIN: the LSN of the transaction's commit record, its time (microseconds since 2000-01-01), its xid."""

    commit_lsn: int
    commit_us: int
    xid: int


class Commit(msgspec.Struct, frozen=True):
    """COMMIT: the LSN of the commit record and of its end, and its time."""

    commit_lsn: int
    end_lsn: int
    commit_us: int


class RelationColumn(msgspec.Struct, frozen=True):
    """A column of a RELATION message."""

    name: str
    type_oid: int
    typmod: int
    in_identity: bool


class Relation(msgspec.Struct, frozen=True):
    """RELATION: the table of the rows that follow; identity is pg_class.relreplident (d, n, f, i)."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]


class Truncate(msgspec.Struct, frozen=True):
    """TRUNCATE: the tables that it emptied."""

    relation_oids: tuple[int, ...]


def decode_begin(frame: bytes) -> Begin:
    """A BEGIN frame."""
    _, commit_lsn, commit_us, xid = _unpacked(_BEGIN, frame)
    return Begin(commit_lsn, commit_us, xid)


def decode_commit(frame: bytes) -> Commit:
    """A COMMIT frame."""
    _, _, commit_lsn, end_lsn, commit_us = _unpacked(_COMMIT, frame)
    return Commit(commit_lsn, end_lsn, commit_us)


def relation_oid(frame: bytes) -> int:
    """The relation of an INSERT, UPDATE or DELETE frame."""
    if len(frame) < 8:
        raise _broken(frame, len(frame))
    oid: int = _U32(frame, 1)[0]
    return oid


def decode_relation(frame: bytes) -> Relation:
    """A RELATION frame.

    oid u32, schema str0, name str0, identity u8, columns u16, then per column: flags u8 (1 = in the identity),
    name str0, type oid u32, typmod i32.
    """
    try:
        schema, at = _string(frame, 5)
        name, at = _string(frame, at)
        identity = chr(frame[at])
        (count,) = _U16(frame, at + 1)
        at += 3
        columns = []
        for _ in range(count):
            flags = frame[at]
            column, at = _string(frame, at + 1)
            type_oid, typmod = _TYPE(frame, at)
            at += 8
            columns.append(RelationColumn(column, type_oid, typmod, bool(flags & 1)))
        _expect_end(frame, at)
        return Relation(_U32(frame, 1)[0], schema or "pg_catalog", name, identity, tuple(columns))
    except (IndexError, struct.error, ValueError) as error:
        raise _broken(frame, len(frame)) from error


def decode_truncate(frame: bytes) -> Truncate:
    """A TRUNCATE frame: count u32, options u8 (CASCADE, RESTART IDENTITY), then the relation oids u32."""
    try:
        (count,) = _U32(frame, 1)
        _expect_end(frame, 6 + 4 * count)
        return Truncate(struct.unpack_from(f">{count}I", frame, 6))
    except struct.error as error:
        raise _broken(frame, len(frame)) from error


def split_change(frame: bytes) -> tuple[int, list[RawValue] | None, list[RawValue] | None]:
    """A row frame as (kind of the old tuple or 0, old values, new values); values as latin-1 text.

    INSERT: oid u32, 'N', tuple. UPDATE: oid u32, ['K' or 'O', tuple], 'N', tuple. DELETE: oid u32, 'K' or 'O', tuple.
    """
    try:
        old_kind, old, new, at = 0, None, None, 5
        marker = frame[at]
        if marker in (KEY_TUPLE, OLD_TUPLE) and frame[0] != INSERT:
            old_kind = marker
            old, at = split_tuple(frame, at + 1)
        if frame[0] != DELETE:
            if frame[at] != NEW_TUPLE:
                raise _broken(frame, at)
            new, at = split_tuple(frame, at + 1)
        elif old is None:
            raise _broken(frame, at)
        _expect_end(frame, at)
    except (IndexError, struct.error) as error:
        raise _broken(frame, len(frame)) from error
    return old_kind, old, new


def split_tuple(frame: bytes, at: int) -> tuple[list[RawValue], int]:
    """TupleData at ``at``: count u16, then per column 'n' (null), 'u' (unchanged), or 't', length u32, text.

    Returns the values and the offset behind them. Raises ProtocolError, IndexError or struct.error on a short frame.
    """
    (count,) = _U16(frame, at)
    at += 2
    values: list[RawValue] = []
    for _ in range(count):
        kind = frame[at]
        if kind == _TEXT:
            start = at + 5
            at = start + _U32(frame, at + 1)[0]
            values.append(frame[start:at].decode("latin-1"))
        elif kind == _NULL:
            values.append(None)
            at += 1
        elif kind == _UNCHANGED:
            values.append(UNCHANGED)
            at += 1
        else:
            raise _broken(frame, at)
    if at > len(frame):
        raise _broken(frame, at)
    return values, at


def _string(frame: bytes, at: int) -> tuple[str, int]:
    # Names of a database without an encoding may be any bytes; such a table cannot be selected, but be published.
    end = frame.index(0, at)
    return frame[at:end].decode("utf-8", "surrogateescape"), end + 1


def _unpacked(layout: struct.Struct, frame: bytes) -> tuple[int, ...]:
    if len(frame) != layout.size:
        raise _broken(frame, len(frame))
    return layout.unpack(frame)


def _expect_end(frame: bytes, at: int) -> None:
    if at != len(frame):
        raise _broken(frame, at)


def _broken(frame: bytes, at: int) -> ProtocolError:
    tag = chr(frame[0]) if frame else "empty"
    return ProtocolError(f"malformed pgoutput frame {tag!r} of {len(frame)} bytes at offset {at}")
