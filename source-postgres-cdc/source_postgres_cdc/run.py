"""The console entry of source-postgres-cdc. Imports a command's modules only when it runs: `spec` must be quick."""

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
    """Say whether a sync can run: every problem at once, each with its remedy."""
    from source_postgres_cdc import source

    source.check(call)


def discover(call: Call) -> None:
    """Print the catalog of the tables that can be read."""
    from source_postgres_cdc import source

    source.discover(call)


def read(call: Call) -> None:
    """Read the catalog's streams: a snapshot of what is new, then the changes, up to the present."""
    from source_postgres_cdc import source

    source.read(call)


def main() -> None:
    """Run the command that the arguments name."""
    commands = {"spec": spec, "check": check, "discover": discover, "read": read}
    sys.exit(cli.run("source-postgres-cdc", "PostgreSQL by logical replication (pgoutput).", commands))
