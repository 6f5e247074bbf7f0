"""Commands as an orchestrator calls them: arguments, exit codes, one ERROR trace, secrets masked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import logging, os, signal, sys
from airbyte_pg import cli
from airbyte_pg.errors import ConfigError, StreamName, Unreachable

def spec(call):
    "the spec"
    call.lines.emit(b'{"type":"SPEC","spec":{}}\\n')

def check(call):
    "a check that fails"
    call.secrets.add(["hush-hush"])
    raise ConfigError("The password hush-hush is wrong.", remedy="Change it.")

def read(call):
    "a read that fails"
    call.secrets.add(['hush"hush'])
    logging.getLogger("x").warning('warned of hush"hush')
    call.lines.put(b'{"type":"RECORD"}\\n')
    if call.state is not None:
        os.kill(os.getpid(), signal.SIGTERM)
    raise RuntimeError('hush"hush')

def write(call):
    "a write of a wrong configuration, or to a server that is away"
    raise ConfigError("It is wrong.") if call.config.name == "wrong" else Unreachable("Nobody is there.")

sys.exit(cli.run("it", "A connector.", {"spec": spec, "check": check, "read": read, "write": write}))
"""


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )


def test_commands_in_both_styles():
    for arguments in (["spec"], ["--spec"], ["spec", "--debug"]):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (0, '{"type":"SPEC","spec":{}}\n'), done.stderr


def test_wrong_arguments_exit_with_2_and_say_so_on_stderr():
    for arguments in ([], ["dance"], ["read"], ["check"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "usage: it" in done.stderr


def test_a_failed_check_is_a_status_and_not_a_failed_process():
    done = run("check", "--config", "c.json")
    assert done.returncode == 0
    status = json.loads(done.stdout)["connectionStatus"]
    assert status == {"status": "FAILED", "message": "The password **** is wrong. Change it."}


def test_a_failure_is_one_error_trace_behind_what_was_said_before():
    done = run("read", "--config", "c.json", "--catalog", "cat.json")
    assert done.returncode == 1
    log, record, trace = map(json.loads, done.stdout.splitlines())
    assert log["log"] == {"level": "WARN", "message": "warned of ****"}
    assert record == {"type": "RECORD"}
    assert trace["trace"]["error"]["failure_type"] == "system_error"
    assert "hush" not in done.stdout
    assert done.stderr == ""


def test_sigterm_is_no_error():
    done = run("read", "--config", "c.json", "--catalog", "cat.json", "--state", "s.json")
    assert done.returncode == 143
    assert "ERROR" not in done.stdout


def test_config_error_has_an_exit_code_of_its_own_in_a_continuous_run(monkeypatch: pytest.MonkeyPatch):
    files = ("--catalog", "c", "--config")
    assert run("write", *files, "wrong").returncode == 1
    monkeypatch.setenv("AIRBYTE_PG_CONTINUOUS", "1")
    assert [run("write", *files, config).returncode for config in ("wrong", "away")] == [78, 78]
    monkeypatch.setenv("AIRBYTE_PG_HAS_WORKED", "1")
    assert [run("write", *files, config).returncode for config in ("wrong", "away")] == [78, 1]
    assert run("read", *files, "any").returncode == 1
