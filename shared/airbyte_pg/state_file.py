"""The state file of ``airbyte-pg sync``: the STATEs that came back from the destination, merged, as a JSON array.

A STATE's payload is kept as the bytes that arrived: numbers in it never become Python numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import msgspec

from airbyte_pg.atomic import replace_file
from airbyte_pg.errors import ConfigError, StreamName, SystemFault


class _Descriptor(msgspec.Struct):
    name: str
    namespace: str | None = None


class _OfStream(msgspec.Struct):
    stream_descriptor: _Descriptor


class _Head(msgspec.Struct):
    """What tells AirbyteStateMessages apart; all else in them is a black box."""

    type: str | None = None
    stream: _OfStream | None = None
    # Empty where there is none: msgspec takes an optional Raw for a mere null.
    state: msgspec.Raw = msgspec.Raw()


_KINDS = {None, "LEGACY", "GLOBAL", "STREAM"}
_decode_head = msgspec.json.Decoder(_Head).decode


class StateFile:
    """The states known so far. A new one replaces those that it supersedes: GLOBAL all, STREAM its stream's.

    A change of kind (a source that changed from GLOBAL to STREAM) starts over: the kinds do not mix in one sync.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kind: str | None = None
        self._payloads: dict[StreamName | None, bytes] = {}

    @classmethod
    def load(cls, path: Path) -> StateFile:
        """The states in ``path``; none when the file does not exist, or holds ``{}`` or ``[]``.

        An array of AirbyteStateMessages is what we write; one object, and the lines that a destination printed, are
        read too. Raises ConfigError for anything else: a broken file must never pass for a first sync.
        """
        states = cls(path)
        try:
            content = path.read_bytes().strip()
        except FileNotFoundError:
            return states
        except OSError as error:
            raise ConfigError(f"The state file {path} cannot be read: {error.strerror}.") from error
        if not content:
            states._refuse("is empty")
        try:
            for payload in _payloads(content):
                states.merge(payload)
        except (msgspec.DecodeError, SystemFault) as error:
            states._refuse("holds no Airbyte state", error)
        if not states._payloads and content not in (b"{}", b"[]"):
            states._refuse("holds no Airbyte state")
        return states

    @property
    def is_empty(self) -> bool:
        """Whether this is a first sync."""
        return not self._payloads

    @property
    def payloads(self) -> list[bytes]:
        """The AirbyteStateMessages that count."""
        return list(self._payloads.values())

    def merge(self, payload: bytes) -> None:
        """Take the AirbyteStateMessage ``payload``. Raises SystemFault when it is none."""
        try:
            head = _decode_head(payload)
        except msgspec.DecodeError as error:
            raise SystemFault("A STATE line is not valid.") from error
        if head.type not in _KINDS or (head.type == "STREAM" and head.stream is None):
            raise SystemFault("A STATE line is not valid.")
        if head.type != self._kind:
            self._kind, self._payloads = head.type, {}
        key = None
        if head.stream is not None and head.type == "STREAM":
            key = StreamName(head.stream.stream_descriptor.namespace, head.stream.stream_descriptor.name)
        self._payloads[key] = payload

    def forget(self) -> None:
        """Know no state any more; the file stays until the next ``save``."""
        self._kind, self._payloads = None, {}

    def save(self) -> None:
        """Write the file, durably. Raises ConfigError when that is impossible."""
        try:
            replace_file(self.path, b"[" + b",\n".join(self._payloads.values()) + b"]\n")
        except OSError as error:
            raise ConfigError(
                f"The state file {self.path} cannot be written: {error.strerror}.",
                remedy="The next sync repeats what this one moved since the last state that was saved.",
            ) from error

    def _refuse(self, what: str, cause: Exception | None = None) -> NoReturn:
        raise ConfigError(
            f"The state file {self.path} {what}.",
            remedy="Restore it; or delete it, and the next sync reads everything from the start.",
        ) from cause


def _payloads(content: bytes) -> list[bytes]:
    if content.startswith(b"["):
        items = msgspec.json.decode(content, type=list[msgspec.Raw])
        return [payload for item in items if (payload := _unwrapped(bytes(item), in_lines=False))]
    try:
        msgspec.json.decode(content, type=msgspec.Raw)
    except msgspec.DecodeError:
        found = [_unwrapped(line, in_lines=True) for line in content.splitlines() if line.strip()]
        return [payload for payload in found if payload]
    payload = _unwrapped(content, in_lines=False)
    return [payload] if payload else []


def _unwrapped(item: bytes, *, in_lines: bool) -> bytes | None:
    """The AirbyteStateMessage in ``item``; None where there is none (``{}``, or a line of another type)."""
    head = _decode_head(item)
    if head.type == "STATE" and head.state:
        return bytes(head.state)
    if head.type is None:
        # Before the protocol had types, a state was any object.
        return item if msgspec.json.decode(item, type=dict[str, msgspec.Raw]) else None
    return None if in_lines and head.type not in _KINDS else item
