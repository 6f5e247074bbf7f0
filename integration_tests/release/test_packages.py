"""What a release consists of can be built, is complete, and works in a clean environment."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tools.images import CONNECTORS, ROOT

pytestmark = pytest.mark.timeout(300)


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_wheels_made_of_sdists_install_and_run(tmp_path: Path):
    dist = tmp_path / "dist"
    # A copy, since setuptools writes beside its input; of what is in git, since only that is released.
    run("git", "-C", ROOT, "checkout-index", "--all", f"--prefix={tmp_path}/tree/")
    for project in ("shared", *CONNECTORS):
        # The wheel is made of the sdist, so the sdist lacks nothing.
        run(sys.executable, "-m", "build", "--outdir", dist, tmp_path / "tree" / project)
    for sdist in dist.glob("*.tar.gz"):
        with tarfile.open(sdist) as archive:
            assert any(name.endswith("/py.typed") for name in archive.getnames()), sdist
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    wheels = sorted(dist.glob("*.whl"))
    assert len(wheels) == 3
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python")
    run(*pip, environment / "bin" / "python", "install", *wheels)
    for connector in CONNECTORS:
        (message,) = run(environment / "bin" / connector, "spec").splitlines()
        package = ROOT / connector / connector.replace("-", "_")
        assert json.loads(message)["spec"] == json.loads((package / "spec.json").read_text())
    assert "sync" in run(environment / "bin" / "airbyte-pg", "--help")
