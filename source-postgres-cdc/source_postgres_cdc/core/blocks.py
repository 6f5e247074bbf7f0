"""Blocks: rows of binary COPY (PostgreSQL documentation, COPY, "Binary Format") that hold ``(lsn, frame)``.

Each row: field count u16 = 2, length u32 = 8, the LSN, the frame's length u32, the frame.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from source_postgres_cdc.core.pgoutput import ProtocolError

# What a COPY begins with: signature, flags, and the length of an extension that is not there. And what it ends with.
FILE_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
FILE_TRAILER = b"\xff\xff"

# Bytes of a row before its frame; where its LSN and the frame's length are found.
ROW_HEADER = 18
_ROW = struct.Struct(">HIQI").unpack_from
unpack_row: Callable[[bytes, int], tuple[int, ...]] = struct.Struct(">6xQI").unpack_from

# A larger block holds a huge row: it is not decoded as a whole.
TEXT_LIMIT = 1 << 25


class Block:
    """Rows in ``buffer`` from ``at`` on; ``text`` is the same as latin-1 text, empty for a huge one.

    The last row may be cut. Whoever takes a row moves ``at`` behind it.
    """

    __slots__ = ("at", "buffer", "text")

    def __init__(self, buffer: bytes, at: int) -> None:
        self.buffer = buffer
        self.at = at
        self.text = buffer.decode("latin-1") if len(buffer) <= TEXT_LIMIT else ""

    def take(self) -> tuple[int, bytes] | None:
        """The next row's LSN and frame; None where no whole row is left. Raises ProtocolError."""
        if self.missing > 0:
            return None
        fields, width, lsn, size = _ROW(self.buffer, self.at)
        if fields != 2 or width != 8:
            raise ProtocolError("a COPY row that is not of an LSN and a frame")
        start = self.at + ROW_HEADER
        self.at = start + size
        return lsn, self.buffer[start : self.at]

    @property
    def missing(self) -> int:
        """How many bytes the row at ``at`` lacks at least; not above 0 for a whole one."""
        held = len(self.buffer) - self.at - ROW_HEADER
        return -held if held < 0 else unpack_row(self.buffer, self.at)[1] - held


def blocks(slices: Iterable[bytes]) -> Iterator[Block]:
    """The blocks of one COPY, which comes in ``slices`` cut anywhere; each block must be used up before the next.

    Raises ProtocolError when it is no such COPY.
    """
    parts: list[bytes] = []
    size, needed = 0, len(FILE_HEADER)
    header_size = len(FILE_HEADER)
    for piece in slices:
        parts.append(piece)
        size += len(piece)
        if size < needed:
            continue
        buffer = b"".join(parts)
        if header_size and not buffer.startswith(FILE_HEADER):
            raise ProtocolError("a COPY without its header")
        block = Block(buffer, header_size)
        header_size = 0
        yield block
        parts = [buffer[block.at :]]
        size = len(parts[0])
        needed = size + block.missing
    if b"".join(parts) != FILE_TRAILER:
        raise ProtocolError("a COPY without its trailer")
