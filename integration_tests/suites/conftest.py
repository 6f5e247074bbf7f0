"""A server that containers reach, too, and secrets/config.json in a connector's folder, as the suites expect it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration_tests.source.reading import config
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded
from tools.images import REPOSITORY, version_of

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gateway() -> str:
    """This machine's address as containers see it; empty without a Docker engine."""
    if shutil.which("docker") is None:
        return ""
    shown = "{{(index .IPAM.Config 0).Gateway}}"
    command = ["docker", "network", "inspect", "bridge", "--format", shown]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@pytest.fixture(scope="module")
def server(gateway: str) -> Iterator[Cluster]:
    with Cluster(embedded(16), also_listens=gateway) as cluster:
        with (cluster.home / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")
        cluster.restart()
        yield cluster


@pytest.fixture(autouse=True)
def secrets(request: pytest.FixtureRequest, server: Cluster, gateway: str) -> Iterator[None]:
    """Two configurations, one that works and one with a wrong password; gone after the test."""
    folder = _ROOT / request.cls.connector_name / "secrets"
    folder.mkdir()
    try:
        with Database(server) as database:
            database.execute("create table users (id int primary key, name text, born date, tags text[])")
            database.execute("insert into users values (1, 'Ada', '1815-12-10', '{a,b}'), (2, null, null, null)")
            working = (
                config(database, state_type="stream")
                if request.cls.connector_name.startswith("source-")
                else database.config(schema="public")
            )
            if request.node.get_closest_marker("image_tests"):
                working["host"] = gateway
            (folder / "config.json").write_text(json.dumps(working))
            (folder / "invalid_config.json").write_text(json.dumps({**working, "password": "another"}))
            yield
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def connector_image_override(request: pytest.FixtureRequest) -> str:
    """The image that `make images` has built, instead of one that the CDK builds."""
    connector = request.cls.connector_name
    return f"{REPOSITORY}/{connector}:{version_of(connector)}"


@pytest.fixture
def connector_base_image_override() -> None:
    """None: nothing is built here."""


@pytest.fixture
def read_from_streams() -> str:
    """Every stream is read."""
    return "all"


@pytest.fixture
def read_scenarios() -> str:
    """With every configuration."""
    return "all"
