"""The user's heartbeat: one statement per sync, before its end is set, or now and then in a continuous run. Not needed
here, but honoured.

In a session of its own, with the user's settings: nothing that it does or leaves touches ours.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2

from airbyte_pg.classify import Phase, classify
from airbyte_pg.connect import connect
from airbyte_pg.errors import ConnectorError
from source_postgres_cdc.server import APPLICATION_NAME
from source_postgres_cdc.settings import SourceSettings

_TIMEOUT = "60s"

log = logging.getLogger(__name__)


def beat(settings: SourceSettings) -> None:
    """Run heartbeat_action_query, where there is one. A failure is only a warning."""
    query = settings.replication_method.heartbeat_action_query.strip()
    if not query:
        return
    try:
        with closing(connect(settings, application_name=APPLICATION_NAME)) as session, session.cursor() as cursor:
            cursor.execute("select set_config('statement_timeout', %s, false)", (_TIMEOUT,))
            cursor.execute(query)
    except (ConnectorError, psycopg2.Error) as error:
        failure = classify(error, Phase.WORKING)
        log.warning("heartbeat_action_query failed: %s %s", failure.user_text, failure.detail)


@contextmanager
def beating(settings: SourceSettings) -> Iterator[None]:
    """Inside the block heartbeat_action_query is run again and again, by a thread that holds up nobody."""
    is_over = threading.Event()

    def beat_on() -> None:
        while not is_over.wait(settings.idle_seconds):
            beat(settings)

    if settings.replication_method.heartbeat_action_query.strip():
        threading.Thread(target=beat_on, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
