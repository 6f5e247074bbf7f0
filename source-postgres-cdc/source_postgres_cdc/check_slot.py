"""The anchor as a sync would find it: fit, free, and in good health."""

from __future__ import annotations

from collections.abc import Iterator

from source_postgres_cdc import server
from source_postgres_cdc import slot as slots
from source_postgres_cdc.findings import Finding, Subject, of_error
from source_postgres_cdc.slot import PositionLost, Slot

_CATALOG_AGE = """
select age(catalog_xmin), current_setting('autovacuum_freeze_max_age')::int
from pg_replication_slots where slot_name = %s
"""


def slot(subject: Subject) -> Iterator[Finding]:
    """There must be a slot that can be used, or one must be allowed to be made."""
    settings = subject.settings
    found = slots.find(subject.session, subject.server.version, settings.slot)
    # The lock outlives a sync's use of the slot itself, which it only copies.
    if (held := slots.locked(subject.session, settings.slot)) is not None:
        yield of_error(held, is_warning=True)
    if found is None:
        if not settings.create_if_missing:
            # What is only read whole needs none.
            is_needed = any(table.can_be_followed for table in subject.tables)
            yield of_error(slots.missing(settings.slot, had_state=False), is_warning=not is_needed)
        return
    if (failure := slots.problem(found, subject.server.database)) is not None:
        # Re-sync data makes it anew and reads every table again.
        yield of_error(failure, is_warning=settings.resyncs and isinstance(failure, PositionLost))
        return
    if held is None and (failing := slots.in_use(subject.session, found)) is not None:
        # A sync waits for it.
        yield of_error(failing, is_warning=True)
    if settings.failover and not found.has_failover:
        yield Finding(slots.without_failover(found), is_warning=True)
    yield from _health(subject, found)


def failover(subject: Subject) -> Iterator[Finding]:
    """Failover slots came with 17."""
    if subject.settings.failover and (failure := slots.failover_problem(subject.server.version)) is not None:
        yield of_error(failure)


def _health(subject: Subject, found: Slot) -> Iterator[Finding]:
    if found.wal_status in ("extended", "unreserved"):
        yield Finding(
            f"WAL piles up: {slots.health(subject.session, found.name)}.",
            "Sync more often, or raise max_slot_wal_keep_size before the slot is lost."
            if found.wal_status == "unreserved"
            else "The next sync lets go of it; sync more often.",
            is_warning=True,
        )
    ages = server.rows(subject.session, _CATALOG_AGE, (found.name,))
    if any(age is not None and age > limit for age, limit in ages):
        age = ages[0][0]
        yield Finding(
            f"The replication slot {found.name} keeps VACUUM from removing catalogue rows of {age} transactions.",
            "Sync, or drop the slot if nobody uses it.",
            is_warning=True,
        )
