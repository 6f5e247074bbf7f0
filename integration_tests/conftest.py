"""Servers and databases for every integration test; a failed test shows the end of its servers' logs."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, ExternalServer, embedded

_CLUSTERS = ("source_cluster", "destination_cluster")


@pytest.fixture(scope="session")
def source_cluster() -> Iterator[Cluster | ExternalServer]:
    """PostgreSQL 16 (or PG_TEST_SOURCE_MAJOR), or the server of PG_TEST_DSN."""
    yield from _server(int(os.environ.get("PG_TEST_SOURCE_MAJOR", "16")))


@pytest.fixture(scope="session")
def destination_cluster() -> Iterator[Cluster | ExternalServer]:
    """PostgreSQL 18 (or PG_TEST_DESTINATION_MAJOR), or the server of PG_TEST_DSN."""
    yield from _server(int(os.environ.get("PG_TEST_DESTINATION_MAJOR", "18")))


@pytest.fixture
def source_db(source_cluster: Cluster | ExternalServer) -> Iterator[Database]:
    """A fresh database to read from."""
    yield from _database(source_cluster)


@pytest.fixture
def destination_db(destination_cluster: Cluster | ExternalServer) -> Iterator[Database]:
    """A fresh database to write to."""
    yield from _database(destination_cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for name in _CLUSTERS:
            server = getattr(item, "funcargs", {}).get(name)
            if server is not None:
                report.sections.append((f"{name} log", server.log_tail()))
    return report


def _server(major: int) -> Iterator[Cluster | ExternalServer]:
    dsn = os.environ.get("PG_TEST_DSN")
    if dsn:
        yield ExternalServer(dsn)
        return
    with Cluster(embedded(major)) as cluster:
        yield cluster


def _database(server: Cluster | ExternalServer) -> Iterator[Database]:
    # A test that left the server down must not take the next one with it.
    if isinstance(server, Cluster):
        server.start()
    with Database(server) as database:
        yield database
        if isinstance(server, Cluster):
            server.start()
