"""LSNs: integers inside, ``X/Y`` at the edges (PostgreSQL documentation 8.20, pg_lsn)."""

from __future__ import annotations

# The header of a WAL page: 24 bytes, 40 in the first page of a segment.
_WAL_PAGE = 8192
_PAGE_HEADERS = (24, 40)


def parse(text: str) -> int:
    """``16/B374D848`` as the 64-bit position. Raises ValueError."""
    high, _, low = text.partition("/")
    position = int(high, 16) << 32 | int(low, 16)
    if not 0 <= position < 1 << 64 or int(low, 16) < 0 or len(low) > 8:
        raise ValueError("no LSN")
    return position


def render(lsn: int) -> str:
    """A position as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def before_header(lsn: int) -> int:
    """``lsn``, or the start of its page where only the page's header lies in between.

    A record may end exactly at a page's end. The position behind the next page's header says the same, but an idle
    server never writes that header, and a slot that is advanced there passes the record that begins there.
    """
    return lsn - lsn % _WAL_PAGE if lsn % _WAL_PAGE in _PAGE_HEADERS else lsn
