"""``airbyte-pg sync``: one sync of a source and a destination, for people without an orchestrator.

Discovers and configures where no catalog is given, joins the two connectors, keeps the STATEs that come back.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec
import orjson

from airbyte_pg import containers
from airbyte_pg.configure import configure, refreshable
from airbyte_pg.errors import POSITIONS, REFRESHES, ConfigError, RefreshNeeded
from airbyte_pg.generations import Generations
from airbyte_pg.pipe import Process, Processes, exit_code
from airbyte_pg.positions import ask_for_positions
from airbyte_pg.progress import Progress
from airbyte_pg.state_file import StateFile

# What the other side may still have to do when one has ended: the orderly way, and after a failure.
_ORDERLY_GRACE_S = 60.0
_FAILED_GRACE_S = 5.0

_LEVELS = {"FATAL": logging.CRITICAL, "ERROR": logging.ERROR, "WARN": logging.WARNING, "INFO": logging.INFO}


@dataclass(frozen=True)
class Plan:
    """What to run. The commands are argument lists without the connector's own arguments, or, with ``docker``, one
    image each; ``log_level`` is the least that is shown, as a number of ``logging``."""

    source: list[str]
    destination: list[str]
    source_config: Path
    destination_config: Path
    state: Path
    catalog: Path | None = None
    log_level: int = logging.WARNING
    docker: bool = False


class _Counts(msgspec.Struct):
    recordCount: float = 0.0  # noqa: N815 - the protocol's name


class _Stats(msgspec.Struct):
    destinationStats: _Counts | None = None  # noqa: N815 - the protocol's name


class _Log(msgspec.Struct):
    message: str = ""
    level: str = "INFO"


class _Error(msgspec.Struct):
    message: str = ""


class _Trace(msgspec.Struct):
    error: _Error | None = None


class _Line(msgspec.Struct):
    """An AirbyteMessage, of which only what is shown is decoded."""

    type: str
    log: _Log | None = None
    trace: _Trace | None = None
    # Empty where there is none: msgspec takes an optional Raw for a mere null.
    state: msgspec.Raw = msgspec.Raw()


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_stats = msgspec.json.Decoder(_Stats).decode


def sync(plan: Plan) -> int:
    """Run one sync and return the exit code: 0, the worse one of the two connectors, or 128 + signal.

    Raises ConnectorError for what is wrong before, between and after them (files, state, catalog).
    """
    names = [containers.name_of(plan.state, side) for side in ("source", "destination")]
    with (
        _locked(plan.state),
        tempfile.TemporaryDirectory(prefix="airbyte-pg-") as folder,
        containers.none_left(names) if plan.docker else nullcontext(),
        Processes() as processes,
    ):
        run = _Sync(plan, processes, Path(folder))
        code = run.run()
        return code if processes.stopped_by is None else 128 + processes.stopped_by


class _Sync:
    def __init__(self, plan: Plan, processes: Processes, folder: Path) -> None:
        self._plan = plan
        self._processes = processes
        self._folder = folder
        self._states = StateFile.load(plan.state)
        self._generations = Generations.beside(plan.state)
        self._progress = Progress(sys.stderr)

    def run(self) -> int:
        code, catalog = self._discover() if self._plan.catalog is None else (0, _read(self._plan.catalog))
        if code or self._processes.stopped_by is not None:
            return code
        if self._states.is_empty and self._generations.succeeded:
            self._progress.say(
                "warning: the state file is gone, so everything is read again; rows that were deleted at the source in "
                "the meantime stay in tables that are kept (incremental)."
            )
        code = self._move(catalog)
        if code == 0:
            self._generations.end_well()
            self._generations.save()
        return code

    def _discover(self) -> tuple[int, bytes]:
        """The exit code of the source's ``discover`` and what it printed."""
        command = self._called("source", "discover", "--config", str(self._plan.source_config), *self._debug)
        child = self._processes.start(command, stdout=-1)
        found: list[bytes] = []
        for lines in self._processes.lines(child):
            found += (line for line in lines if not self._take(line))
        code = self._processes.wait_for(child, _ORDERLY_GRACE_S)
        if code:
            self._progress.say(f"sync failed: discover ended with exit code {code}")
        return code, b"\n".join(found)

    def _move(self, catalog: bytes, *, may_refresh: bool = True) -> int:
        configured = configure(catalog, self._generations)
        self._generations.save()
        has_positions = ask_for_positions(configured, self._plan.source_config)
        file = self._folder / "catalog.json"
        file.write_bytes(orjson.dumps(configured))
        refreshed = refreshable(configured, self._generations) if may_refresh else []
        asked = {**({REFRESHES: "1"} if refreshed else {}), **({POSITIONS: "1"} if has_positions else {})}
        source, destination = self._commands(file, asked)
        self._progress.start()
        sender, receiver = self._processes.start_joined(source, destination, asked)
        for lines in self._processes.lines(receiver):
            if sum(self._take(line) == "STATE" for line in lines):
                # Once for all that came together: each saving costs two fsyncs.
                self._states.save()
            self._progress.draw()
        code = self._processes.wait_for(receiver, _ORDERLY_GRACE_S)
        self._processes.wait_for(sender, _FAILED_GRACE_S if code else _ORDERLY_GRACE_S)
        self._progress.clear()
        if refreshed and exit_code(sender) == RefreshNeeded.exit_code and self._processes.stopped_by is None:
            self._progress.say("warning: every incremental table is read again, replacing its rows")
            self._generations.refresh(refreshed)
            self._states.forget()
            return self._move(catalog, may_refresh=False)
        return self._judge(sender, receiver)

    def _commands(self, catalog: Path, environment: Mapping[str, str]) -> tuple[list[str], list[str]]:
        plan = self._plan
        shared = ["--catalog", str(catalog), *self._debug]
        reading = ["read", "--config", str(plan.source_config), *shared]
        if not self._states.is_empty:
            reading += ["--state", str(plan.state)]
        writing = ["write", "--config", str(plan.destination_config), *shared]
        return self._called("source", *reading, environment=environment), self._called("destination", *writing)

    def _called(self, side: str, *arguments: str, environment: Mapping[str, str] | None = None) -> list[str]:
        called = self._plan.source if side == "source" else self._plan.destination
        if not self._plan.docker:
            return [*called, *arguments]
        return containers.command(called[0], containers.name_of(self._plan.state, side), arguments, environment or {})

    @property
    def _debug(self) -> list[str]:
        return ["--debug"] if self._plan.log_level <= logging.DEBUG else []

    def _take(self, line: bytes) -> str:
        """Act on one line that a connector printed and return its type; "" where this has no use for it."""
        try:
            message = _decode_line(line)
        except msgspec.DecodeError:
            # Not of the protocol (a library that prints): the only place where a person would see it.
            if line.strip():
                self._progress.say(line.decode(errors="replace"))
            return "noise"
        if message.type == "STATE" and message.state:
            payload = bytes(message.state)
            self._states.merge(payload)
            stats = _decode_stats(payload).destinationStats
            self._progress.take_acknowledged(int(stats.recordCount) if stats else 0)
        elif message.type == "LOG" and message.log is not None:
            self._progress.take_log(message.log.message)
            if _LEVELS.get(message.log.level, logging.DEBUG) >= self._plan.log_level:
                self._progress.say(f"{message.log.level.lower()}: {message.log.message}")
        elif message.type == "TRACE":
            if message.trace is not None and message.trace.error is not None:
                self._progress.say(f"error: {message.trace.error.message}")
        else:
            return ""
        return message.type

    def _judge(self, sender: Process, receiver: Process) -> int:
        codes = {"source": exit_code(sender), "destination": exit_code(receiver)}
        if codes["destination"] and self._processes.was_ended_by_us(sender):
            # It only had nobody to talk to any more.
            codes["source"] = 0
        worst = max(codes.values())
        if self._processes.stopped_by is not None:
            self._progress.say("stopped; the next sync goes on from the last saved state")
        elif worst:
            ended = ", ".join(f"the {side} ended with exit code {code}" for side, code in codes.items() if code)
            self._progress.say(f"sync failed: {ended}")
        else:
            sys.stdout.write(f"synced {self._progress.summary()}\n")
            sys.stdout.flush()
        return worst


def _read(catalog: Path) -> bytes:
    try:
        return catalog.read_bytes()
    except OSError as error:
        raise ConfigError(f"The catalog file {catalog} cannot be read: {error.strerror}.") from error


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One sync at a time per state file: a second one (cron) would read a state that the first is about to replace."""
    path = state.with_name(f"{state.name}.lock")
    try:
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ConfigError(f"The state file's directory {state.parent} is not usable: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"Another sync is using the state file {state}.", remedy="Let it end first.") from error
        yield
    finally:
        # The lock goes with the descriptor; the file stays, or two could hold locks on different files of one name.
        os.close(fd)
