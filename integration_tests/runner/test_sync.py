"""``airbyte-pg sync`` as a process, between connectors that are a few lines of Python: states, exit codes, endings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from integration_tests.runner.staging import DEADLINE_S, ECHO, Stage, stage_processes, wait_gone
from integration_tests.support.pgserver import wait_until


def test_states_that_come_back_are_kept_per_stream(stage: Stage):
    stage.script(
        "source", "stream_state('users', 1); stream_state('log', 1); record('users'); stream_state('users', 2)"
    )
    done = stage.run()
    assert done.returncode == 0, done.stderr
    kept = {state["stream"]["stream_descriptor"]["name"]: state["stream"]["stream_state"] for state in stage.states()}
    assert kept == {"users": {"value": 2}, "log": {"value": 1}}
    assert done.stdout.startswith("synced ")
    assert done.stderr == ""


def test_global_state_keeps_its_digits_and_is_given_to_the_next_sync(stage: Stage):
    payload = '{"type": "GLOBAL", "global": {"shared_state": {"n": 1.10000000000000000000001}}}'
    kept = f"[{payload}]\n"
    line = f'{{"type": "STATE", "state": {payload}}}'
    stage.script(
        "source",
        f"""
if "--state" in options:
    here("continued")
    assert open(options["--state"]).read() == {kept!r}
print({line!r}, flush=True)
""",
    )
    for _ in range(2):
        assert stage.run().returncode == 0
        assert stage.state.read_text() == kept
    assert (stage.folder / "continued.pid").exists()


def test_state_that_did_not_come_back_is_not_kept(stage: Stage):
    stage.script("source", "global_state(1); global_state(2)")
    stage.script("destination", "print(sys.stdin.readline(), end='', flush=True); sys.exit(3)")
    assert stage.run().returncode == 3
    assert stage.states()[0]["global"]["shared_state"] == {"value": 1}


def test_without_a_catalog_everything_discovered_is_configured(stage: Stage):
    stage.script("source", "open(__file__ + '.catalog', 'w').write(open(options['--catalog']).read())")
    for sync in (1, 2):
        assert stage.run().returncode == 0
        users, log = json.loads((stage.folder / "source.py.catalog").read_text())["streams"]
        assert (users["sync_mode"], users["destination_sync_mode"]) == ("incremental", "append_dedup")
        assert (users["primary_key"], users["cursor_field"]) == ([["id"]], ["lsn"])
        assert (users["generation_id"], users["minimum_generation_id"], users["sync_id"]) == (1, 0, sync)
        assert (log["sync_mode"], log["destination_sync_mode"]) == ("full_refresh", "overwrite")
        assert (log["generation_id"], log["minimum_generation_id"], log["sync_id"]) == (sync, sync, sync)


def test_both_connectors_get_the_same_catalog_and_their_own_config(stage: Stage):
    copy = "print(*sys.argv[1:], file=open(__file__ + '.arguments', 'w'))"
    stage.script("source", copy)
    stage.script("destination", copy)
    stage.catalog.write_text('{"streams": [{"name": "users"}]}')
    assert stage.run("--catalog", str(stage.catalog), "--debug").returncode == 0
    source = (stage.folder / "source.py.arguments").read_text().split()
    destination = (stage.folder / "destination.py.arguments").read_text().split()
    assert source == ["read", "--config", str(stage.folder / "source.json"), *source[3:5], "--debug"]
    assert destination == ["write", "--config", str(stage.folder / "destination.json"), *source[3:5], "--debug"]


def test_state_file_is_whole_whenever_it_is_read(stage: Stage):
    stage.script("source", "for value in range(20_000): global_state(str(value) * 200)")
    stage.start()
    seen = set()
    while stage.runner.poll() is None:
        if stage.state.exists():
            seen.add(stage.states()[0]["global"]["shared_state"]["value"][:1])
    assert stage.runner.returncode == 0
    assert len(seen) > 1
    assert stage.states()[0]["global"]["shared_state"] == {"value": "19999" * 200}
    assert sorted(file.name for file in stage.folder.glob("state.json*")) == [
        "state.json",
        "state.json.generations.json",
        "state.json.lock",
    ]


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        ("sys.exit(0)", ECHO, 0),
        ("sys.exit(1)", ECHO, 1),
        ("sys.exit(0)", ECHO + "sys.exit(2)", 2),
        ("sys.exit(1)", ECHO + "sys.exit(2)", 2),
        ("os.kill(os.getpid(), signal.SIGKILL)", ECHO + "sys.exit(1)", 137),
        ("os.kill(os.getpid(), signal.SIGTERM)", ECHO, 143),
    ],
)
def test_worse_exit_code_is_returned(stage: Stage, source: str, destination: str, expected: int):
    stage.script("source", source)
    stage.script("destination", destination)
    done = stage.run()
    assert done.returncode == expected
    assert ("sync failed" in done.stderr) == bool(expected)


def test_failed_discover_ends_the_sync(stage: Stage):
    stage.script("source", "")
    (stage.folder / "source.py").write_text(
        'import sys; print(\'{"type":"TRACE","trace":{"error":{"message":"no such host"}}}\'); sys.exit(1)'
    )
    done = stage.run()
    assert done.returncode == 1
    assert "error: no such host" in done.stderr
    assert not stage.state.exists()


def test_source_that_never_stops_ends_with_its_destination(stage: Stage):
    stage.script("source", "here('source')\nwhile True: record('users')")
    stage.script("destination", "here('destination'); sys.stdin.readline(); os.abort()")
    assert stage.run().returncode == 128 + signal.SIGABRT
    wait_gone([process for name in ("source", "destination") for process in stage_processes(stage, name)])


def test_source_that_is_silent_is_told_to_stop_when_its_destination_died(stage: Stage):
    stage.script("source", "here('source'); hang()")
    stage.script("destination", "sys.exit(4)")
    done = stage.run()
    assert done.returncode == 4
    wait_gone(stage_processes(stage, "source"))


def test_sigterm_ends_both_and_keeps_the_last_states(stage: Stage):
    stage.script("source", "here('source'); hang()")
    farewell = (
        "signal.signal(signal.SIGTERM, lambda *_: (global_state('last'), sys.exit(0))); here('destination'); hang()"
    )
    stage.script("destination", farewell)
    connectors = stage.start("source", "destination")
    stage.runner.send_signal(signal.SIGTERM)
    _, errors = stage.runner.communicate(timeout=DEADLINE_S)
    assert stage.runner.returncode == 143
    assert "stopped" in errors
    assert stage.states()[0]["global"]["shared_state"] == {"value": "last"}
    wait_gone(connectors)


def test_second_interrupt_kills_connectors_that_will_not_stop(stage: Stage):
    deaf = "signal.signal(signal.SIGTERM, lambda *_: here('told-' + command)); here(command); hang()"
    stage.script("source", deaf)
    stage.script("destination", deaf)
    connectors = stage.start("read", "write")
    stage.runner.send_signal(signal.SIGINT)
    told = [stage.folder / "told-read.pid", stage.folder / "told-write.pid"]
    wait_until(lambda: all(file.exists() for file in told), DEADLINE_S, "both are told to stop")
    stage.runner.send_signal(signal.SIGINT)
    assert stage.runner.wait(DEADLINE_S) == 130
    wait_gone(connectors)


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the kernel does not tell children of their parent's death"
)
def test_killed_runner_takes_both_with_it(stage: Stage):
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); here(command); hang()"
    stage.script("source", deaf)
    stage.script("destination", deaf)
    connectors = stage.start("read", "write")
    stage.runner.kill()
    wait_gone(connectors)


def test_wrapped_connector_is_ended_with_its_wrapper(stage: Stage):
    stage.script(
        "source",
        "import subprocess\nif 'inner' not in sys.argv: subprocess.run([sys.executable, *sys.argv, 'inner'])\n"
        "else: here('inner'); hang()",
    )
    connectors = stage.start("inner")
    stage.runner.terminate()
    assert stage.runner.wait(DEADLINE_S) == 143
    wait_gone(connectors)


def test_corrupt_state_starts_nothing(stage: Stage):
    stage.script("source", "here('source')")
    stage.state.write_text('[{"type": "GLOBAL"')
    done = stage.run()
    assert done.returncode == 1
    assert "state file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (stage.folder / "source.pid").exists()
    assert stage.state.read_text() == '[{"type": "GLOBAL"'


def test_second_sync_on_one_state_file_is_refused(stage: Stage):
    stage.script("source", "here('source'); hang()")
    stage.start("source")
    done = stage.run()
    assert done.returncode == 1
    assert "Another sync" in done.stderr
    assert stage.runner.poll() is None


def test_state_file_that_was_taken_away_is_noticed(stage: Stage):
    stage.script("source", "global_state(1)")
    assert stage.run().stderr == ""
    stage.state.unlink()
    assert "warning: the state file is gone" in stage.run().stderr


def test_people_see_warnings_errors_and_noise_and_more_when_they_ask(stage: Stage):
    stage.script("source", "")
    stage.script(
        "destination",
        """
