"""Entries of ``_airbyte_meta.changes``: what was done to a field, and why. The words are the protocol's."""

from __future__ import annotations

import msgspec
from msgspec import Raw

TYPECAST = "DESTINATION_TYPECAST_ERROR"
FIELD_SIZE = "DESTINATION_FIELD_SIZE_LIMITATION"
RECORD_SIZE = "DESTINATION_RECORD_SIZE_LIMITATION"
SERIALIZATION = "DESTINATION_SERIALIZATION_ERROR"

NULLED = "NULLED"
TRUNCATED = "TRUNCATED"


class Change(msgspec.Struct, frozen=True):
    """One entry; members that it lacks, or has of another type, are empty."""

    field: str = ""
    change: str = ""
    reason: str = ""

    def json(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)


_decode = msgspec.json.Decoder(Change).decode


def nulled(field: str, reason: str) -> Change:
    """The entry for a ``field`` that became NULL. jsonb cannot hold the NUL that its name may have."""
    return Change(field.replace("\0", ""), NULLED, reason)


def rounded(field: str) -> Change:
    """The entry for a ``field`` that lost digits."""
    return Change(field.replace("\0", ""), TRUNCATED, FIELD_SIZE)


def read(text: bytes | Raw) -> Change:
    """What is known of an entry that came with a record."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Change()
