"""Running connectors: what an Outcome says of a run that ended well, failed, hung, or printed what it should not."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from integration_tests.support import connector

BODY = """
import json, os, signal, sys
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert "PYTHONUNBUFFERED" not in os.environ
if sys.argv[1] == "hang":
    print('{"type":"LOG","log":{"level":"INFO","message":"hanging"}}', flush=True)
    while True: signal.pause()
if sys.argv[1] == "fail":
    print("not a message")
    print('{"type":"TRACE","trace":{"type":"ERROR","error":{"message":"no"}}}')
    sys.stderr.write("words on stderr")
    sys.exit(1)
print(json.dumps({"type": "CONNECTION_STATUS", "connectionStatus": json.load(open(options["--config"]))}))
for line in sys.stdin: print(line, end="", flush=True)
"""
RECORD = b'{"type":"RECORD","record":{"stream":"users","data":{"n":1.10},"emitted_at":1}}\n'
STATE = b'{"type":"STATE","state":{"type":"GLOBAL"}}\n'


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "echoing.py").write_text(BODY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    return "echoing"


def test_outcome_has_what_was_printed(echo: str):
    outcome = connector.run(echo, "write", config={"status": "SUCCEEDED"}, stdin=RECORD * 20_000 + STATE)
    assert (outcome.exit_code, outcome.error, outcome.timed_out) == (0, None, False)
    assert outcome.connection_status == {"status": "SUCCEEDED"}
    assert outcome.records("users") == [{"n": Decimal("1.10")}] * 20_000
    assert outcome.records("orders") == []
    assert outcome.states == [{"type": "GLOBAL"}]
    assert outcome.lines[1] == RECORD


def test_outcome_of_a_failure_shows_error_noise_and_stderr(echo: str):
    outcome = connector.run(echo, "fail", stdin=RECORD * 20_000)
    assert outcome.exit_code == 1
    assert outcome.error == {"message": "no"}
    assert outcome.not_json == [b"not a message\n"]
    assert "words on stderr" in repr(outcome)


def test_run_that_hangs_is_ended_and_said_so(echo: str):
    assert connector.run(echo, "hang", timeout=0.5).timed_out
    assert connector.run(echo, "hang", timeout=0.5, stdin=RECORD * 200_000).timed_out


def test_running_connector_can_be_talked_to(echo: str):
    with connector.start(echo, "write", config={}) as running:
        running.write(RECORD)
        assert running.wait_for(lambda message: message["type"] == "RECORD")["record"]["stream"] == "users"
        running.write(RECORD + STATE)
        running.wait_for(lambda message: message["type"] == "RECORD", count=2)
        running.kill()
        with pytest.raises(TimeoutError):
            running.wait_for(lambda message: message["type"] == "SPEC")
        assert running.finish().exit_code == -9
