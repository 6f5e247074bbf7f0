"""The two connectors of ``airbyte-pg sync``: how each is called, what comes back from them, and how they ended."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import orjson

from airbyte_pg import containers
from airbyte_pg.configure import Json
from airbyte_pg.errors import POSITIONS, ConfigError, StreamName
from airbyte_pg.generations import Generations
from airbyte_pg.pipe import Process, Processes, exit_code
from airbyte_pg.positions import ask_for_positions
from airbyte_pg.progress import Progress
from airbyte_pg.state_file import StateFile

# What the other side may still have to do when one has ended: the orderly way, and after a failure.
_ORDERLY_GRACE_S = 60.0
_FAILED_GRACE_S = 5.0
# While both run for long the state file is saved this often at most: each saving costs two fsyncs.
SAVE_S = 1.0

_LEVELS = {"FATAL": logging.CRITICAL, "ERROR": logging.ERROR, "WARN": logging.WARNING, "INFO": logging.INFO}


@dataclass(frozen=True)
class Plan:
    """What to run. The commands are argument lists without the connector's own arguments, or, with ``docker``, one
    image each; ``log_level`` is the least that is shown, as a number of ``logging``. A failed side of a continuous run
    is started again after ``max_pause_s`` seconds at most."""

    source: list[str]
    destination: list[str]
    source_config: Path
    destination_config: Path
    state: Path
    catalog: Path | None = None
    log_level: int = logging.WARNING
    docker: bool = False
    max_pause_s: float = 60.0


@dataclass(frozen=True)
class Ended:
    """The exit codes of both sides; ``left_alone``: the source only had nobody to talk to any more."""

    source: int
    destination: int
    left_alone: bool = False

    @property
    def codes(self) -> dict[str, int]:
        """The codes that count, by side."""
        return {"source": 0 if self.left_alone else self.source, "destination": self.destination}

    @property
    def worst(self) -> int:
        """The worse one of the two."""
        return max(self.codes.values())

    def __str__(self) -> str:
        return ", ".join(f"the {side} ended with exit code {code}" for side, code in self.codes.items() if code)


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


class Pair:
    """A source and a destination that share a state file. Raises ConnectorError for what is wrong with the files."""

    def __init__(self, plan: Plan, processes: Processes, folder: Path) -> None:
        self.plan = plan
        self.states = StateFile.load(plan.state)
        self.generations = Generations.beside(plan.state)
        self.progress = Progress(sys.stderr)
        self._processes = processes
        self._folder = folder

    def catalog(self, environment: Mapping[str, str]) -> tuple[int, bytes]:
        """The catalog of the plan, or the exit code of the source's ``discover`` and what it printed."""
        if self.plan.catalog is not None:
            return 0, _read(self.plan.catalog)
        arguments = ["discover", "--config", str(self.plan.source_config), *self._debug]
        with self._containers():
            command = self._called("source", arguments, environment)
            child = self._processes.start(command, stdout=-1, environment=environment)
            found: list[bytes] = []
            for lines in self._processes.lines(child):
                found += (line for line in lines if not self._take(line))
            return self._processes.wait_for(child, _ORDERLY_GRACE_S), b"\n".join(found)

    def move(self, configured: Json, environment: Mapping[str, str], *, for_long: bool = False) -> Ended:
        """Run both, joined, to their end, and keep the states that come back.

        ``for_long``: the source finds a state file from the start, to see what is acknowledged; a signal is told to
        the source alone, and the destination drains.
        """
        if ask_for_positions(configured, self.plan.source_config):
            environment = {**environment, POSITIONS: "1"}
        if for_long:
            self.states.save()
        file = self._folder / "catalog.json"
        file.write_bytes(orjson.dumps(configured))
        source, destination = self._commands(file, environment, for_long=for_long)
        self.progress.start()
        with self._containers():
            sender, receiver = self._processes.start_joined(source, destination, environment, drains=for_long)
            try:
                self._listen(receiver, SAVE_S if for_long else 0.0)
            finally:
                self.progress.clear()
            code = self._processes.wait_for(receiver, _ORDERLY_GRACE_S)
            # One that has nothing to say would find out late that nobody listens.
            failed_grace_s = 0.0 if for_long else _FAILED_GRACE_S
            self._processes.wait_for(sender, failed_grace_s if code else _ORDERLY_GRACE_S)
        left_alone = bool(code) and self._processes.was_ended_by_us(sender)
        return Ended(exit_code(sender), code, left_alone)

    def refresh(self, streams: Sequence[StreamName]) -> None:
        """Begin to read ``streams`` anew, without a state, replacing their rows."""
        self.progress.say("warning: every incremental table is read again, replacing its rows")
        self.generations.refresh(streams)
        self.states.forget()

    def warn_of_missing_state(self) -> None:
        """Say so where the state file was taken away."""
        if self.states.is_empty and self.generations.succeeded:
            self.progress.say(
                "warning: the state file is gone, so everything is read again; rows that were deleted at the source in "
                "the meantime stay in tables that are kept (incremental)."
            )

    def _listen(self, receiver: Process, save_s: float) -> None:
        """Take what ``receiver`` says to its end; states are saved once for all that came together, or in ``save_s``
        seconds."""
        is_unsaved, saved_at = False, 0.0
        for lines in self._processes.lines(receiver):
            if sum(self._take(line) == "STATE" for line in lines):
                is_unsaved = True
            if is_unsaved and time.monotonic() - saved_at >= save_s:
                self.states.save()
                is_unsaved, saved_at = False, time.monotonic()
            self.progress.draw()
            if save_s:
                self.progress.report()
        if is_unsaved:
            self.states.save()

    def _commands(
        self, catalog: Path, environment: Mapping[str, str], *, for_long: bool
    ) -> tuple[list[str], list[str]]:
        plan = self.plan
        shared = ["--catalog", str(catalog), *self._debug]
        reading = ["read", "--config", str(plan.source_config), *shared]
        if for_long or not self.states.is_empty:
            reading += ["--state", str(plan.state)]
        writing = ["write", "--config", str(plan.destination_config), *shared]
        return self._called("source", reading, environment, for_long=for_long), self._called(
            "destination", writing, environment
        )

    def _called(
        self, side: str, arguments: list[str], environment: Mapping[str, str], *, for_long: bool = False
    ) -> list[str]:
        called = self.plan.source if side == "source" else self.plan.destination
        if not self.plan.docker:
            return [*called, *arguments]
        name = containers.name_of(self.plan.state, side)
        return containers.command(called[0], name, arguments, environment, follows_state=for_long)

    def _containers(self) -> contextlib.AbstractContextManager[None]:
        names = [containers.name_of(self.plan.state, side) for side in ("source", "destination")]
        return containers.none_left(names) if self.plan.docker else contextlib.nullcontext()

    @property
    def _debug(self) -> list[str]:
        return ["--debug"] if self.plan.log_level <= logging.DEBUG else []

    def _take(self, line: bytes) -> str:
        """Act on one line that a connector printed and return its type; "" where this has no use for it."""
        try:
            message = _decode_line(line)
        except msgspec.DecodeError:
            # Not of the protocol (a library that prints): the only place where a person would see it.
            if line.strip():
                self.progress.say(line.decode(errors="replace"))
            return "noise"
        if message.type == "STATE" and message.state:
            payload = bytes(message.state)
            self.states.merge(payload)
            stats = _decode_stats(payload).destinationStats
            self.progress.take_acknowledged(int(stats.recordCount) if stats else 0)
        elif message.type == "LOG" and message.log is not None:
            self.progress.take_log(message.log.message)
            if _LEVELS.get(message.log.level, logging.DEBUG) >= self.plan.log_level:
                self.progress.say(f"{message.log.level.lower()}: {message.log.message}")
        elif message.type == "TRACE":
            if message.trace is not None and message.trace.error is not None:
                self.progress.say(f"error: {message.trace.error.message}")
        else:
            return ""
        return message.type


def _read(catalog: Path) -> bytes:
    try:
        return catalog.read_bytes()
    except OSError as error:
        raise ConfigError(f"The catalog file {catalog} cannot be read: {error.strerror}.") from error
