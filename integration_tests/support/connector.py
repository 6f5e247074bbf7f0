"""Run a connector as its users do, as a process with files, stdin and stdout, and read what it printed.

Nothing here prints or judges: a run that failed or hung is an Outcome that says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

SOURCE = "source_postgres_cdc"
DESTINATION = "destination_postgres"

Message = dict[str, Any]
Document = Mapping[str, Any] | Sequence[Any] | bytes | Path


@dataclass
class Outcome:
    """What a run left: exit code (negative: ended by that signal), printed lines, the same parsed, stderr.

    Numbers with a point are parsed as Decimal; ``lines`` has the bytes. ``not_json`` are the lines of stdout that
    are no protocol messages.
    """

    exit_code: int
    lines: list[bytes]
    stderr: str
    timed_out: bool = False
    messages: list[Message] = field(default_factory=list)
    not_json: list[bytes] = field(default_factory=list)

    def records(self, stream: str | None = None) -> list[dict[str, Any]]:
        """The ``data`` of the RECORDs, of one stream or of all."""
        return [record["data"] for record in self.record_payloads(stream)]

    def record_payloads(self, stream: str | None = None) -> list[dict[str, Any]]:
        """The RECORDs with meta and emitted_at, of one stream or of all."""
        return [record for record in self._payloads("RECORD", "record") if stream in (None, record["stream"])]

    @property
    def states(self) -> list[dict[str, Any]]:
        """The payloads of the STATE lines."""
        return self._payloads("STATE", "state")

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The payloads of the LOG lines."""
        return self._payloads("LOG", "log")

    @property
    def traces(self) -> list[dict[str, Any]]:
        """The payloads of the TRACE lines."""
        return self._payloads("TRACE", "trace")

    @property
    def error(self) -> dict[str, Any] | None:
        """The first ERROR trace: message, internal_message, failure_type."""
        return next((trace["error"] for trace in self.traces if trace["type"] == "ERROR"), None)

    @property
    def statuses(self) -> dict[str, list[str]]:
        """Stream name -> its STREAM_STATUS values in order."""
        found: dict[str, list[str]] = {}
        for trace in self.traces:
            if trace["type"] == "STREAM_STATUS":
                status = trace["stream_status"]
                found.setdefault(status["stream_descriptor"]["name"], []).append(status["status"])
        return found

    @property
    def catalog(self) -> dict[str, Any]:
        """What ``discover`` printed."""
        return self._only("CATALOG", "catalog")

    @property
    def connection_status(self) -> dict[str, Any]:
        """What ``check`` printed."""
        return self._only("CONNECTION_STATUS", "connectionStatus")

    @property
    def spec(self) -> dict[str, Any]:
        """What ``spec`` printed."""
        return self._only("SPEC", "spec")

    def _payloads(self, kind: str, name: str) -> list[dict[str, Any]]:
        return [message[name] for message in self.messages if message.get("type") == kind]

    def _only(self, kind: str, name: str) -> dict[str, Any]:
        found = self._payloads(kind, name)
        if len(found) != 1:
            raise LookupError(f"{len(found)} {kind} lines in {self!r}")
        return found[0]

    def __repr__(self) -> str:
        # What a failed assertion shows: enough to see what happened, not a hundred thousand rows.
        kinds: dict[str, int] = {}
        for message in self.messages:
            kinds[str(message.get("type"))] = kinds.get(str(message.get("type")), 0) + 1
        shown = [f"exit_code={self.exit_code}", " ".join(f"{kind}={count}" for kind, count in kinds.items())]
        shown += ["TIMED OUT"] if self.timed_out else []
        shown += [f"error={self.error}"] if self.error else []
        shown += [f"not_json={self.not_json[:3]}"] if self.not_json else []
        shown += [f"stderr={self.stderr[-2000:]}"] if self.stderr else []
        return f"Outcome({', '.join(part for part in shown if part)})"


