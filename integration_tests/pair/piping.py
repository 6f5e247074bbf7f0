"""A sync through a pipe that the test holds in its hands: it counts the lines that pass, and kills at a chosen one."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integration_tests.source.reading import config
from integration_tests.support.connector import DESTINATION, SOURCE, environment_of
from integration_tests.support.databases import Database


@dataclass
class Passed:
    """A sync that is over: exit codes, the number of lines that passed, the states that came back in order."""

    source_code: int = 0
    destination_code: int = 0
    lines: int = 0
    states: list[dict[str, Any]] = field(default_factory=list)
    printed: list[bytes] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether both ended well."""
        return self.source_code == 0 and self.destination_code == 0


def sync(
    source: Database,
    destination: Database,
    catalog: dict[str, Any],
    state: dict[str, Any] | None = None,
    *,
    kill: tuple[str, int] | None = None,
    destination_options: dict[str, Any] | None = None,
    **source_options: Any,
) -> Passed:
    """Source to destination. ``kill``: who dies by SIGKILL, and when.

    ("source", n) or ("destination", n): as soon as n lines have passed; ("answering destination", n): as soon as its
    n-th STATE has come back, so most likely within the next flush.
    """
    with tempfile.TemporaryDirectory() as directory:
        files = Path(directory)
        documents = {
            "source.json": {**config(source), **source_options},
            "destination.json": destination.config(schema="public", **(destination_options or {})),
            "catalog.json": catalog,
            "state.json": [state] if state else [],
        }
        for name, document in documents.items():
            (files / name).write_text(json.dumps(document))
        reader = _start(SOURCE, "read", files / "source.json", files / "catalog.json", "--state", files / "state.json")
        writer = _start(DESTINATION, "write", files / "destination.json", files / "catalog.json", stdin=subprocess.PIPE)
        passed = Passed()
        listener = threading.Thread(target=_listen, args=(writer, passed, kill))
        listener.start()
        with contextlib.suppress(BrokenPipeError):
            _pump(reader, writer, passed, kill)
        assert writer.stdin is not None
        assert reader.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            writer.stdin.close()
        reader.stdout.close()
        passed.source_code, passed.destination_code = reader.wait(60), writer.wait(60)
        listener.join(60)
        assert writer.stdout is not None
        writer.stdout.close()
    return passed


def _pump(
    reader: subprocess.Popen[bytes], writer: subprocess.Popen[bytes], passed: Passed, kill: tuple[str, int] | None
) -> None:
    assert reader.stdout is not None
    assert writer.stdin is not None
    for line in reader.stdout:
        writer.stdin.write(line)
        passed.lines += 1
        if kill == ("source", passed.lines):
            writer.stdin.flush()
            reader.kill()
            return
        if kill == ("destination", passed.lines):
            writer.stdin.flush()
            writer.kill()


def _listen(writer: subprocess.Popen[bytes], passed: Passed, kill: tuple[str, int] | None) -> None:
    assert writer.stdout is not None
    for line in writer.stdout:
        passed.printed.append(line)
        # A process killed in the middle of a write leaves half a line.
        if line.endswith(b"\n") and line.startswith(b'{"type":"STATE"'):
            passed.states.append(json.loads(line)["state"])
            if kill == ("answering destination", len(passed.states)):
                writer.kill()


def _start(
    connector: str, command: str, config_file: Path, catalog: Path, *more: object, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    arguments = [command, "--config", config_file, "--catalog", catalog, *more]
    return subprocess.Popen(
        [sys.executable, "-m", connector, *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment_of(),
    )


def differences(source: Database, destination: Database, table: str, columns: str) -> list[tuple[Any, ...]]:
    """Rows of ``columns`` (text expressions that hold on both sides) that only one side has."""
    ours = set(source.rows(f"select {columns} from public.{table}"))
    theirs = destination.rows(f"select {columns} from public.{table}")
    found = [("only at the source", *row) for row in ours - set(theirs)]
    found += [("only at the destination", *row) for row in set(theirs) - ours]
    if len(theirs) != len(set(theirs)):
        found.append(("twice at the destination", len(theirs) - len(set(theirs))))
    return found
