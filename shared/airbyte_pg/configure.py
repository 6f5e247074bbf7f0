"""From what ``discover`` said, or a catalog that the user wrote, to the configured catalog of one sync."""

from __future__ import annotations

from typing import Any

import orjson

from airbyte_pg.errors import ConfigError, StreamName
from airbyte_pg.generations import Generations

Json = dict[str, Any]


def configure(catalog: bytes, generations: Generations | None) -> Json:
    """The ConfiguredAirbyteCatalog for ``catalog``: a CATALOG line (others around it are skipped), an
    AirbyteCatalog, or a configured catalog, which is taken as it is.

    A stream with a key that can be read incrementally becomes incremental | append_dedup, any other full_refresh |
    overwrite. Ids that are null come from ``generations``; without them they stay null. Raises ConfigError.
    """
    streams = [_configured(stream) for stream in _streams(catalog)]
    if not streams:
        raise ConfigError("The catalog has no streams.", remedy="Check the source's schemas, tables and privileges.")
    if generations is not None:
        for stream in streams:
            _number(stream, generations)
    return {"streams": streams}


def refreshable(catalog: Json, generations: Generations) -> list[StreamName]:
    """The incremental streams of a configured catalog, when all of them can be refreshed; none otherwise.

    A stream whose generation the user gave is the user's to refresh.
    """
    incremental = [name_of(entry) for entry in catalog["streams"] if entry.get("sync_mode") == "incremental"]
    return incremental if generations.numbered.issuperset(incremental) else []


def is_followed(configured: Json) -> bool:
    """Whether a configured stream can go on without an end: its rows are added to what is there."""
    modes = configured.get("sync_mode"), configured.get("destination_sync_mode")
    return modes[0] == "incremental" and modes[1] in ("append", "append_dedup")


def is_replaced(configured: Json) -> bool:
    """Whether the rows of earlier generations are to go, which they do when the stream is complete."""
    return bool(configured.get("minimum_generation_id"))


def _streams(catalog: bytes) -> list[Json]:
    for document in _documents(catalog):
        found = document.get("catalog") if document.get("type") == "CATALOG" else document
        streams = found.get("streams") if isinstance(found, dict) else None
        if isinstance(streams, list) and all(isinstance(stream, dict) for stream in streams):
            return streams
    raise ConfigError(
        "This is no catalog.",
        remedy="Give what `discover` printed, or a configured catalog (ConfiguredAirbyteCatalog).",
    )


def _documents(catalog: bytes) -> list[Json]:
    try:
        found = [orjson.loads(catalog)]
    except orjson.JSONDecodeError:
        found = [_line(line) for line in catalog.splitlines()]
    return [document for document in found if isinstance(document, dict)]


def _line(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def _configured(stream: Json) -> Json:
    if isinstance(stream.get("stream"), dict):
        return stream
    key = stream.get("source_defined_primary_key") or []
    follows = bool(key) and "incremental" in (stream.get("supported_sync_modes") or [])
    return {
        "stream": stream,
        "sync_mode": "incremental" if follows else "full_refresh",
        "destination_sync_mode": "append_dedup" if follows else "overwrite",
        "cursor_field": stream.get("default_cursor_field") or [],
        "primary_key": key,
    }


def _number(configured: Json, generations: Generations) -> None:
    stream = name_of(configured)
    replaces = configured.get("destination_sync_mode") == "overwrite"
    if configured.get("generation_id") is None:
        configured["generation_id"] = generations.raised(stream) if replaces else generations.kept(stream)
    if configured.get("minimum_generation_id") is None:
        replaces = replaces or generations.is_refreshing(stream)
        configured["minimum_generation_id"] = configured["generation_id"] if replaces else 0
    if configured.get("sync_id") is None:
        configured["sync_id"] = generations.sync_id


def name_of(configured: Json) -> StreamName:
    """The name of a configured stream. Raises ConfigError where it has none."""
    name = configured["stream"].get("name")
    if not isinstance(name, str):
        raise ConfigError("The catalog has a stream without a name.")
    return StreamName(configured["stream"].get("namespace"), name)
