"""Build both connectors' images: airbyte-pg/<connector>:<version>, and :latest.

What the images install is fetched by pip here, with this machine's settings (index, certificates), as wheels for the
base image's Python: building needs no network. Wants a Docker engine: see tools/engine.py.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "build" / "wheels"
CONNECTORS = ("source-postgres-cdc", "destination-postgres")
REPOSITORY = "airbyte-pg"
# Every glibc that a base image may have has at least one of these; pip takes the names one by one.
GLIBC = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_26", "manylinux_2_28")


def main() -> None:
    """Fetch the wheels, build, name the images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default=default_base(), help="the base image (%(default)s)")
    base = parser.parse_args().base
    fetch_wheels(python_of(base))
    for connector in CONNECTORS:
        print(build(connector, base))


def default_base() -> str:
    """The base image that the Dockerfiles name."""
    dockerfile = (ROOT / CONNECTORS[0] / "Dockerfile").read_text()
    return str(re.findall(r"^ARG BASE_IMAGE=(\S+)$", dockerfile, re.MULTILINE)[0])


def version_of(project: str) -> str:
    """The version that the project's pyproject.toml gives."""
    pyproject = (ROOT / project / "pyproject.toml").read_text()
    return str(re.findall(r'^version = "([^"]+)"$', pyproject, re.MULTILINE)[0])


def python_of(base: str) -> str:
    """The version of Python in an image, as pip writes it: 3.11."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    command = ["docker", "run", "--rm", "--entrypoint", "python3", base, "-c", program]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def fetch_wheels(python: str) -> None:
    """Put everything that the connectors need, and what builds them, into build/wheels."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    needed = ["setuptools>=77"]
    pyproject = (ROOT / "shared" / "pyproject.toml").read_text()
    needed += re.findall(r'^    "([^"]+)",$', pyproject, re.MULTILINE)
    platforms = [f"--platform={glibc}_{platform.machine()}" for glibc in GLIBC]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", f"--python-version={python}", *platforms, f"--dest={WHEELS}"]
    subprocess.run([*command, *needed], check=True)


def build(connector: str, base: str) -> str:
    """Build one image and return its name."""
    name = f"{REPOSITORY}/{connector}"
    version = version_of(connector)
    arguments = {"BASE_IMAGE": base, "VERSION": version, "PIP_NO_INDEX": "1"}
    command = ["docker", "build", "--quiet", f"--file={connector}/Dockerfile"]
    command += [f"--build-arg={key}={value}" for key, value in arguments.items()]
    command += [f"--tag={name}:{version}", f"--tag={name}:latest", "."]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return f"{name}:{version}"


if __name__ == "__main__":
    main()
