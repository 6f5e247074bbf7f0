"""``airbyte-pg sync --continuous``, between fakes: restarts, back-off, refreshes, what is saved, how it stops."""

from __future__ import annotations

import json
import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from integration_tests.runner.staging import DEADLINE_S, ECHO, Stage, wait_gone
from integration_tests.support.pgserver import wait_until

# What every fake source of a continuous run begins with. `number` counts its starts; `leave` is done at SIGTERM.
CONTINUED = """
import time
with open(__file__ + ".log", "a+") as log:
    log.seek(0)
    number = len(log.readlines()) + 1
    catalog = json.load(open(options["--catalog"]))["streams"]
    told = {name: os.environ[name] for name in os.environ if name.startswith("AIRBYTE_PG")}
    given = json.load(open(options["--state"])) if "--state" in options else None
    json.dump({"catalog": catalog, "told": told, "given": given}, log); log.write("\\n")
def leave(*_): global_state("last"); sys.exit()
signal.signal(signal.SIGTERM, leave)
def acknowledged(value):
    while f'"value": "{value}"' not in open(options["--state"]).read(): time.sleep(0.02)
"""
USERS = {
    "name": "users",
    "namespace": "public",
    "json_schema": {},
    "source_defined_primary_key": [["id"]],
    "supported_sync_modes": ["full_refresh", "incremental"],
}


@pytest.fixture
def followed(stage: Stage) -> Stage:
    """A stage with one table, that can be followed."""
    stage.catalog.write_text(json.dumps({"streams": [USERS]}))
    return stage


def continuous(stage: Stage) -> list[str]:
    return ["--continuous", *(["--catalog", str(stage.catalog)] if stage.catalog.exists() else [])]


def starts(stage: Stage) -> list[dict[str, Any]]:
    """Catalog, environment and state of each start of the source."""
    return [json.loads(line) for line in Path(f"{stage.folder / 'source.py'}.log").read_text().splitlines()]


def value(stage: Stage) -> Any:
    return stage.states()[0]["global"]["shared_state"]["value"]


def ended(stage: Stage) -> tuple[int, str]:
    _, errors = stage.runner.communicate(timeout=DEADLINE_S)
    return stage.runner.returncode, errors


def test_source_sees_in_its_state_file_what_came_back(followed: Stage):
    followed.script("source", CONTINUED + "global_state('a'); acknowledged('a'); global_state('b'); acknowledged('b')")
    done = followed.run(*continuous(followed))
    assert done.returncode == 0, done.stderr
    (start,) = starts(followed)
    assert start["given"] == []
    assert start["told"] == {"AIRBYTE_PG_CONTINUOUS": "1", "AIRBYTE_PG_REFRESHES": "1"}
    assert value(followed) == "b"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_told_to_the_source_alone_and_the_destination_drains(followed: Stage, signum: signal.Signals):
    followed.script("source", CONTINUED + "global_state('first'); here('source'); hang()")
    deaf = "signal.signal(signal.SIGTERM, lambda *_: here('told')); here('destination')\n"
    followed.script("destination", deaf + ECHO + "global_state('drained')\n")
    connectors = followed.start("source", "destination", options=continuous(followed))
    followed.runner.send_signal(signum)
    code, errors = ended(followed)
    assert (code, errors) == (0, "stopped; the next run goes on from the last saved state\n")
    assert value(followed) == "drained"
    assert not (followed.folder / "told.pid").exists()
    wait_gone(connectors)


def test_second_interrupt_kills_those_that_will_not_stop(followed: Stage):
    deaf = "signal.signal(signal.SIGTERM, lambda *_: here('told')); here(command); hang()"
    followed.script("source", deaf)
    followed.script("destination", deaf)
    connectors = followed.start("read", "write", options=continuous(followed))
    followed.runner.send_signal(signal.SIGINT)
    wait_until((followed.folder / "told.pid").exists, DEADLINE_S, "the source is told to stop")
    followed.runner.send_signal(signal.SIGINT)
    assert followed.runner.wait(DEADLINE_S) == 130
    wait_gone(connectors)


