"""Timelines: where a server's history left another one, so that a state from behind that point is told.

A promotion or a restore to a point in time begins a new timeline; what was written on the old one behind the point
where it was left never happened (PostgreSQL documentation 26.3.6).
"""

from __future__ import annotations

from contextlib import closing

from airbyte_pg.errors import ConfigError
from source_postgres_cdc import lsn, server
from source_postgres_cdc.server import Server
from source_postgres_cdc.settings import SourceSettings


def load(settings: SourceSettings, facts: Server, timeline: int) -> dict[int, int]:
    """The ancestors of ``timeline``, each with the position where it was left. Raises ConfigError where nobody says."""
    if timeline == 1:
        return {}
    try:
        walsender = server.open_replication_session(settings, facts)
    except ConfigError as error:
        raise ConfigError(
            "The server is on another timeline than the state (a failover or a restore), and whether that lost changes "
            "cannot be asked without a replication connection.",
            remedy=f'Run: ALTER ROLE "{settings.username}" REPLICATION;',
        ) from error
    with closing(walsender):
        _, content = server.rows(walsender, f"TIMELINE_HISTORY {timeline}")[0]
    return parse(content if isinstance(content, str) else bytes(content).decode(errors="replace"))


def parse(history: str) -> dict[int, int]:
    """A history file: each line is an ancestor, the position where it was left, and why."""
    left = {}
    for line in history.splitlines():
        fields = line.partition("#")[0].split(maxsplit=2)
        if len(fields) >= 2:
            left[int(fields[0])] = lsn.parse(fields[1])
    return left
