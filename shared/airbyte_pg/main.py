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
    """Run the command in ``argv`` and return the exit code: the sync's, 1 for our own error, 2 for wrong arguments."""
    arguments = _parser().parse_args(argv)
    try:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="airbyte-pg", description="Run Airbyte connectors without an orchestrator.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    commands.add_parser(
        "configure",
        help="make a configured catalog of what `discover` printed",
        description="What `discover` printed on stdin, a configured catalog on stdout, as `sync` makes one without "
        "--catalog.",
    )
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
