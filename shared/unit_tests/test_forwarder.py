"""What the process that holds a tunnel says of a failure."""

from __future__ import annotations

import pytest

from airbyte_pg.errors import ConfigError, ConnectorError, SystemFault, TransientError, Unreachable
from airbyte_pg.forwarder import _report


@pytest.mark.parametrize("kind", [ConfigError, Unreachable, TransientError, SystemFault])
def test_a_failure_keeps_its_kind_on_its_way(kind: type[ConnectorError]) -> None:
    failure = _report("refused", kind("It is not to be.", remedy="Wait.", detail="errno 1")).failure()
    assert type(failure) is kind
    assert (failure.message, failure.remedy, failure.detail) == ("It is not to be.", "Wait.", "errno 1")
