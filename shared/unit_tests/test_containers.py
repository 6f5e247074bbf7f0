"""The ``docker run`` that a connector is called by."""

from __future__ import annotations

from pathlib import Path

from airbyte_pg import containers


def mounts(folder: Path, *, follows_state: bool) -> list[str]:
    arguments = ["read", "--config", str(folder / "c.json"), "--state", str(folder / "states" / "s.json")]
    command = containers.command("image", "name", arguments, {"A": "1"}, follows_state=follows_state)
    assert command[-5:] == ["image", *arguments][-5:]
    assert "--env=A=1" in command
    return [option.partition(",target=")[2] for option in command if option.startswith("--mount")]


def test_files_are_at_their_places_and_a_state_that_is_followed_in_its_folder(tmp_path: Path):
    config, states = tmp_path / "c.json", tmp_path / "states"
    assert mounts(tmp_path, follows_state=False) == [str(config), str(states / "s.json")]
    # A file that is put in the place of a mounted one is not seen inside.
    assert mounts(tmp_path, follows_state=True) == [str(config), str(states)]
