"""A continuous run: changes as they are committed, through everything that servers and networks do, to an end in order."""

from __future__ import annotations

import pytest

from integration_tests.source.reading import catalog_of, read
from integration_tests.source.staying import ended, sends, stay, stopped

_ALL = "select 'x' || i from generate_series(1, {}) i"


@pytest.fixture
def table(source_db):
    source_db.execute("create table t (id int primary key, v text)")
    source_db.execute("insert into t values (1, 'before')")
    return source_db


def test_changes_come_while_it_runs_and_sigterm_ends_it_in_order(table):
    catalog = catalog_of(table)
    with stay(table, catalog) as run:
        sends(run, 1)
        for key in (2, 3):
            table.execute("insert into t values (%s, 'while')", key)
            sends(run, key)
        outcome = stopped(run)
    assert [row["id"] for row in outcome.records()] == [1, 2, 3]
    # A sync that is started with the last state has nothing more to send.
    after = read(table, catalog, outcome)
    assert (after.exit_code, after.records()) == (0, [])


def test_it_ends_by_itself_after_max_run_seconds(table):
    with stay(table, catalog_of(table), max_run_seconds=1) as run:
        outcome = ended(run)
    assert len(outcome.records()) == 1
