"""Configured catalogs in few words: from what ``discover`` said, or from a list of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]

# Short names for the protocol's way to say a type.
TYPES: dict[str, Json] = {
    "string": {"type": "string"},
    "integer": {"type": "number", "airbyte_type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "timestamp": {"type": "string", "format": "date-time", "airbyte_type": "timestamp_without_timezone"},
    "timestamptz": {"type": "string", "format": "date-time", "airbyte_type": "timestamp_with_timezone"},
    "time": {"type": "string", "format": "time", "airbyte_type": "time_without_timezone"},
    "timetz": {"type": "string", "format": "time", "airbyte_type": "time_with_timezone"},
    "array": {"type": "array"},
    "object": {"type": "object"},
}
CDC: Mapping[str, str] = {"_ab_cdc_lsn": "number", "_ab_cdc_updated_at": "string", "_ab_cdc_deleted_at": "string"}


def stream(
    name: str,
    columns: Mapping[str, str | Json],
    *,
    namespace: str | None = "public",
    key: Iterable[str] = (),
    cdc: bool = False,
) -> Json:
    """An AirbyteStream. ``columns``: name -> a name of TYPES or a JSON schema; ``cdc`` adds the three meta columns."""
    given: dict[str, str | Json] = {**columns, **(CDC if cdc else {})}
    made: Json = {
        "name": name,
        "json_schema": {
            "type": "object",
            "properties": {column: TYPES[kind] if isinstance(kind, str) else kind for column, kind in given.items()},
        },
        "supported_sync_modes": ["full_refresh", "incremental"],
        "source_defined_primary_key": [[column] for column in key],
    }
    if namespace is not None:
        made["namespace"] = namespace
    if cdc:
        made |= {"source_defined_cursor": True, "default_cursor_field": ["_ab_cdc_lsn"]}
    return made


def configured(
    streams: Iterable[Json] | Mapping[str, Any],
    sync_mode: str = "incremental",
    destination: str = "append_dedup",
    *,
    only: Iterable[str] | None = None,
    generation: int | None = 1,
    minimum: int | None = 0,
    sync: int | None = 1,
) -> Json:
    """A ConfiguredAirbyteCatalog of ``streams`` (or of a whole AirbyteCatalog), all in one mode.

    Cursor and key are the stream's own. ``only`` names the streams to take; generation None leaves all ids null.
    """
    found = list(streams["streams"] if isinstance(streams, Mapping) else streams)
    wanted = None if only is None else set(only)
    missing = (wanted or set()) - {found_stream["name"] for found_stream in found}
    if missing:
        raise LookupError(f"not in the catalog: {sorted(missing)}")
    return {
        "streams": [
            {
                "stream": one,
                "sync_mode": sync_mode,
                "destination_sync_mode": destination,
                "cursor_field": one.get("default_cursor_field", []),
                "primary_key": one.get("source_defined_primary_key", []),
                "generation_id": generation,
                "minimum_generation_id": None if generation is None else minimum,
                "sync_id": None if generation is None else sync,
            }
            for one in found
            if wanted is None or one["name"] in wanted
        ]
    }


def merged(*catalogs: Json) -> Json:
    """One catalog with the streams of several (for streams in different modes)."""
    return {"streams": [one for catalog in catalogs for one in catalog["streams"]]}
