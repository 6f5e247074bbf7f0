"""The generation and sync ids that an orchestrator would keep: a small file beside the state file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from airbyte_pg.atomic import replace_file
from airbyte_pg.errors import ConfigError, StreamName


class _Stream(msgspec.Struct):
    name: str
    generation_id: int
    namespace: str | None = None
    # A refresh that replaces the stream's rows has begun and has not ended well yet.
    refreshing: bool = False


class _Content(msgspec.Struct):
    sync_id: int = 0
    # Whether a sync has ended well: then a state file that is missing was taken away.
    succeeded: bool = False
    streams: list[_Stream] = []


class Generations:
    """Per stream the last generation; for all, the last sync. ``save`` before a sync starts, so none is used twice.

    ``numbered``: the streams that have got an id of ours for this sync.
    """

    def __init__(self, path: Path, content: _Content) -> None:
        self.path = path
        self.sync_id = content.sync_id + 1
        self.succeeded = content.succeeded
        self.numbered: set[StreamName] = set()
        self._last = {StreamName(stream.namespace, stream.name): stream.generation_id for stream in content.streams}
        self._refreshing = {StreamName(one.namespace, one.name) for one in content.streams if one.refreshing}

    @classmethod
    def beside(cls, state: Path) -> Generations:
        """The ids kept for the state file ``state``, ready for the next sync. Raises ConfigError."""
        path = state.with_name(f"{state.name}.generations.json")
        try:
            content = msgspec.json.decode(path.read_bytes(), type=_Content)
        except FileNotFoundError:
            content = _Content()
        except OSError as error:
            raise ConfigError(f"The file {path} cannot be read: {error.strerror}.") from error
        except msgspec.DecodeError as error:
            raise ConfigError(
                f"The file {path} is damaged.",
                remedy="Restore it. Without it generations would count from 1 again, and tables would be replaced by "
                "what looks older.",
            ) from error
        return cls(path, content)

    def kept(self, stream: StreamName) -> int:
        """The generation of a stream whose rows are kept: the last one, 1 at first."""
        self.numbered.add(stream)
        return self._last.setdefault(stream, 1)

    def raised(self, stream: StreamName) -> int:
        """A new generation, for a stream whose rows are to be replaced."""
        self.numbered.add(stream)
        self._last[stream] = self._last.get(stream, 0) + 1
        return self._last[stream]

    def refresh(self, streams: Iterable[StreamName]) -> None:
        """Begin a refresh of ``streams``: a new generation replaces their rows, however many syncs that takes."""
        for stream in streams:
            self.raised(stream)
            self._refreshing.add(stream)

    def is_refreshing(self, stream: StreamName) -> bool:
        """Whether a refresh of ``stream`` has begun and has not ended well."""
        return stream in self._refreshing

    def end_well(self) -> None:
        """A sync has ended well, and with it every refresh."""
        self.succeeded = True
        self._refreshing.clear()

    def save(self) -> None:
        """Write the file, durably. Raises ConfigError."""
        streams = [
            _Stream(stream.name, last, stream.namespace, stream in self._refreshing)
            for stream, last in self._last.items()
        ]
        content = msgspec.json.encode(_Content(self.sync_id, self.succeeded, streams))
        try:
            replace_file(self.path, msgspec.json.format(content, indent=2) + b"\n")
        except OSError as error:
            raise ConfigError(f"The file {self.path} cannot be written: {error.strerror}.") from error
