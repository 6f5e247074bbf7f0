"""Connectors as containers: the same commands, by ``docker run``, with the same files at the same places."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from airbyte_pg.errors import ConfigError

REPOSITORY = "airbyte-pg"

_FILES = ("--config", "--catalog", "--state")
# What a connector looks for in its environment.
_PASSED_ON = ("DEPLOYMENT_MODE",)
_REMOVAL_TIMEOUT_S = 30.0


def command(
    image: str,
    name: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    follows_state: bool = False,
) -> list[str]:
    """The ``docker run`` that calls ``image`` with a connector's ``arguments``; the container is called ``name``.
    With ``follows_state`` it sees the state file that is put in the place of the one that it was started with.

    On this machine's network (localhost in a configuration is this machine), as this user (who may read the files),
    without a log (the engine would write down every record). Signals are passed on by the docker client.
    """
    options = [
        "--rm",
        "--interactive",
        f"--name={name}",
        "--network=host",
        "--log-driver=none",
        f"--user={os.getuid()}:{os.getgid()}",
    ]
    given = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    options += [f"--env={key}={value}" for key, value in {**given, **environment}.items()]
    placed = list(arguments)
    for index, argument in enumerate(arguments):
        if argument in _FILES:
            file = Path(arguments[index + 1]).resolve()
            placed[index + 1] = str(file)
            # A mounted file stays the one that it was; in a mounted folder the new one is seen.
            seen = file.parent if follows_state and argument == "--state" else file
            options.append(f"--mount=type=bind,readonly,source={seen},target={seen}")
    return ["docker", "run", *options, image, *placed]


def name_of(state: Path, side: str) -> str:
    """The container's name: one for each state file, of which only one sync runs at a time."""
    return f"airbyte-pg-{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:12]}-{side}"


@contextlib.contextmanager
def none_left(names: Sequence[str]) -> Iterator[None]:
    """Remove containers of these names before and behind: a killed docker client leaves its container running."""
    _remove(names)
    try:
        yield
    finally:
        _remove(names)


def _remove(names: Sequence[str]) -> None:
    try:
        # What it says is that there are none of these names; an engine that does not answer says so to `docker run`.
        subprocess.run(
            ["docker", "rm", "--force", *names],
            capture_output=True,
            check=False,
            timeout=_REMOVAL_TIMEOUT_S,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"The command docker cannot be started: {error.strerror}.") from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError("The Docker engine does not answer.") from error
