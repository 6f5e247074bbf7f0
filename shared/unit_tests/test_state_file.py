"""The state file: merging, bytes kept, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airbyte_pg.errors import ConfigError, SystemFault
from airbyte_pg.state_file import StateFile

USERS = b'{"type":"STREAM","stream":{"stream_descriptor":{"name":"users","namespace":"public"},"stream_state":{"n":1}}}'
USERS_LATER = USERS.replace(b'"n":1', b'"n":2')
ORDERS = USERS.replace(b"users", b"orders")
GLOBAL = b'{"type":"GLOBAL","global":{"shared_state":{"lsn": 12345678901234567890123.4500},"stream_states":[]},"id":7}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def saved(path: Path, *payloads: bytes) -> bytes:
    states = StateFile.load(path)
    for payload in payloads:
        states.merge(payload)
    states.save()
    return path.read_bytes()


def test_global_state_replaces_the_last_and_keeps_its_bytes(path: Path):
    assert saved(path, GLOBAL.replace(b'"id":7', b'"id":6'), GLOBAL) == b"[" + GLOBAL + b"]\n"


def test_stream_states_are_kept_per_stream_also_from_the_last_sync(path: Path):
    saved(path, USERS, ORDERS)
    assert json.loads(saved(path, USERS_LATER)) == [json.loads(USERS_LATER), json.loads(ORDERS)]


def test_streams_of_one_name_in_two_namespaces_are_two(path: Path):
    assert len(json.loads(saved(path, USERS, USERS.replace(b"public", b"other")))) == 2


def test_change_of_kind_starts_over(path: Path):
    assert json.loads(saved(path, USERS, GLOBAL)) == [json.loads(GLOBAL)]
    assert json.loads(saved(path, USERS)) == [json.loads(USERS)]


def test_missing_file_is_a_first_sync(path: Path):
    assert StateFile.load(path).is_empty


@pytest.mark.parametrize("content", [b"{}", b"[]\n"])
def test_an_explicit_nothing_is_a_first_sync(path: Path, content: bytes):
    path.write_bytes(content)
    assert StateFile.load(path).is_empty


@pytest.mark.parametrize(
    "content",
    [
        USERS,
        b"[" + USERS + b"]",
        b'{"type":"STATE","state":' + USERS + b"}",
        b'{"type":"LOG","log":{"level":"INFO","message":"x"}}\n{"type":"STATE","state":' + USERS + b"}\n",
        b'{\n  "type": "STREAM",\n  "stream": {"stream_descriptor": {"name": "users"}}\n}',
        b'{"data":{"cursor":1}}',
        b'{"cursor":1}',
    ],
)
def test_every_shape_of_a_state_is_read(path: Path, content: bytes):
    path.write_bytes(content)
    assert not StateFile.load(path).is_empty


BROKEN = {
    "empty": b"",
    "blank": b"\n",
    "an item without keys": b"[{}]",
    "null": b"null",
    "a number": b"[1]",
    "text": b"x",
    "cut": b"[" + USERS[:-9],
    "something after it": USERS + b"}",
    "no descriptor": b'{"type":"STREAM"}',
    "no descriptor in a line": b'{"type":"STATE","state":{"type":"STREAM"}}',
    "another message": b'{"type":"LOG","log":{}}',
    "another kind": b'{"type":"NEW"}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_broken_file_never_passes_for_a_first_sync(path: Path, content: bytes):
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="state file"):
        StateFile.load(path)
    assert path.read_bytes() == content


def test_payload_that_is_no_state_is_refused(path: Path):
    with pytest.raises(SystemFault):
        StateFile(path).merge(b'{"type":"STREAM"}')


def test_file_that_cannot_be_written_says_so(tmp_path: Path):
    states = StateFile(tmp_path / "missing" / "state.json")
    states.merge(USERS)
    with pytest.raises(ConfigError, match="cannot be written"):
        states.save()


def test_saving_leaves_no_other_file(path: Path):
    saved(path, USERS)
    assert list(path.parent.iterdir()) == [path]
