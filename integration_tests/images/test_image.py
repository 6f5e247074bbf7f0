"""What an image promises to whoever runs it: labels, entry point, user, signals, commands; by the docker package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.models.containers import Container

from integration_tests.images.containers import DESTINATION, SOURCE, Folder
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until
from tools.images import CONNECTORS, version_of

pytestmark = pytest.mark.images

IMAGES = dict(zip(CONNECTORS, (SOURCE, DESTINATION), strict=True))


def messages(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def run(engine: DockerClient, image: str, folder: Folder, *command: str, **more: Any) -> list[dict[str, Any]]:
    mounted = {str(folder.path): {"bind": "/data", "mode": "ro"}}
    done = engine.containers.run(image, list(command), remove=True, network_mode="host", volumes=mounted, **more)
    return messages(done)


@pytest.mark.parametrize("connector", CONNECTORS)
def test_labels_entry_point_and_user(engine: DockerClient, connector: str):
    config = engine.images.get(IMAGES[connector]).attrs["Config"]
    labels = {key: value for key, value in config["Labels"].items() if key.startswith("io.airbyte.")}
    assert labels == {"io.airbyte.name": f"airbyte-pg/{connector}", "io.airbyte.version": version_of(connector)}
    assert config["User"] == "1000:1000"
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert environment["AIRBYTE_ENTRYPOINT"].split() == config["Entrypoint"]


@pytest.mark.parametrize("connector", CONNECTORS)
def test_the_platforms_entry_point_gives_the_spec_of_the_repository(engine: DockerClient, connector: str):
    started = engine.containers.run(
        IMAGES[connector], ["-c", "$AIRBYTE_ENTRYPOINT spec"], entrypoint="sh", remove=True, network_mode="none"
    )
    package = Path(__file__).parents[2] / connector / connector.replace("-", "_")
    assert [message["spec"] for message in messages(started)] == [json.loads((package / "spec.json").read_text())]


@pytest.mark.parametrize("user", ["1000:1000", "65534:65534", "0:0"])
def test_check_and_discover_whatever_the_user_and_with_nothing_to_write_to(
    engine: DockerClient, folder: Folder, user: str
):
    options: dict[str, Any] = {"user": user, "read_only": True}
    for image, file in ((SOURCE, "source.json"), (DESTINATION, "destination.json")):
        (checked,) = [
            message
            for message in run(engine, image, folder, "check", "--config", f"/data/{file}", **options)
            if message["type"] == "CONNECTION_STATUS"
        ]
        assert checked["connectionStatus"]["status"] == "SUCCEEDED", checked
    found = run(engine, SOURCE, folder, "discover", "--config", "/data/source.json", **options)
    streams = [message["catalog"]["streams"] for message in found if message["type"] == "CATALOG"]
    assert [stream["name"] for (*_, stream) in streams] == ["users"]


def test_a_stop_reaches_the_connector(
    engine: DockerClient, folder: Folder, destination_db: Database, source_db: Database
):
    assert (
        folder.shell(
            f"docker run --rm --network host --volume {folder.path}:/data {SOURCE} discover --config /data/source.json"
            " | airbyte-pg configure > catalog.json"
        ).returncode
        == 0
    )
    waiting: Container = engine.containers.run(
        DESTINATION,
        ["write", "--config", "/data/destination.json", "--catalog", "/data/catalog.json"],
        detach=True,
        stdin_open=True,
        network_mode="host",
        volumes={str(folder.path): {"bind": "/data", "mode": "ro"}},
    )
    try:
        there = "select count(*) from pg_stat_activity where application_name = 'destination-postgres'"
        wait_until(lambda: destination_db.value(there), 60, "the destination is at work")
        waiting.kill("SIGTERM")
        assert waiting.wait(timeout=60)["StatusCode"] == 143
    finally:
        waiting.remove(force=True)
