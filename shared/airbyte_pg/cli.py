"""Run one connector command: arguments in, protocol lines out, one ERROR trace and exit code 1 on failure."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from airbyte_pg import logs, messages
from airbyte_pg.classify import Phase, classify
from airbyte_pg.errors import (
    CONFIG_EXIT,
    CONTINUOUS,
    HAS_WORKED,
    CatalogOutdated,
    ConfigError,
    ConnectorError,
    OutputClosed,
    Stopped,
    Unreachable,
)
from airbyte_pg.lines import LineWriter
from airbyte_pg.logs import Secrets

# After SIGTERM a command has this long to leave by itself (a statement on the server cannot be interrupted by a
# Python signal handler); then the process ends hard. The server rolls back what was open.
STOP_GRACE_S = 8.0
_STOPS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Call:
    """What a command is called with: the files of its arguments, stdout, and where to leave secrets."""

    lines: LineWriter
    secrets: Secrets
    config: Path
    catalog: Path
    state: Path | None


Command = Callable[[Call], None]

_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "spec": (),
    "check": ("config",),
    "discover": ("config",),
    "read": ("config", "catalog"),
    "write": ("config", "catalog"),
}


def run(name: str, description: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names and return the process's exit code.

    Codes: 0 success (a failed check too: its CONNECTION_STATUS says so), 1 failure (or the error's own; CONFIG_EXIT for
    a config_error in a continuous run),
    2 wrong arguments, 128 + signal after SIGTERM or SIGINT.
    """
    arguments = _parser(name, description, commands).parse_args(_accept_java_style(argv, commands))
    lines, secrets = LineWriter(), Secrets()
    logs.install(lines, secrets, debug=arguments.debug)
    for signum in _STOPS:
        signal.signal(signum, _stopper(lines))
    _end_in_time()
    call = Call(
        lines=lines,
        secrets=secrets,
        config=Path(getattr(arguments, "config", "")),
        catalog=Path(getattr(arguments, "catalog", "")),
        state=Path(arguments.state) if getattr(arguments, "state", None) else None,
    )
    try:
        return _run_caught(commands[arguments.command], arguments.command, call)
    except OutputClosed:
        # Nobody reads what we could say; a last word on stderr is the most there is.
        sys.stderr.write(f"{name}: the reader of stdout has gone\n")
        _discard_stdout()
        return 1


def _run_caught(command: Command, command_name: str, call: Call) -> int:
    try:
        command(call)
        call.lines.flush()
    except Stopped as stopped:
        logging.getLogger(__name__).info("stopped by %s", signal.Signals(stopped.signum).name)
        return 128 + stopped.signum
    except OutputClosed:
        raise
    except CatalogOutdated as outdated:
        # Not a failure: everything that was read is whole.
        logging.getLogger(__name__).warning("%s", outdated.message)
        return outdated.exit_code
    except Exception as error:  # noqa: BLE001 - the one place that catches everything
        failure = classify(error, Phase.WORKING)
        if command_name == "check":
            call.lines.emit(messages.connection_status(succeeded=False, text=_masked(failure, call.secrets)))
            return 0
        call.lines.emit(_masked_line(messages.error(failure), call.secrets))
        return _exit_code(failure)
    return 0


def _exit_code(failure: ConnectorError) -> int:
    # In a pipe the kind of the source's failure ends at the destination; the runner sees its exit code.
    is_final = isinstance(failure, ConfigError) and failure.exit_code == ConfigError.exit_code
    is_away = isinstance(failure, Unreachable) and os.environ.get(HAS_WORKED)
    return CONFIG_EXIT if is_final and not is_away and os.environ.get(CONTINUOUS) else failure.exit_code


def _parser(name: str, description: str, commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=description)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="log more")
    for command in commands:
        sub = subparsers.add_parser(command, parents=[common], help=commands[command].__doc__)
        for required in _ARGUMENTS[command]:
            sub.add_argument(f"--{required}", required=True, metavar="FILE", help=f"path of the {required} (JSON)")
        if command == "read":
            sub.add_argument("--state", metavar="FILE", help="path of the state to continue from (JSON)")
    return parser


def _accept_java_style(argv: Sequence[str] | None, commands: Mapping[str, Command]) -> list[str]:
    # Java connectors take the command as an option (`--spec`), which orchestrators of old still use.
    given = list(sys.argv[1:] if argv is None else argv)
    for index, argument in enumerate(given):
        if argument.startswith("--") and argument[2:] in commands:
            return [argument[2:], *given[:index], *given[index + 1 :]]
    return given


def _stopper(lines: LineWriter) -> Callable[[int, FrameType | None], None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_IGN)
        lines.interrupt(Stopped(signum))

    return stop


def _end_in_time() -> None:
    """End the process some time after a stop was asked for, even where the main thread is in a library that does not
    come back: the interpreter would run no handler there, but writes the signal's number into a pipe."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while (signum := os.read(reading, 1)[0]) not in _STOPS:
            pass
        time.sleep(STOP_GRACE_S)
        os._exit(128 + signum)

    threading.Thread(target=watch, name="stop", daemon=True).start()


def _masked(failure: ConnectorError, secrets: Secrets) -> str:
    return secrets.mask(failure.user_text)


def _masked_line(line: bytes, secrets: Secrets) -> bytes:
    return secrets.mask(line.decode()).encode()


def _discard_stdout() -> None:
    # Keeps the interpreter from complaining about a closed pipe when it flushes sys.stdout at exit.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
