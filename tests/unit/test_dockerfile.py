"""The image: what it is built from exists, what it runs is ours, and no layer has a secret."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipelines.core.settings import ENV_PREFIX, Settings, _all_paths, load_settings
from tests.support.dockerfile import Stage, ignored, read_stages

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "docker" / "Dockerfile"
ARGUMENTS, STAGES = read_stages(FILE)
BY_NAME = {stage.name: stage for stage in STAGES}
IMAGE = BY_NAME["plumbline"]
RULES = [
    line
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
BIN = Path(sys.executable).parent


def _tracked() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_hadolint_has_nothing_to_say() -> None:
    """The linter passes; what it must not say is marked in the file with the reason."""
    done = subprocess.run([BIN / "hadolint", FILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    text = FILE.read_text(encoding="utf-8")
    for mark in re.finditer(r"(.*)\n# hadolint ignore=", text):
        assert mark.group(1).startswith("# ")


def test_the_linter_is_awake(tmp_path: Path) -> None:
    """It finds a base image without a tag."""
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\n")
    done = subprocess.run([BIN / "hadolint", bad], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DL3006" in done.stdout


def test_the_base_is_pinned_by_digest() -> None:
    """The same base image, whenever it is built, of the Python that the tests run on."""
    image = ARGUMENTS["PYTHON_IMAGE"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", image)
    outside = {stage.image for stage in STAGES if stage.image not in BY_NAME}
    assert outside == {"${PYTHON_IMAGE}", "dependencies-${VARIANT}"}
    assert {"dependencies-cpu", "dependencies-cuda"} <= set(BY_NAME)
    assert ARGUMENTS["VARIANT"] == "cpu"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_what_is_copied_exists(stage: Stage) -> None:
    """Sources are in the repository and in the context; other stages are defined above."""
    above = [one.name for one in STAGES[: STAGES.index(stage)]]
    for copy in stage.copies:
        if copy.stage is not None:
            assert copy.stage in above
            continue
        for source in copy.sources:
            assert (ROOT / source).exists()
            files = [path for path in _tracked() if path == source or path.startswith(f"{source}/")]
            assert files, f"{source} is not in the repository"
            left_out = [path for path in files if ignored(path, RULES)]
            assert left_out == []
    for rest in stage.all("RUN"):
        assert set(re.findall(r"--mount=type=bind,from=(\w+)", rest)) <= set(above)


def test_the_context_holds_nothing_else() -> None:
    """Data, keys, the virtual environment and the history stay out of the builder."""
    copied = {
        source
        for stage in STAGES
        for copy in stage.copies
        if copy.stage is None
        for source in copy.sources
    }
    kept = {rule[1:] for rule in RULES if rule.startswith("!")}
    assert kept == copied
    outside = (".venv/bin/python", ".git/config", "deploy/secrets/qdrant_api_key", "tests/a.py")
    for path in (*outside, "pipelines/__pycache__/a.pyc", "plumbline-up/qdrant/settings.json"):
        assert ignored(path, RULES)
    assert RULES[0] == "*"


def test_what_runs_is_not_root_and_cannot_change_itself() -> None:
    """A numeric user, to whom neither program nor environment belongs."""
    assert IMAGE.last("USER") == "10001:10001"
    owned = [copy.target for copy in IMAGE.copies if any("chown" in flag for flag in copy.flags)]
    assert owned == ["/models"]
    after_user = IMAGE.lines[[name for name, _ in IMAGE.lines].index("USER") :]
    assert {name for name, _ in after_user} <= {
        "USER",
        "EXPOSE",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }


def test_no_secret_comes_into_a_layer() -> None:
    """No argument and no variable is one, and the hub's token is a mount of its one command."""
    secret = re.compile(r"token|password|secret|api_?key|credential", re.IGNORECASE)
    for stage in STAGES:
        assert not [
            name for name in {**stage.arguments, **stage.environment} if secret.search(name)
        ]
        for rest in stage.all("RUN"):
            words = re.sub(r"--mount=type=secret,id=hf_token,env=HF_TOKEN", "", rest)
            assert not secret.search(words)
        assert stage.all("ADD") == []
    assert not [name for name in ARGUMENTS if secret.search(name)]


def test_its_environment_is_made_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable of ours is a setting, and together they load."""
    ours = {k: v for k, v in IMAGE.environment.items() if k.startswith(ENV_PREFIX)}
    known = {f"{ENV_PREFIX}{'__'.join(path).upper()}" for path in _all_paths(Settings)}
    assert set(ours) <= known
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.metrics.host, settings.monitor.host) == ("0.0.0.0", "0.0.0.0")
    assert settings.log_format == "json"


def test_it_exposes_the_default_ports() -> None:
    """Of the job's metrics, the monitor and a rollout's build."""
    settings = load_settings()
    wanted = (settings.metrics.port, settings.monitor.port, settings.rollout.metrics_port)
    assert IMAGE.last("EXPOSE").split() == [str(port) for port in wanted]


def test_it_runs_the_command_that_the_package_installs() -> None:
    """The entry point is a script of the project, and the health check one that is copied in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (program,) = IMAGE.command("ENTRYPOINT")
    assert program in project["scripts"]
    assert IMAGE.command("CMD") == ["--help"]
    (check,) = IMAGE.command("HEALTHCHECK")
    targets = {copy.target: copy for copy in IMAGE.copies}
    assert targets[f"/usr/local/bin/{check}"].sources == ("deploy/docker/healthy.py",)
    assert (ROOT / "deploy/docker/healthy.py").read_text().startswith("#!/usr/local/bin/python3\n")


def test_the_tools_and_extras_that_it_names_are_there() -> None:
    """uv and setuptools are in the lock, extras in the project, and uv has the options."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert len(re.findall(r"^(?:uv|setuptools)==\S+", lock, re.MULTILINE)) == 2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runs = [rest for stage in STAGES for rest in stage.all("RUN")]
    extras = {word for rest in runs for word in re.findall(r"--extra (\S+)", rest)}
    assert extras == {"postgres"}
    assert extras <= set(project["optional-dependencies"])
    for command in ("pip install", "build"):
        done = subprocess.run(
            [BIN / "uv", *command.split(), "--help"], capture_output=True, text=True, check=True
        )
        used = {
            option
            for rest in runs
            for words in re.findall(rf"(?<!-m )\buv {command}\b([^&]*)", rest)
            for option in re.findall(r"(--[a-z-]+)", words)
        }
        assert used
        assert {option for option in used if option not in done.stdout} == set()


def test_every_package_that_it_needs_is_pinned() -> None:
    """What `pip install plumbline[postgres]` asks for is in the lock that constrains the image."""
    lock = {
        re.split(r"[=\[ ]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["postgres"]]
    names = {re.split(r"[\[><=~! ;]", text)[0].lower().replace("_", "-") for text in wanted}
    assert names <= lock