say(type="LOG", log={"level": "INFO", "message": "committed stream=public.users rows=3 bytes=4000000"})
say(type="LOG", log={"level": "WARN", "message": "careful"})
say(type="TRACE", trace={"type": "ERROR", "error": {"message": "it broke", "stack_trace": "secret frames"}})
print("a library prints", flush=True)
""",
    )
    done = stage.run()
    assert done.stderr.splitlines() == ["warn: careful", "error: it broke", "a library prints"]
    assert "synced 3 rows" in done.stdout
    assert "4.0 MB" in done.stdout
    assert "info: committed" in stage.run("--verbose").stderr


def test_command_that_does_not_exist_is_a_clear_error(stage: Stage):
    done = stage.run("--source", "no-such-command")
    assert (done.returncode, "no-such-command cannot be started" in done.stderr) == (1, True)


def test_terminal_shows_a_moving_line(stage: Stage):
    stage.script("source", "hang()")
    stage.script(
        "destination",
        'say(type="LOG", log={"level": "INFO", "message": "committed stream=public.users rows=3 bytes=4000"})' + ECHO,
    )
    screen, terminal = os.openpty()
    runner = subprocess.Popen(stage.command(), stdout=subprocess.DEVNULL, stderr=terminal, text=True)
    stage.started.append(runner)
    os.close(terminal)
    shown = b""
    while b"3 rows" not in shown or b"public.users" not in shown:
        shown += os.read(screen, 4096)
    runner.terminate()
    assert runner.wait(DEADLINE_S) == 143
    os.close(screen)
