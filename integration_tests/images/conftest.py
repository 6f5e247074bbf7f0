"""A small shop in the source's database and the folder of a user who runs the images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker import DockerClient

from integration_tests.images.containers import Folder
from integration_tests.support.databases import Database


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """The engine, by its Python package."""
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, source_db: Database, destination_db: Database) -> Folder:
    """Configurations of two databases; the source's has a table with 3 rows."""
    source_db.execute("create table users (id int primary key, name text)")
    source_db.execute("insert into users values (1, 'Ada'), (2, 'Grace'), (3, 'Edsger')")
    path = tmp_path_factory.mktemp("data")
    for parent in (path, *path.parents):
        if parent == Path("/tmp"):  # noqa: S108 - what is above is not ours
            break
        parent.chmod(0o755)
    return Folder(path, source_db, destination_db)