def test_failed_source_goes_on_from_the_last_acknowledged_state(followed: Stage):
    died = "if number == 1: global_state('a'); acknowledged('a'); os.kill(os.getpid(), signal.SIGKILL)\n"
    followed.script("source", CONTINUED + died + "here('again'); hang()")
    followed.start("again", options=continuous(followed))
    followed.runner.terminate()
    code, errors = ended(followed)
    assert code == 0
    assert "the source ended with exit code 137; both are started again in 1 s" in errors
    first, second = starts(followed)
    assert first["given"] == []
    assert second["given"][0]["global"]["shared_state"] == {"value": "a"}
    assert "AIRBYTE_PG_HAS_WORKED" not in first["told"]
    assert second["told"]["AIRBYTE_PG_HAS_WORKED"] == "1"


def test_failed_destination_is_started_again_with_its_source(followed: Stage):
    followed.script("source", CONTINUED + "global_state(number)\nif number == 2: here('again')\nhang()")
    followed.script(
        "destination",
        "print(sys.stdin.readline(), end='', flush=True)\n"
        "if not os.path.exists(__file__ + '.died'): open(__file__ + '.died', 'w'); os.abort()\n" + ECHO,
    )
    followed.start("again", options=continuous(followed))
    wait_until(lambda: value(followed) == 2, DEADLINE_S, "the second one's state came back")
    followed.runner.terminate()
    code, errors = ended(followed)
    assert code == 0
    assert "the destination ended with exit code 134; both are started again" in errors
    assert starts(followed)[1]["given"][0]["global"]["shared_state"] == {"value": 1}


def test_waits_double_up_to_the_longest(followed: Stage):
    followed.script("source", CONTINUED + "if number == 5: sys.exit(78)\nsys.exit(1)")
    done = followed.run(*continuous(followed), "--max-pause", "3")
    assert re.findall(r"again in (\d) s", done.stderr) == ["1", "2", "3", "3"]
    assert done.returncode == 1


@pytest.mark.parametrize("side", ["source", "destination"])
def test_config_error_ends_the_run_at_once(followed: Stage, side: str):
    followed.script("source", CONTINUED + "global_state('a'); acknowledged('a'); sys.exit(78)")
    if side == "destination":
        followed.script("source", CONTINUED + "global_state('a'); hang()")
        followed.script("destination", "sys.stdin.readline(); sys.exit(78)")
    done = followed.run(*continuous(followed))
    assert done.returncode == 1
    assert f"the run is over: the {side} ended with exit code 78" in done.stderr
    assert len(starts(followed)) == 1


def test_signal_while_it_waits_ends_the_run(followed: Stage):
    followed.script("source", CONTINUED + "sys.exit(1)")
    followed.start(options=continuous(followed))
    assert followed.runner.stderr is not None
    while "again in 2 s" not in followed.runner.stderr.readline():
        pass
    followed.runner.terminate()
    assert ended(followed)[0] == 0


def test_tables_that_cannot_be_followed_are_read_once_before(stage: Stage):
    """The first attempt fails, before and after: what was read whole is not read whole again."""
    stage.script("source", CONTINUED + "if number in (1, 3): sys.exit(1)\nif number == 4: here('on'); hang()")
    stage.start("on", options=continuous(stage))
    stage.runner.terminate()
    code, errors = ended(stage)
    assert code == 0
    assert errors.count("cannot be followed are read whole when a run begins, and not again in it: public.log") == 1
    failed, opening, *rest = starts(stage)
    for start in (failed, opening):
        assert start["told"]["AIRBYTE_PG_CONTINUOUS"] == "0"
        assert [entry["stream"]["name"] for entry in start["catalog"]] == ["users", "log"]
    assert [[entry["stream"]["name"] for entry in start["catalog"]] for start in rest] == [["users"], ["users"]]
    assert all(start["told"]["AIRBYTE_PG_CONTINUOUS"] == "1" for start in rest)


