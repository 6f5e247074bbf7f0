"""Run a command with a Docker engine, and with the images' base in it.

    python -m tools.engine COMMAND [ARGUMENT...]

The engine is the one that answers. Where none does (Debian, root), Debian's docker.io is installed where it is missing
and its dockerd is started for the command, with its data in .engine/, and ended with it. Where the base image is not
there and no registry can be reached, it is made with debootstrap: Debian bookworm with Python, under the base's name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tools.images import default_base

DATA = Path(__file__).resolve().parent.parent / ".engine"
START_DEADLINE_S = 60.0
PULL_DEADLINE_S = 120.0
PACKAGES = "python3,python3-venv,ca-certificates"


def main() -> int:
    """The command's exit code, or 1 with a message when there is no engine or no base."""
    if not sys.argv[1:]:
        print(__doc__)
        return 2
    try:
        with engine():
            have_base(default_base())
            return subprocess.run(sys.argv[1:], check=False).returncode
    except (EngineError, subprocess.CalledProcessError) as error:
        print(f"tools/engine.py: {error}", file=sys.stderr)
        return 1


class EngineError(Exception):
    """There is no engine, or no base, and this says why."""


@contextlib.contextmanager
def engine() -> Iterator[None]:
    """Inside, ``docker`` (its environment is ours) reaches an engine."""
    if answers():
        yield
        return
    have_programs("docker.io", "dockerd", "docker")
    # A service manager may have started it with the package.
    if answers():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        os.environ["DOCKER_HOST"] = f"unix://{folder}/docker.sock"
        process = start(Path(folder))
        try:
            wait_for(process, Path(folder) / "log")
            yield
        finally:
            process.terminate()
            process.wait()
            for left in (Path(folder) / "exec" / "netns").glob("*"):
                # The namespace of containers on this machine's network: dockerd leaves it mounted.
                subprocess.run(["umount", "--lazy", str(left)], capture_output=True, check=False)


def answers() -> bool:
    """Whether an engine answers ``docker``."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0


def have_programs(package: str, *programs: str) -> None:
    """Install Debian's ``package`` where one of ``programs`` is missing. Raises EngineError where that cannot be."""
    if all(map(shutil.which, programs)):
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise EngineError(f"no Docker engine answers, and Debian's {package} can only be installed by root on Debian")
    print(f"Installing Debian's {package} (once)")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", package]):
        done = subprocess.run(["apt-get", "--quiet", *command], env=environment, capture_output=True, check=False)
        if done.returncode:
            raise EngineError(f"apt-get {command[0]} failed:\n{done.stderr.decode(errors='replace')}")


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start dockerd without firewall rules: containers need this machine, not the internet."""
    if os.geteuid() != 0:
        raise EngineError("no Docker engine answers, and only root can start one")
    places = {"--data-root": DATA, "--exec-root": folder / "exec", "--pidfile": folder / "pid"}
    command = ["dockerd", f"--host={os.environ['DOCKER_HOST']}", "--iptables=false", "--ip6tables=false"]
    command += [f"{option}={place}" for option, place in places.items()]
    with (folder / "log").open("wb") as log:
        # A session of its own: Ctrl-C is for us, who then end it.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def wait_for(process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when dockerd answers. Raises EngineError, with the end of its log, when it ends or does not in time."""
    deadline = time.monotonic() + START_DEADLINE_S
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-3000:]
            raise EngineError(f"dockerd cannot run on this machine:\n{said}")
        time.sleep(0.1)


def have_base(base: str) -> None:
    """Make sure that the engine has the image ``base``: there, pulled, or made."""
    if has(base) or pulled(base):
        return
    if os.geteuid() != 0:
        raise EngineError(f"{base} cannot be pulled, and only root can make one with debootstrap")
    have_programs("debootstrap", "debootstrap")
    print(f"No registry can be reached: making {base} of Debian bookworm (once, a minute or two)")
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        root = Path(folder) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EngineError(f"debootstrap failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        for archive in (root / "var/cache/apt/archives").glob("*.deb"):
            archive.unlink()
        packing = subprocess.Popen(["tar", "--directory", str(root), "--create", "."], stdout=subprocess.PIPE)
        subprocess.run(["docker", "import", "-", base], stdin=packing.stdout, stdout=subprocess.DEVNULL, check=True)
        if packing.wait():
            raise EngineError("the base could not be packed")


def has(image: str) -> bool:
    """Whether the engine has ``image``."""
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


def pulled(image: str) -> bool:
    """Pull ``image``; false where no registry answers in time."""
    try:
        done = subprocess.run(["docker", "pull", image], capture_output=True, check=False, timeout=PULL_DEADLINE_S)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
