"""Frames to messages; every frame cut short or with an odd byte is refused, never misread into a longer row."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from source_postgres_cdc.core import pgoutput
from source_postgres_cdc.core.pgoutput import UNCHANGED, Begin, Commit, ProtocolError, Relation, RelationColumn

from . import frames

VALUES = st.lists(st.one_of(st.none(), st.just(UNCHANGED), st.text(st.characters(max_codepoint=255))), max_size=6)


def test_control_messages():
    assert pgoutput.decode_begin(frames.begin(7, -5, 4294967295)) == Begin(7, -5, 4294967295)
    assert pgoutput.decode_commit(frames.commit(7, 9, 11)) == Commit(7, 9, 11)
    assert pgoutput.decode_truncate(frames.truncate(1, 4294967295)).relation_oids == (1, 4294967295)
    frame = frames.relation(3000000000, "s ", 't"é', "f", [("a", 23, True), ("b\\", 4000000000, False)])
    assert pgoutput.decode_relation(frame) == Relation(
        3000000000, "s ", 't"é', "f", (RelationColumn("a", 23, -1, True), RelationColumn("b\\", 4000000000, -1, False))
    )


@given(VALUES, VALUES)
def test_rows_come_back_as_they_were_sent(new, old):
    assert pgoutput.split_change(frames.insert(5, new)) == (0, None, new)
    assert pgoutput.split_change(frames.update(5, new)) == (0, None, new)
    assert pgoutput.split_change(frames.update(5, new, old, b"O")) == (pgoutput.OLD_TUPLE, old, new)
    assert pgoutput.split_change(frames.delete(5, old)) == (pgoutput.KEY_TUPLE, old, None)
    assert pgoutput.relation_oid(frames.delete(4294967295, old)) == 4294967295


CUT = [
    (frames.begin(1, 2, 3), pgoutput.decode_begin),
    (frames.commit(1, 2, 3), pgoutput.decode_commit),
    (frames.truncate(1, 2), pgoutput.decode_truncate),
    (frames.relation(1, "s", "t", "d", [("a", 1, True), ("b", 2, False)]), pgoutput.decode_relation),
    (frames.insert(1, ["abc", None, "d"]), pgoutput.split_change),
    (frames.update(1, ["abc", None, UNCHANGED], ["1", None, None]), pgoutput.split_change),
    (frames.delete(1, ["abc", None]), pgoutput.split_change),
]


@pytest.mark.parametrize(("frame", "decode"), CUT, ids=lambda value: getattr(value, "__name__", ""))
def test_a_frame_cut_anywhere_or_with_bytes_behind_it_is_refused(frame, decode):
    decode(frame)
    for end in range(1, len(frame)):
        with pytest.raises(ProtocolError):
            decode(frame[:end])
    with pytest.raises(ProtocolError):
        decode(frame + b"n")


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_is_decoded_or_refused_and_nothing_else(at, byte):
    for original, decode in CUT:
        frame = bytearray(original)
        frame[at % len(frame)] = byte
        with contextlib.suppress(ProtocolError):
            decode(bytes(frame))
