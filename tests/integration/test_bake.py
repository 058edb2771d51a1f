"""The image's model: once baked, it is found offline, with its revision and without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_model import make_tiny_model

SCRIPT = Path(__file__).parents[2] / "deploy" / "docker" / "bake.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIND = """
import sys
from pipelines.core.encoder.source import find_model
print(find_model(sys.argv[1]).revision)
"""


def run(hub: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A cache of the hub that holds one commit of a model, and not what is its newest."""
    model = make_tiny_model(tmp_path / "made")
    snapshot = tmp_path / "hub" / "hub" / "models--acme--tiny" / "snapshots" / COMMIT
    shutil.copytree(model, snapshot)
    return tmp_path / "hub"


def test_a_baked_model_is_found_offline_without_its_revision(hub: Path) -> None:
    """Settings that name no revision get the one in the image; before, they found nothing."""
    assert run(hub, "-c", FIND, "acme/tiny").returncode != 0

    done = run(hub, str(SCRIPT), "acme/tiny", COMMIT)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"acme/tiny at {COMMIT}: 32 dimensions"
    assert run(hub, "-c", FIND, "acme/tiny").stdout == f"{COMMIT}\n"


def test_a_model_that_cannot_be_had_fails_the_build(hub: Path) -> None:
    """An image without its model would only show when it starts."""
    done = run(hub, str(SCRIPT), "acme/other", "")
    assert done.returncode != 0
    assert "acme/other" in done.stderr
