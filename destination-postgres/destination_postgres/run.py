"""The console entry of destination-postgres. Imports a command's modules only when it runs: `spec` must be quick."""

from __future__ import annotations

import sys
from importlib import resources

from airbyte_pg import cli, messages, strict
from airbyte_pg.cli import Call


def spec(call: Call) -> None:
    """Print the connection specification."""
    import orjson

    document = resources.files(__package__).joinpath("spec.json").read_bytes()
    call.lines.emit(messages.spec(strict.adapted(orjson.loads(document))))


def check(call: Call) -> None:
    """Try everything that write needs of the server; nothing is left behind."""
    from destination_postgres import destination

    destination.check(call)


def write(call: Call) -> None:
    """Write the messages of stdin into raw and final tables; print each STATE once it is committed."""
    from destination_postgres import destination

    destination.write(call)


def main() -> None:
    """Run the command that the arguments name."""
    commands = {"spec": spec, "check": check, "write": write}
    sys.exit(cli.run("destination-postgres", "Raw and typed tables in PostgreSQL.", commands))
