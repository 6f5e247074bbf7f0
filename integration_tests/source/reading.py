"""The source's part of a test in few words: discover, configure, read, go on from the last state."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from integration_tests.support import connector
from integration_tests.support.catalogs import configured
from integration_tests.support.connector import SOURCE, Outcome
from integration_tests.support.databases import Database

# Keys of the configuration's top level; all others belong to the replication method.
_TOP = (
    "schemas",
    "schema",
    "tables",
    "create_if_missing",
    "initial_load",
    "transport",
    "sync_checkpoint_records",
    "emit_position",
    "special_values",
    "truncate_handling",
    "schema_change",
    "state_type",
    "failover",
    "snapshot_part_pages",
    "snapshot_drain_seconds",
    "max_db_connections",
    "sync_checkpoint_seconds",
    "run_mode",
    "max_run_seconds",
    "acknowledge_from_state_file",
    "acknowledge_seconds",
    "host",
    "port",
)
# The two ways to read changes; which one is taken is otherwise the source's choice.
TRANSPORTS = ("stream", "bulk")


def config(database: Database, **replication: Any) -> dict[str, Any]:
    """A configuration whose slot is the database's own: slots are unique in a server."""
    method = {"method": "CDC", "replication_slot": slot_of(database), "publication": "airbyte_publication"}
    top: dict[str, Any] = {"schemas": ["public"]}
    top |= {key: replication.pop(key) for key in _TOP if key in replication}
    return database.config(**top, replication_method={**method, **replication})


def slot_of(database: Database) -> str:
    """The anchor's name for a test's database."""
    return f"slot_{database.name}"


def discovered(database: Database, **more: Any) -> dict[str, dict[str, Any]]:
    """The catalog's streams by name."""
    outcome = connector.run(SOURCE, "discover", config=config(database, **more))
    assert outcome.exit_code == 0, outcome
    return {stream["name"]: stream for stream in outcome.catalog["streams"]}


def catalog_of(
    database: Database,
    mode: str = "incremental",
    only: Iterable[str] | None = None,
    destination: str = "append_dedup",
    **more: Any,
) -> dict[str, Any]:
    """A configured catalog of what discover says."""
    return configured(discovered(database, **more).values(), mode, destination, only=only)


def read(database: Database, catalog: dict[str, Any], state: Any = None, **more: Any) -> Outcome:
    """One sync to its end; ``state``: the outcome of an earlier one, or a state document."""
    document = [last_state(state)] if isinstance(state, Outcome) else state
    return connector.run(SOURCE, "read", config=config(database, **more), catalog=catalog, state=document)


def last_state(outcome: Outcome) -> dict[str, Any]:
    """The last AirbyteStateMessage, as a runner keeps it."""
    line = [line for line in outcome.lines if line.startswith(b'{"type":"STATE"')][-1]
    found: dict[str, Any] = json.loads(line)["state"]
    return found


def failure(outcome: Outcome) -> dict[str, Any]:
    """The ERROR trace of a run that failed as it should: exit code 1 and exactly one."""
    assert outcome.exit_code == 1, outcome
    errors = [trace["error"] for trace in outcome.traces if trace["type"] == "ERROR"]
    assert len(errors) == 1, outcome
    found: dict[str, Any] = errors[0]
    return found


def confirmed(database: Database) -> str:
    """The anchor's confirmed position."""
    found: str = database.value(
        "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s", slot_of(database)
    )
    return found


def position(outcome: Outcome) -> str:
    """The position in an outcome's last state."""
    return position_in(outcome.states[-1])


def position_in(state: dict[str, Any]) -> str:
    """The position that a state holds."""
    found: str = state["global"]["shared_state"]["cdc"]["lsn"]
    return found