def test_refresh_is_a_sync_of_its_own(followed: Stage):
    """Rows are exchanged when it is complete, and in a run without an end nothing ever is."""
    followed.script(
        "source",
        CONTINUED + "if number == 1: global_state('a'); acknowledged('a'); sys.exit(65)\n"
        "if number == 2: global_state('b'); sys.exit()\nhere('on'); hang()",
    )
    followed.start("on", options=continuous(followed))
    followed.runner.terminate()
    code, errors = ended(followed)
    assert code == 0
    assert "read again, replacing its rows" in errors
    first, refresh, then = starts(followed)
    ids = [
        (start["catalog"][0]["generation_id"], start["catalog"][0]["minimum_generation_id"])
        for start in (first, refresh, then)
    ]
    assert ids == [(1, 0), (2, 2), (2, 0)]
    assert refresh["given"] is None
    assert refresh["told"]["AIRBYTE_PG_CONTINUOUS"] == "0"
    assert then["given"][0]["global"]["shared_state"] == {"value": "b"}


def test_tables_that_changed_are_discovered_anew(stage: Stage):
    stage.script("source", CONTINUED + "if number == 2: sys.exit(66)\nif number == 3: here('on'); hang()")
    discover = '\nif command == "discover":\n    here(f"discover{len(os.listdir(os.path.dirname(__file__)))}")\n'
    source = stage.folder / "source.py"
    source.write_text(source.read_text().replace('\nif command == "discover":\n', discover))
    stage.start("on", options=continuous(stage))
    stage.runner.terminate()
    assert ended(stage)[0] == 0
    assert len(list(stage.folder.glob("discover*.pid"))) == 2


def test_catalog_of_the_user_is_met_with_the_tables_that_changed(followed: Stage):
    followed.script("source", CONTINUED + "if number == 1: sys.exit(66)\nhere('on'); hang()")
    followed.start("on", options=continuous(followed))
    followed.runner.terminate()
    code, errors = ended(followed)
    assert (code, len(starts(followed))) == (0, 2)
    assert "the run goes on with them as they are now" in errors
    assert "started again" not in errors


def test_nothing_to_follow_is_a_clear_error(stage: Stage):
    stage.catalog.write_text(json.dumps({"streams": [{**USERS, "source_defined_primary_key": []}]}))
    done = stage.run(*continuous(stage))
    assert (done.returncode, "No stream of the catalog can be followed" in done.stderr) == (1, True)


def test_state_file_is_saved_once_a_second_and_at_the_end(followed: Stage):
    followed.script(
        "source",
        CONTINUED + "files, until = [], time.monotonic() + 4\n"
        "while time.monotonic() < until:\n"
        "    global_state(str(time.monotonic())); time.sleep(0.005)\n"
        "    status = os.stat(options['--state'])\n"
        "    if not files or files[-1][0] != status.st_ino: files.append((status.st_ino, status.st_mtime))\n"
        "json.dump(files, open(__file__ + '.files', 'w')); global_state('end')",
    )
    done = followed.run(*continuous(followed))
    assert done.returncode == 0, done.stderr
    times = [time for _, time in json.loads((followed.folder / "source.py.files").read_text())]
    assert len(times) >= 3
    # The first is the empty one that the source was started with.
    assert all(later - earlier > 0.9 for earlier, later in pairwise(times[1:]))
    assert value(followed) == "end"


def test_off_a_terminal_it_says_now_and_then_that_it_goes_on(followed: Stage, monkeypatch: pytest.MonkeyPatch):
    # The rate is a minute: here the runner's own clock goes faster.
    followed.script("source", CONTINUED + "global_state('a'); acknowledged('a'); time.sleep(1)")
    program = "import airbyte_pg.progress as p; p.REPORT_S = 0.3\nfrom airbyte_pg.main import main; main()"
    monkeypatch.setattr("integration_tests.runner.staging.PROGRAM", program)
    done = followed.run(*continuous(followed))
    assert re.search(r"^running: 0 rows in \d+ s; last state \d+ s ago$", done.stderr, re.MULTILINE)