class Running:
    """A connector that runs: its messages are read and parsed by a thread as they come.

    One that is ``held`` writes to a pipe that nobody reads until ``release``.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], files: tempfile.TemporaryDirectory[str], *, held: bool = False
    ) -> None:
        self._process = process
        self._files = files
        self._arrival = threading.Condition()
        self._outcome = Outcome(exit_code=0, lines=[], stderr="")
        self._ended = False
        self._is_held = held
        self._stdout_reader = threading.Thread(target=self._read_stdout, daemon=True)
        self._stderr_reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr_reader.start()
        if not held:
            self._stdout_reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def messages(self) -> list[Message]:
        """What has been read so far."""
        with self._arrival:
            return list(self._outcome.messages)

    def wait_for(self, predicate: Callable[[Message], object], deadline: float = 30.0, *, count: int = 1) -> Message:
        """The ``count``-th message, of all from the start, for which ``predicate(message)`` is true.

        Raises TimeoutError after ``deadline`` seconds, or as soon as stdout has ended without it.
        """
        end, seen, found = time.monotonic() + deadline, 0, 0
        with self._arrival:
            while True:
                for message in self._outcome.messages[seen:]:
                    seen += 1
                    found += bool(predicate(message))
                    if found == count:
                        return message
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    raise TimeoutError(f"the awaited message did not come: {self._outcome!r}")
                self._arrival.wait(left)

    def write(self, lines: bytes) -> bool:
        """Write to stdin at once; false when the connector no longer reads."""
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            return False
        try:
            stdin.write(lines)
            stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def close_stdin(self) -> None:
        """End of input."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def release(self) -> None:
        """Begin to read what a held connector writes."""
        if self._is_held:
            self._is_held = False
            self._stdout_reader.start()

    def raw_lines(self) -> Iterator[bytes]:
        """What a held connector writes, line by line, to its end; nothing of it is kept or parsed."""
        assert self._is_held
        assert self._process.stdout is not None
        yield from self._process.stdout

    def stop_reading(self) -> None:
        """Close the pipe that a held connector writes to."""
        assert self._is_held
        assert self._process.stdout is not None
        self._process.stdout.close()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def finish(self, timeout: float = 60.0) -> Outcome:
        """Close stdin, wait for the end (killing after ``timeout``) and return what there was."""
        self.release()
        self.close_stdin()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._outcome.timed_out = True
            self._process.kill()
        self._outcome.exit_code = self._process.wait()
        self._stdout_reader.join()
        self._stderr_reader.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._files.cleanup()
        return self._outcome

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc: object) -> None:
        # A test that failed in between leaves no process behind.
        if self._process.poll() is None:
            self._process.kill()
        self.finish()

    def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        for line in () if self._process.stdout.closed else self._process.stdout:
            message = _parsed(line)
            with self._arrival:
                self._outcome.lines.append(line)
                if message is None:
                    self._outcome.not_json.append(line)
                else:
                    self._outcome.messages.append(message)
                self._arrival.notify_all()
        with self._arrival:
            self._ended = True
            self._arrival.notify_all()

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._outcome.stderr += line.decode(errors="replace")


def start(
    connector: str,
    command: str,
    *,
    config: Document | None = None,
    catalog: Document | None = None,
    state: Document | None = None,
    stdin: IO[bytes] | int = subprocess.PIPE,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    held: bool = False,
) -> Running:
    """Start ``python -m <connector> <command>``; ``held``: nobody reads its stdout before ``release``.

    ``config``, ``catalog`` and ``state`` are documents, written to temporary files; bytes are written as they are,
    a Path is passed on. ``arguments`` come last on the command line.
    """
    files = tempfile.TemporaryDirectory(prefix="connector-")
    options = list(arguments)
    for name, document in (("config", config), ("catalog", catalog), ("state", state)):
        if document is not None:
            options[:0] = [f"--{name}", str(_file(Path(files.name) / f"{name}.json", document))]
    process = subprocess.Popen(
        [sys.executable, "-m", connector, command, *options],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment_of(environment),
    )
    return Running(process, files, held=held)


def run(
    connector: str,
    command: str,
    *,
    config: Document | None = None,
    catalog: Document | None = None,
    state: Document | None = None,
    stdin: bytes | IO[bytes] = b"",
    timeout: float = 60.0,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
) -> Outcome:
    """Run a connector to its end; ``stdin`` is bytes or an open file. After ``timeout`` seconds it is killed."""
    given = subprocess.PIPE if isinstance(stdin, bytes) else stdin
    running = start(
        connector,
        command,
        config=config,
        catalog=catalog,
        state=state,
        stdin=given,
        environment=environment,
        arguments=arguments,
    )
    if not isinstance(stdin, bytes):
        return running.finish(timeout)
    feeder = threading.Thread(target=_feed, args=(running, stdin), daemon=True)
    feeder.start()
    # stdin is closed by the feeder, when everything is written; finish() closing it earlier would cut the input.
    end = time.monotonic() + timeout
    feeder.join(timeout)
    if feeder.is_alive():
        running.kill()
        feeder.join()
        outcome = running.finish(1.0)
        outcome.timed_out = True
        return outcome
    return running.finish(max(end - time.monotonic(), 0.1))


def environment_of(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment without what would make Python write unbuffered, plus ``more``."""
    return {**{key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}, **(more or {})}


def _feed(running: Running, lines: bytes) -> None:
    running.write(lines)
    running.close_stdin()


def _file(path: Path, document: Document) -> Path:
    if isinstance(document, Path):
        return document
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return path


def _parsed(line: bytes) -> Message | None:
    try:
        message = json.loads(line, parse_float=Decimal)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
