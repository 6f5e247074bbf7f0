"""Whether every place that says a version says the same: each pyproject.toml, its CHANGELOG, metadata.yaml."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import yaml

from tools.images import CONNECTORS, REPOSITORY, ROOT, default_base, version_of


def main() -> int:
    """Returns 1 when there are differences, and names them."""
    problems = list(differences())
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


def differences() -> Iterator[str]:
    """What differs, a sentence each."""
    shared = version_of("shared")
    yield from _changelog("CHANGELOG.md", f"airbyte-pg {shared}")
    for connector in CONNECTORS:
        version = version_of(connector)
        if version != shared:
            yield f"{connector} has version {version}, shared has {shared}: they are released together"
        if f'"airbyte-pg=={shared}"' not in (ROOT / connector / "pyproject.toml").read_text():
            yield f"{connector}/pyproject.toml must depend on airbyte-pg=={shared}"
        yield from _changelog(f"{connector}/CHANGELOG.md", version)
        yield from _metadata(connector, version)


def _changelog(path: str, heading: str) -> Iterator[str]:
    if not re.search(rf"^## {re.escape(heading)}$", (ROOT / path).read_text(), re.MULTILINE):
        yield f"{path} has no heading `## {heading}`"


def _metadata(connector: str, version: str) -> Iterator[str]:
    data = yaml.safe_load((ROOT / connector / "metadata.yaml").read_text())["data"]
    expected = {"dockerImageTag": version, "dockerRepository": f"{REPOSITORY}/{connector}"}
    for key, value in expected.items():
        if data[key] != value:
            yield f"{connector}/metadata.yaml: {key} is {data[key]}, must be {value}"
    if data["connectorBuildOptions"]["baseImage"] != default_base():
        yield f"{connector}/metadata.yaml: baseImage is not the Dockerfile's"


if __name__ == "__main__":
    sys.exit(main())
