"""STATE lines go back as they came: every key, every spelling, in order, with the count of what they cover."""

from __future__ import annotations

import pytest
from msgspec import Raw

from airbyte_pg.errors import StreamName, SystemFault
from destination_postgres.acks import RecordCounts, acknowledgement, covered_stream

USERS, ORDERS = StreamName("public", "users"), StreamName(None, "orders")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            b'{"type":"STATE","state":{"type":"STREAM","stream":{"stream_descriptor":{"name":"users"}},"id":7}}',
            b'{"type":"STATE","state":{"type":"STREAM","stream":{"stream_descriptor":{"name":"users"}},"id":7,'
            b'"destinationStats":{"recordCount":2.0}}}\n',
        ),
        (
            # Unknown keys at every level, numbers that no parser would spell so again, keys that are not ASCII.
            '{"x":1e3,"state":{"ü":[1.0, 1E400],"global":{"shared_state":{ "n" : 12345678901234567890.10 }},'
            '"sourceStats":{"recordCount":2.0}},"type":"STATE"}'.encode(),
            '{"x":1e3,"state":{"ü":[1.0, 1E400],"global":{"shared_state":{ "n" : 12345678901234567890.10 }},'
            '"sourceStats":{"recordCount":2.0},"destinationStats":{"recordCount":2.0}},"type":"STATE"}\n'.encode(),
        ),
        (
            # Spaces, escapes and keys that come twice: nothing is spelt anew.
            rb'{ "type" : "STATE", "a\u0062c":1, "abc":2 , "state" : {"data" : { } , "id":7,"id":8 } }',
            rb'{ "type" : "STATE", "a\u0062c":1, "abc":2 , "state" : {"data" : { } , "id":7,"id":8,'
            b'"destinationStats":{"recordCount":2.0}} }\n',
        ),
        (
            b'{"type":"STATE","state":{"destinationStats":{"recordCount":9},"data":{}}}',
            b'{"type":"STATE","state":{"destinationStats":{"recordCount":2.0},"data":{}}}\n',
        ),
    ],
)
def test_states_come_back_byte_for_byte(given: bytes, wanted: bytes):
    assert acknowledgement(given, 2) == wanted


@pytest.mark.parametrize(
    ("state", "stream"),
    [
        (b'{"type":"STREAM","stream":{"stream_descriptor":{"name":"users","namespace":"public"}}}', USERS),
        (b'{"stream":{"stream_descriptor":{"name":"orders","namespace":null}},"global":null}', ORDERS),
        (b'{"type":"GLOBAL","global":{"shared_state":{},"stream_states":[]},"stream":null}', None),
        (b'{"type":"GLOBAL","global_":{}}', None),
        (b'{"type":"LEGACY","data":{}}', None),
        (b'{"data":{}}', None),
    ],
)
def test_which_stream_a_state_covers(state: bytes, stream: StreamName | None):
    assert covered_stream(Raw(state)) == stream


@pytest.mark.parametrize("state", [b'{"type":"STREAM"}', b'{"stream":{}}', b"[]", b"7"])
def test_a_state_that_covers_nobody_knows_what_is_refused(state: bytes):
    with pytest.raises(SystemFault):
        covered_stream(Raw(state))


def test_counts_begin_anew_behind_each_state():
    counts = RecordCounts()
    counts.add(USERS, 3)
    counts.add(ORDERS, 4)
    counts.add(USERS, 1)
    assert counts.take(USERS) == 4
    assert counts.take(USERS) == 0
    counts.add(USERS, 5)
    assert counts.take(None) == 9
    assert counts.take(None) == 0
