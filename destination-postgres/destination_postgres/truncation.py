"""The record by which our source says that a table was emptied: a key of nulls, and a mark in the data."""

from __future__ import annotations

from msgspec import Raw

from destination_postgres import jsontext

FIELD = b"_ab_cdc_truncate"


def is_one(data: Raw) -> bool:
    """Whether a record with this ``data`` stands for a TRUNCATE."""
    if FIELD not in bytes(data):
        return False
    try:
        members = jsontext.members(data)
    except jsontext.INVALID:
        return False
    return bytes(members.get(FIELD.decode(), b"")).strip() == b"true"
