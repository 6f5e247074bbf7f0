"""A continuous run in few words: start it, wait for rows, keep what it says as a runner does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from integration_tests.source.reading import config, position_in
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE, Message, Outcome, Running
from integration_tests.support.databases import Database


def stay(
    database: Database,
    catalog: dict[str, Any],
    *,
    state: Any = None,
    state_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    held: bool = False,
    **more: Any,
) -> Running:
    """Start a continuous run; without anything else its checkpoints come fast. ``state_file`` may be missing."""
    given = {"run_mode": "continuous", "sync_checkpoint_seconds": 0.1, **more}
    arguments = ["--state", str(state_file)] if state_file is not None else []
    return connector.start(
        SOURCE,
        "read",
        config=config(database, **given),
        catalog=catalog,
        state=state,
        environment=environment,
        arguments=arguments,
        held=held,
    )


def sends(run: Running, key: int, stream: str = "t", deadline: float = 60.0) -> Message:
    """The row with the id ``key``, as soon as it has come."""
    return run.wait_for(lambda message: _is_row(message, stream, key), deadline)


def state_behind(run: Running, key: int, stream: str = "t") -> dict[str, Any]:
    """The first state behind the row with the id ``key``."""
    seen = [False]

    def covers(message: Message) -> bool:
        seen[0] = seen[0] or _is_row(message, stream, key)
        return seen[0] and message["type"] == "STATE"

    return _plain(run.wait_for(covers)["state"])


def keep(path: Path, state: Any) -> None:
    """Replace the state file by one with ``state``, as a runner does: never half written."""
    beside = path.with_suffix(".new")
    beside.write_text(state if isinstance(state, str) else json.dumps([_plain(state)]))
    beside.replace(path)


def stopped(run: Running) -> Outcome:
    """SIGTERM; the run ends well, behind a STATE, with COMPLETE for every stream."""
    run.terminate()
    return ended(run)


def ended(run: Running, exit_code: int = 0) -> Outcome:
    """The end of a run that has been told to end, or ends by itself: in order."""
    outcome = run.finish()
    assert outcome.exit_code == exit_code, outcome
    said = [message for message in outcome.messages if message["type"] in ("RECORD", "STATE")]
    assert said[-1]["type"] == "STATE", outcome
    assert {statuses[-1] for statuses in outcome.statuses.values()} == {"COMPLETE"}, outcome
    assert {statuses.count("STARTED") for statuses in outcome.statuses.values()} == {1}, outcome
    return outcome


def repeated(outcome: Outcome, stream: str = "t") -> dict[Any, int]:
    """The ids that came more than once."""
    counts = Counter(row["id"] for row in outcome.records(stream))
    return {key: count for key, count in counts.items() if count > 1}


def positions(outcome: Outcome) -> list[str]:
    """The positions of all states, in order."""
    return [position_in(state) for state in outcome.states]


def _plain(state: Any) -> dict[str, Any]:
    # Counts come as Decimal.
    found: dict[str, Any] = json.loads(json.dumps(state, default=float))
    return found


def _is_row(message: Message, stream: str, key: int) -> bool:
    record = message.get("record", {})
    return bool(record.get("stream") == stream and record["data"].get("id") == key)


def has_value(name: str, value: Any) -> Callable[[Message], bool]:
    """Tells a row whose column ``name`` has ``value``."""
    return lambda message: message.get("record", {}).get("data", {}).get(name) == value


def logs(text: str) -> Callable[[Message], bool]:
    """Tells a log line that has ``text`` in it."""
    return lambda message: text in message.get("log", {}).get("message", "")
