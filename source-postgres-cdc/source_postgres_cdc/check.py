"""Prerequisites of a sync: everything that stands in its way is found and said at once, each with its remedy.

Creates nothing. What is only a danger, or a pity, is a warning and does not fail the check.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import psycopg2
from psycopg2 import errors

from airbyte_pg.classify import Phase, classify
from source_postgres_cdc import check_publication, check_server, check_slot, check_tables
from source_postgres_cdc.findings import Finding, Subject

log = logging.getLogger(__name__)

PREREQUISITES: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    check_server.wal_level,
    check_server.standby,
    check_server.connection,
    check_server.rights,
    check_server.room_for_slots,
    check_server.settings,
    # Before the slot: it decodes nothing from before there was a publication.
    check_publication.publication,
    check_publication.members,
    check_slot.slot,
    check_slot.failover,
    check_tables.selected,
    check_tables.row_security,
    check_tables.followed,
    check_tables.populated,
    check_tables.names,
)


def problems(subject: Subject) -> list[str]:
    """Every problem of ``subject`` with its remedy; empty when a sync can run. Warnings are logged."""
    found = [finding for prerequisite in PREREQUISITES for finding in _findings(prerequisite, subject)]
    for finding in found:
        if finding.is_warning:
            log.warning(finding.text)
    return [finding.text for finding in found if not finding.is_warning]


def _findings(prerequisite: Callable[[Subject], Iterator[Finding]], subject: Subject) -> list[Finding]:
    """What ``prerequisite`` finds; that it cannot look is a finding, too, so that the others are heard."""
    try:
        return list(prerequisite(subject))
    except psycopg2.Error as error:
        failure = classify(error, Phase.WORKING)
        if subject.session.closed:
            raise failure from error
        # Of a right that is missing the server's own words name the object; there is no value in them.
        words = (error.diag.message_primary or "") if isinstance(error, errors.InsufficientPrivilege) else ""
        topic = prerequisite.__name__.replace("_", " ")
        return [Finding(f"What concerns {topic} could not be looked at: {words or failure.message}", "Grant it.")]
