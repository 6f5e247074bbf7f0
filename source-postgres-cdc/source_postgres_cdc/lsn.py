"""LSNs: integers inside, ``X/Y`` at the edges (PostgreSQL documentation 8.20, pg_lsn)."""

from __future__ import annotations


def parse(text: str) -> int:
    """``16/B374D848`` as the 64-bit position. Raises ValueError."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def render(lsn: int) -> str:
    """A position as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
