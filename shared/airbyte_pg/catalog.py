"""The configured catalog as both connectors read it: tolerant of nulls, strict about what is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from airbyte_pg.errors import ConfigError, StreamName
from airbyte_pg.escapes import repair_escapes

SyncMode = Literal["full_refresh", "incremental"]
DestinationSyncMode = Literal["overwrite", "append", "append_dedup"]


class AirbyteStream(msgspec.Struct, frozen=True):
    """What ``discover`` said of a stream (AirbyteStream); keys that nobody here reads are ignored."""

    name: str
    namespace: str | None = None
    json_schema: dict[str, Any] | None = None
    is_resumable: bool | None = None
    source_defined_cursor: bool | None = None
    default_cursor_field: list[str] | None = None
    source_defined_primary_key: list[list[str]] | None = None

    @property
    def properties(self) -> dict[str, Any]:
        """Column name to JSON schema, in the catalog's order."""
        found = (self.json_schema or {}).get("properties")
        return found if isinstance(found, dict) else {}


class ConfiguredStream(msgspec.Struct, frozen=True):
    """ConfiguredAirbyteStream. Generation ids are None where the platform sends none."""

    stream: AirbyteStream
    sync_mode: SyncMode = "full_refresh"
    destination_sync_mode: DestinationSyncMode = "append"
    cursor_field: list[str] | None = None
    primary_key: list[list[str]] | None = None
    generation_id: int | None = None
    minimum_generation_id: int | None = None
    sync_id: int | None = None

    @property
    def id(self) -> StreamName:
        """Namespace and name."""
        return StreamName(self.stream.namespace, self.stream.name)

    @property
    def key(self) -> list[list[str]]:
        """Paths of the key's parts: the user's choice, else the source's; empty where there is none."""
        return self.primary_key or self.stream.source_defined_primary_key or []

    @property
    def cursor(self) -> list[str]:
        """Path of the cursor: the user's choice, else the source's own; empty where there is none."""
        own = self.stream.default_cursor_field if self.stream.source_defined_cursor else None
        return self.cursor_field or own or []

    @property
    def is_deduplicated(self) -> bool:
        """Whether the destination keeps one row per key: the newest."""
        return self.destination_sync_mode == "append_dedup"

    @property
    def is_truncating(self) -> bool:
        """Whether the rows of this sync replace all earlier ones (a refresh, or overwrite)."""
        return bool(self.generation_id) and self.generation_id == self.minimum_generation_id


class _Catalog(msgspec.Struct):
    streams: list[ConfiguredStream]


def _decoded(text: bytes) -> list[ConfiguredStream]:
    try:
        return msgspec.json.decode(text, type=_Catalog).streams
    except (msgspec.DecodeError, UnicodeDecodeError):
        # A name with half a surrogate pair is the one that its records will have when they are repaired.
        return msgspec.json.decode(repair_escapes(text, drop_nul=False), type=_Catalog).streams


def load_catalog(path: Path) -> list[ConfiguredStream]:
    """The streams of the configured catalog in ``path``.

    Raises ConfigError when the file is missing, is no configured catalog, or names a stream twice.
    """
    try:
        streams = _decoded(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"The catalog file cannot be read: {error.strerror}.", detail=str(path)) from error
    except msgspec.DecodeError as error:
        # msgspec names the place and the type that was expected, never a value.
        raise ConfigError(
            f"The configured catalog is not valid: {error}.",
            remedy="Give the ConfiguredAirbyteCatalog, with stream, sync_mode and destination_sync_mode.",
        ) from error
    seen: set[StreamName] = set()
    for configured in streams:
        if configured.id in seen:
            raise ConfigError("The configured catalog names this stream twice.", stream=configured.id)
        seen.add(configured.id)
    return streams
