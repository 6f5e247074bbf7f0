"""The console command ``airbyte-pg``: arguments in, exit code out."""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import orjson

from airbyte_pg.configure import configure
from airbyte_pg.containers import REPOSITORY
from airbyte_pg.errors import ConfigError, ConnectorError
from airbyte_pg.pair import Plan
from airbyte_pg.sync import sync, sync_continuously

_SOURCE = "source-postgres-cdc"
_DESTINATION = "destination-postgres"


def main() -> None:
    """Run the command of the process's arguments."""
    sys.exit(run())


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command in ``argv`` and return the exit code: the sync's, 1 for our own error, 2 for wrong arguments, 3
    for a status that alarms."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "status":
            if arguments.max_lag_seconds is not None and arguments.state is None:
                parser.error("--max-lag-seconds needs --state")
            return _status(arguments)
        if arguments.command == "configure":
            sys.stdout.buffer.write(orjson.dumps(configure(sys.stdin.buffer.read(), None)) + b"\n")
            return 0
        plan = Plan(
            source=_called("--source", arguments.source, _SOURCE, docker=arguments.docker),
            destination=_called("--destination", arguments.destination, _DESTINATION, docker=arguments.docker),
            source_config=arguments.source_config,
            destination_config=arguments.destination_config,
            catalog=arguments.catalog,
            state=arguments.state,
            log_level=arguments.log_level,
            docker=arguments.docker,
            max_pause_s=arguments.max_pause,
        )
        return sync_continuously(plan) if arguments.continuous else sync(plan)
    except ConnectorError as error:
        sys.stderr.write(f"error: {error.user_text}\n")
        return 1


def _status(arguments: argparse.Namespace) -> int:
    from airbyte_pg import status

    found = status.look(
        status.Question(
            arguments.source_config,
            arguments.destination_config,
            arguments.state,
            arguments.max_lag_seconds,
            arguments.max_retained_bytes,
        )
    )
    sys.stdout.buffer.write(found.as_json() if arguments.json else status.text(found).encode())
    return status.ALERT_EXIT if found.alerts else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="airbyte-pg", description="Run Airbyte connectors without an orchestrator.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    commands.add_parser(
        "configure",
        help="make a configured catalog of what `discover` printed",
        description="What `discover` printed on stdin, a configured catalog on stdout, as `sync` makes one without "
        "--catalog.",
    )
    _add_status(commands.add_parser("status", help="say how a connection stands: slot, lag, streams"))
    command = commands.add_parser("sync", help="move data from a source to a destination")
    files = {
        "--source-config": "the source's configuration",
        "--destination-config": "the destination's configuration",
        "--state": "where the position is kept; made by the first sync",
    }
    for option, text in files.items():
        command.add_argument(option, required=True, type=Path, metavar="FILE", help=f"{text} (JSON)")
    command.add_argument(
        "--catalog",
        type=Path,
        metavar="FILE",
        help="what `discover` printed, or a configured catalog; without it everything that `discover` finds is moved: "
        "incremental, deduplicated where there is a key, else replaced as a whole",
    )
    command.add_argument(
        "--continuous",
        action="store_true",
        help="go on until SIGTERM or Ctrl-C: changes are moved as they come, a side that fails is started again",
    )
    command.add_argument(
        "--max-pause",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="with --continuous: the longest wait before a failed side is started again (60; the first wait is 1 s)",
    )
    command.add_argument("--docker", action="store_true", help="run the connectors' images, by `docker run`")
    for option, default in (("--source", _SOURCE), ("--destination", _DESTINATION)):
        text = f"the command that runs the {option[2:]} ({default}), or its image ({_image(default)})"
        command.add_argument(option, metavar="COMMAND", help=text)
    level = command.add_mutually_exclusive_group()
    level.add_argument(
        "--verbose", action="store_const", dest="log_level", const=logging.INFO, help="show INFO messages"
    )
    level.add_argument(
        "--debug", action="store_const", dest="log_level", const=logging.DEBUG, help="make them log more and show all"
    )
    command.set_defaults(log_level=logging.WARNING)
    return parser


def _add_status(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Slot, lag, streams: reads catalogs and statistics only, also while a sync runs. Exit code 0: all is well, 3: "
        "an alert (a missing or lost slot, or a limit that is passed), 1: a server or file cannot be read."
    )
    command.add_argument("--source-config", required=True, type=Path, metavar="FILE", help="the source's configuration")
    command.add_argument("--destination-config", type=Path, metavar="FILE", help="the destination's, to see its tables")
    command.add_argument("--state", type=Path, metavar="FILE", help="where the position is kept")
    command.add_argument("--json", action="store_true", help="for machines")
    command.add_argument(
        "--max-lag-seconds", type=float, metavar="SECONDS", help="alert when the destination may be further behind"
    )
    command.add_argument(
        "--max-retained-bytes", type=int, metavar="BYTES", help="alert when the slot keeps more WAL than this"
    )


def _called(option: str, given: str | None, default: str, *, docker: bool) -> list[str]:
    if docker:
        return [given or _image(default)]
    if given:
        return shlex.split(given)
    # The one that was installed with us, whether or not its virtual environment is active.
    beside = Path(sys.executable).with_name(default)
    found = str(beside) if beside.is_file() else shutil.which(default)
    if found is None:
        raise ConfigError(f"The command {default} is not installed.", remedy=f"Install it, or name one with {option}.")
    return [found]


def _image(connector: str) -> str:
    # The runner and the connectors are released together, under one version.
    return f"{REPOSITORY}/{connector}:{version('airbyte-pg')}"
