"""What fuzzing has found stays mended, and its targets would tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.errors import SettingsError
from pipelines.core.settings import load_settings
from pipelines.core.yaml_text import YamlError, load_yaml
from tests.fuzz import targets
from tests.fuzz.found import FOUND
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize(
    ("target", "data"),
    [pytest.param(target, data, id=f"{target}-{name}") for target, name, data in FOUND],
)
def test_what_was_found_stays_mended(target: str, data: bytes) -> None:
    """Read, or refused in words; no crash, no minute of work, no gigabyte."""
    TARGETS[target](data)


@pytest.mark.parametrize("target", list(TARGETS))
def test_every_seed_passes(target: str) -> None:
    """Fuzzing begins with inputs that raise nothing."""
    for seed in seeds(target):
        TARGETS[target](seed)


@pytest.mark.parametrize("target", ["settings", "golden", "contract"])
def test_a_target_tells_what_is_not_promised(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that raises something else is a find, not a refusal."""

    def broken(*_: object) -> object:
        raise KeyError("a bug")

    for name in ("load_settings", "inspect_golden", "read_contract"):
        monkeypatch.setattr(targets, name, broken)
    with pytest.raises(KeyError):
        TARGETS[target](b"\0version: 1")


def test_the_line_is_named_and_the_value_is_not(tmp_path: Path) -> None:
    """Someone has to find it; nobody has to read a password in a log."""
    path = tmp_path / "plumbline.yaml"
    path.write_text("index: docs\nkafka:\n  sasl_password: !!int pa55word\n")
    with pytest.raises(SettingsError, match=r"plumbline.yaml, line 3, column 18: .*int") as caught:
        load_settings(path)
    assert "pa55word" not in str(caught.value)


def test_anchors_are_good_yaml() -> None:
    """A file may say a thing once and refer to it."""
    assert load_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }


@pytest.mark.parametrize("levels", [60, 61])
def test_the_deepest(levels: int) -> None:
    """Sixty levels are read, one more is not."""
    text = "[" * levels + "1" + "]" * levels
    if levels == 60:
        assert load_yaml(text)
    else:
        with pytest.raises(YamlError, match="deeper than 60"):
            load_yaml(text)
