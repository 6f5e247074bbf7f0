"""``airbyte-pg sync --continuous`` as its users run it, and the two processes below it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from integration_tests.support.connector import environment_of

PROGRAM = [sys.executable, "-c", "from airbyte_pg.main import main; main()"]


class ContinuousRun:
    """A run with its files in ``folder``; what it says goes to run.log there. Leaving the ``with`` block kills it."""

    def __init__(self, folder: Path, source: dict[str, Any], destination: dict[str, Any], *options: str) -> None:
        self._folder = folder
        self._options = options
        self.state = folder / "state.json"
        (folder / "source.json").write_text(json.dumps(source))
        (folder / "destination.json").write_text(json.dumps(destination))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def files(self) -> list[str]:
        """The options that name the files."""
        sides = [f"--{side}-config={self._folder / side}.json" for side in ("source", "destination")]
        return [*sides, f"--state={self.state}"]

    @property
    def log(self) -> str:
        """What it has said."""
        return (self._folder / "run.log").read_text(errors="replace")

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def start(self) -> None:
        """Begin, or go on from the state file."""
        command = [*PROGRAM, "sync", "--continuous", *self.files, *self._options]
        with (self._folder / "run.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment_of())

    def side(self, command: str) -> psutil.Process | None:
        """The process that ``read``s or ``write``s, while there is one."""
        assert self._process is not None
        for child in psutil.Process(self._process.pid).children():
            try:
                if command in child.cmdline():
                    return child
            except psutil.NoSuchProcess:
                continue
        return None

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(90)

    def __enter__(self) -> ContinuousRun:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def status(self, *options: str) -> dict[str, Any]:
        """What ``airbyte-pg status`` says now."""
        command = [*PROGRAM, "status", "--json", *self.files, *options]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=environment_of())
        assert done.returncode in (0, 3), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found
