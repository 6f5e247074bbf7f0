"""The images as their users meet them: a folder with the files, mounted at /data, and docker's own command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from integration_tests.source.reading import config
from integration_tests.support.databases import Database
from tools.images import CONNECTORS, REPOSITORY, version_of

SOURCE, DESTINATION = (f"{REPOSITORY}/{connector}:{version_of(connector)}" for connector in CONNECTORS)
DEADLINE_S = 120.0


class Folder:
    """What the README's pipe finds in the current directory: source.json, destination.json, and what comes of them."""

    def __init__(self, path: Path, source: Database, destination: Database) -> None:
        self.path = path
        # The container's user is another than ours.
        path.chmod(0o755)
        self.write("source.json", config(source))
        self.write("destination.json", destination.config(schema="public"))

    def write(self, name: str, document: Any) -> None:
        """Write a JSON file that everybody may read."""
        (self.path / name).write_text(json.dumps(document))

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell's command line here, as the README gives it."""
        with self.start(command, stderr=subprocess.PIPE) as process:
            try:
                said, errors = process.communicate(timeout=DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, said, errors)

    def start(self, command: str, stderr: int = subprocess.STDOUT) -> subprocess.Popen[str]:
        """Start a shell's command line here."""
        return subprocess.Popen(
            ["bash", "-c", "set -o pipefail\n" + command],
            cwd=self.path,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The messages in a file of lines."""
        return [json.loads(line) for line in (self.path / name).read_text().splitlines()]


def readme(under: str) -> list[str]:
    """The blocks of commands in the README under the heading ``under``."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    section = text.partition(f"## {under}\n")[2].partition("\n## ")[0]
    blocks, current = list[str](), list[str]()
    for line in [*section.splitlines(), "end"]:
        if line.startswith("    ") or (current and not line):
            current.append(line[4:])
        elif current:
            blocks.append("\n".join(current).strip())
            current = []
    return blocks
