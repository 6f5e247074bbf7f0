"""Streams that are appended to: the source is to say where in the order of changes a row stands, so that our
destination knows what comes again after a crash (emit_position)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

COMMIT_FIELD = "_ab_cdc_commit_lsn"
ORDINAL_FIELD = "_ab_cdc_ordinal"
_COLUMN = {"type": "number"}


def ask_for_positions(catalog: dict[str, Any], source_config: Path) -> bool:
    """Declare the positions in those streams of a configured catalog that are incremental and appended to.

    Returns whether there are such and the configuration does not forbid it.
    """
    streams = [
        configured["stream"]
        for configured in catalog["streams"]
        if configured.get("sync_mode") == "incremental" and configured.get("destination_sync_mode") == "append"
    ]
    if not streams or _emits(source_config) is False:
        return False
    for stream in streams:
        properties = stream.setdefault("json_schema", {}).setdefault("properties", {})
        properties.setdefault(COMMIT_FIELD, _COLUMN)
        properties.setdefault(ORDINAL_FIELD, _COLUMN)
    return True


def _emits(source_config: Path) -> object:
    """What the source's configuration says of it; what is wrong with the file is the source's to say."""
    try:
        document = orjson.loads(source_config.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return document.get("emit_position") if isinstance(document, dict) else None
