"""What a snapshot shows, by the 32-bit xid that a stream carries."""

from __future__ import annotations

import pytest

from source_postgres_cdc.barrier import Visibility

EPOCH = 1 << 32


@pytest.mark.parametrize(
    ("snapshot", "xid", "is_shown"),
    [
        ("100:100:", 99, True),
        ("100:100:", 100, False),
        ("100:110:100,105", 100, False),
        ("100:110:100,105", 101, True),
        ("100:110:100,105", 105, False),
        ("100:110:100,105", 109, True),
        ("100:110:100,105", 110, False),
        # Behind a wrap-around the ids of the stream start again at 3.
        (f"{EPOCH + 10}:{EPOCH + 20}:{EPOCH + 12}", 5, True),
        (f"{EPOCH + 10}:{EPOCH + 20}:{EPOCH + 12}", 12, False),
        (f"{EPOCH + 10}:{EPOCH + 20}:{EPOCH + 12}", 25, False),
        (f"{EPOCH + 10}:{EPOCH + 20}:", EPOCH - 5, True),
        (f"{EPOCH - 10}:{EPOCH - 5}:", 7, False),
        (f"{EPOCH - 10}:{EPOCH - 5}:", EPOCH - 11, True),
    ],
)
def test_visibility(snapshot, xid, is_shown):
    assert Visibility(snapshot).shows(xid) is is_shown
