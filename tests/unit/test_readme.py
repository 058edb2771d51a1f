"""The README says what is so: settings, reasons, metrics and commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from prometheus_client import CollectorRegistry

from pipelines.cli.app import app
from pipelines.core.errors import Reason
from pipelines.core.metrics import JobMetrics
from pipelines.core.settings import Settings, _all_paths, _section, load_settings

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text(encoding="utf-8")
CODE = set(re.findall(r"`([^`\n]+)`", TEXT))


def test_its_settings_file_is_valid(tmp_path: Path) -> None:
    """The settings shown to newcomers load as they stand."""
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "plumbline.yaml").write_text(block, encoding="utf-8")
    settings = load_settings(tmp_path / "plumbline.yaml")
    assert settings.kafka.topics == ["documents"]


def _keys() -> list[str]:
    # The keys of optional sections (hnsw, quantization, chunk) stand in their section's line.
    optional = {("qdrant", "hnsw"), ("qdrant", "quantization"), ("contract", "chunk")}
    keys = []
    for path in _all_paths(Settings):
        if path[:-1] in optional or (len(path) < 3 and path not in optional and _is_section(path)):
            continue
        keys.append(".".join(path))
    return keys


def _is_section(path: tuple[str, ...]) -> bool:
    model = Settings
    for name in path:
        section = _section(model, name)
        if section is None:
            return False
        model = section
    return True


@pytest.mark.parametrize("key", _keys())
def test_lists_every_setting(key: str) -> None:
    """A setting that nobody can find does not exist."""
    assert key in CODE


def test_names_no_setting_that_is_not_there() -> None:
    """A setting that was renamed or removed is no longer advertised."""
    sections = "|".join(name for name in Settings.model_fields if _is_section((name,)))
    named = {code for code in CODE if re.fullmatch(rf"(?:{sections})\.[a-z_.]+", code)}
    assert named <= {".".join(path) for path in _all_paths(Settings)}


@pytest.mark.parametrize("reason", list(Reason))
def test_lists_every_reason(reason: Reason) -> None:
    """Whoever sees a reason in a dashboard finds it in the README."""
    assert reason.value in CODE


def test_lists_exactly_the_metrics() -> None:
    """Every metric family is listed, and no other."""
    registry = CollectorRegistry()
    JobMetrics(registry)
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
    }
    assert {code for code in CODE if code.startswith("plumbline_")} == families


def test_shows_commands_and_options_that_exist() -> None:
    """Every command line shown names a command, and options that it has."""
    root = typer.main.get_command(app)
    lines = re.findall(r"^\$ plumbline (.+?)(?:\s+#.*)?$", TEXT, re.MULTILINE)
    assert lines
    for line in lines:
        command = root
        words = line.split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        # A group is no command, unless it does something by itself.
        assert getattr(command, "invoke_without_command", not hasattr(command, "commands")), line
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
