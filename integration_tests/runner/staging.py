"""Fake connectors that are a few lines of Python, and the runner between them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from integration_tests.support.pgserver import wait_until

DEADLINE_S = 30.0
PROGRAM = "from airbyte_pg.main import main; main()"

# What every fake begins with. `hang` waits for ever; `here` tells the test that this process has come so far.
PREAMBLE = """
import json, os, signal, sys
def say(**message): print(json.dumps(message), flush=True)
def here(name):
    with open(os.path.join(os.path.dirname(__file__), name + ".tmp"), "w") as file: file.write(str(os.getpid()))
    os.rename(file.name, os.path.join(os.path.dirname(__file__), name + ".pid"))
def hang():
    while True: signal.pause()
def record(stream): say(type="RECORD", record={"stream": stream, "data": {}, "emitted_at": 1})
def stream_state(stream, value):
    state = {"stream_descriptor": {"name": stream, "namespace": "public"}, "stream_state": {"value": value}}
    say(type="STATE", state={"type": "STREAM", "stream": state})
def global_state(value):
    say(type="STATE", state={"type": "GLOBAL", "global": {"shared_state": {"value": value}, "stream_states": []}})
command, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
streams = [{"name": "users", "namespace": "public", "json_schema": {}, "source_defined_primary_key": [["id"]],
            "supported_sync_modes": ["full_refresh", "incremental"], "default_cursor_field": ["lsn"]},
           {"name": "log", "namespace": "public", "json_schema": {}, "supported_sync_modes": ["full_refresh"]}]
if command == "discover":
    say(type="LOG", log={"level": "INFO", "message": "looking"})
    say(type="CATALOG", catalog={"streams": streams})
    sys.exit()
"""
ECHO = """
for line in sys.stdin:
    if '"STATE"' in line: print(line, end="", flush=True)
"""


class Stage:
    """A folder with a fake source, a fake destination, their (empty) configs and the state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state.json"
        self.catalog = folder / "catalog.json"
        self.started: list[subprocess.Popen[str]] = []
        for side in ("source", "destination"):
            (folder / f"{side}.json").write_text("{}")
        self.script("destination", ECHO)

    def script(self, side: str, body: str) -> None:
        (self.folder / f"{side}.py").write_text(PREAMBLE + body)

    def command(self, *more: str) -> list[str]:
        options = {
            "--source": f"{sys.executable} {self.folder / 'source.py'}",
            "--destination": f"{sys.executable} {self.folder / 'destination.py'}",
            "--source-config": str(self.folder / "source.json"),
            "--destination-config": str(self.folder / "destination.json"),
            "--state": str(self.state),
        }
        program = [sys.executable, "-c", PROGRAM, "sync"]
        return [*program, *(part for option in options.items() for part in option), *more]

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*more), capture_output=True, text=True, timeout=60, check=False)

    def start(self, *names: str, options: Sequence[str] = ()) -> list[psutil.Process]:
        """Start a sync and wait until the fakes have said ``here`` under these names; the processes of the fakes."""
        runner = subprocess.Popen(self.command(*options), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.started.append(runner)
        files = [self.folder / f"{name}.pid" for name in names]
        wait_until(lambda: all(file.exists() for file in files), DEADLINE_S, f"{names} are there")
        return [psutil.Process(int(file.read_text())) for file in files]

    @property
    def runner(self) -> subprocess.Popen[str]:
        return self.started[-1]

    def states(self) -> Any:
        return json.loads(self.state.read_text())


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_gone(processes: list[psutil.Process]) -> None:
    wait_until(lambda: all(map(gone, processes)), DEADLINE_S, "the connectors are gone")


def stage_processes(stage: Stage, name: str) -> list[psutil.Process]:
    pid = int((stage.folder / f"{name}.pid").read_text())
    return [psutil.Process(pid)] if psutil.pid_exists(pid) else []
