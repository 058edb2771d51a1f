"""What the image installs is whole: built as its Dockerfile builds it, from what that copies."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.dockerfile import read_stages

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PROGRAM = """
import sys, pathlib, pipelines
assert pathlib.Path(pipelines.__file__).is_relative_to(pathlib.Path.cwd())
from pipelines.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the stage `wheel`, with this environment's setuptools."""
    _, stages = read_stages(ROOT / "deploy" / "docker" / "Dockerfile")
    by_name = {stage.name: stage for stage in stages}
    stage = by_name["wheel"]
    folder = tmp_path_factory.mktemp("context")
    for copy in [*by_name[stage.image].copies, *stage.copies]:
        for source in copy.sources:
            target = folder / (copy.target if copy.target != "./" else source)
            if (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
                )
            else:
                shutil.copy(ROOT / source, target)
    (build,) = stage.all("RUN")
    words = re.sub(r"--mount=\S+", "", build).split()
    assert words[0] == "uv"
    out = tmp_path_factory.mktemp("wheel")
    command = [str(BIN / "uv"), *words[1:]]
    command[command.index("/wheel")] = str(out)
    subprocess.run([*command, "--offline", "--python", sys.executable], cwd=folder, check=True)
    (built,) = out.glob("*.whl")
    return built


def test_every_module_is_in_it(wheel: Path) -> None:
    """Also those that nothing imports before a database is migrated."""
    wanted = {
        str(path.relative_to(ROOT))
        for package in ("pipelines", "monitors")
        for path in (ROOT / package).rglob("*.py")
    }
    files = set(zipfile.ZipFile(wheel).namelist())
    assert wanted - files == set()
    assert {name for name in files if name.endswith(".py")} == wanted


def test_its_command_runs_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    """Unpacked alone, `plumbline --help` names every group of commands."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    for command in ("ingest", "monitor", "rollout", "search"):
        assert command in done.stdout
