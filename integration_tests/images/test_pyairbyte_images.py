"""PyAirbyte runs both images."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration_tests.images.containers import DESTINATION, SOURCE
from integration_tests.pyairbyte.test_pyairbyte import run_script
from integration_tests.source.reading import config
from integration_tests.support.databases import Database

pytestmark = [pytest.mark.images, pytest.mark.timeout(300)]


def test_source_to_destination_by_image(source_db: Database, destination_db: Database, tmp_path: Path):
    source_db.execute("create table users (id int primary key); insert into users values (1), (2)")
    given = {
        "source_config": config(source_db, state_type="stream"),
        "source": {"docker_image": SOURCE, "use_host_network": True},
        "destination_config": destination_db.config(schema="public"),
        "destination": {"docker_image": DESTINATION, "use_host_network": True},
        "streams": ["users"],
        "cached": False,
    }
    assert run_script(tmp_path, **given)["read"] == 2
    source_db.execute("insert into users values (3)")
    assert run_script(tmp_path, **given)["read"] == 1
    assert destination_db.rows("select id from users order by id") == [(1,), (2,), (3,)]
