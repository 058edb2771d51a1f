"""The runbook: a section for every alert, five parts each, and nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml

from deploy.alerting import Objectives, generated, load_objectives
from deploy.alerting.alerts import alerts_of
from deploy.alerting.known import check_expression, exported_metrics
from deploy.alerting.objectives import Alerts
from deploy.alerting.recording import recordings
from pipelines.cli.app import app
from pipelines.core.settings import Settings, _all_paths
from tests.support.pages import anchors

REPOSITORY = Path(__file__).parents[2]
RUNBOOK = REPOSITORY / "deploy" / "runbook.md"
ALERTS_PAGE = REPOSITORY / "docs" / "alerts.md"
TEXT = RUNBOOK.read_text("utf-8")
NAMES = sorted(Alerts.model_fields)
PARTS = (
    "What it means",
    "How sure it is",
    "How to check",
    "How to fix",
    "How to silence",
)
PAGES = (RUNBOOK, ALERTS_PAGE)


def sections() -> dict[str, str]:
    """Title of each section of the runbook to its text."""
    pieces = re.split(r"^## (.+)$", TEXT, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def test_every_alert_has_its_section_and_no_other() -> None:
    """In no order but their own; the anchor is the name in lower case."""
    assert sorted(sections()) == NAMES
    assert {name.lower() for name in NAMES} <= anchors(RUNBOOK)
    for alert in alerts_of(Objectives()):
        link = alert.to_yaml(Objectives())["annotations"]["runbook_url"]
        assert link.partition("#")[2] in anchors(RUNBOOK)


@pytest.mark.parametrize("name", NAMES)
def test_a_section_has_five_parts(name: str) -> None:
    """Each with something in it, commands to check by, and the silence of this very alert."""
    text = sections()[name]
    found = re.findall(r"^\*\*(How .+?|What .+?)\.\*\*", text, re.MULTILINE)
    assert tuple(found) == PARTS
    pieces = re.split(r"^\*\*(?:How .+?|What .+?)\.\*\*", text, flags=re.MULTILINE)[1:]
    assert all(len(piece.split()) >= 5 for piece in pieces)
    check, silence = pieces[2], pieces[4]
    assert "```console\n$ plumbline " in check
    assert "```promql\n" in check
    assert f"amtool silence add alertname={name} " in silence
    assert "--comment=" in silence


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every file is there, and every anchor in it."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def commands() -> list[str]:
    """Command lines of `plumbline` in both pages, in blocks and in the text."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        found += re.findall(r"^\$ plumbline (.+)$", text, re.MULTILINE)
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        found += [" ".join(one.split()) for one in re.findall(r"`plumbline\s+([^`]+)`", prose)]
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_commands_exist_with_their_flags(line: str) -> None:
    """Nobody reads at night that there is no such option."""
    command = typer.main.get_command(app)
    words = line.split()
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert getattr(command, "invoke_without_command", not hasattr(command, "commands")), line
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    # A word that is no flag is the value of one, or an argument that the command has.
    given = [
        word
        for number, word in enumerate(words)
        if not word.startswith("-") and (number == 0 or not words[number - 1].startswith("-"))
    ]
    takes = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    assert len(given) <= len(takes), line


@pytest.mark.parametrize("query", re.findall(r"```promql\n(.*?)\n```", TEXT, re.DOTALL))
def test_queries_name_what_exists(query: str) -> None:
    """Metrics, recording rules and labels."""
    recorded = [rule.name for rule in recordings(Objectives())]
    check_expression("the runbook", query, recorded, exported_metrics())


def test_settings_and_metrics_in_the_text_exist() -> None:
    """Whatever stands in code quotes and looks like one."""
    settings = {".".join(path) for path in _all_paths(Settings)}
    sections_of = "|".join(name for name in Settings.model_fields if f"{name}." in str(settings))
    known = {*exported_metrics(), *(rule.name for rule in recordings(Objectives()))}
    for page in PAGES:
        quoted = set(re.findall(r"`([^`\n]+)`", page.read_text("utf-8")))
        named = {
            code.split(":")[0] for code in quoted if re.match(rf"(?:{sections_of})\.[a-z_.]+", code)
        }
        assert {one for one in named if re.fullmatch(r"[a-z_.]+", one)} <= settings
        metrics = {code for code in quoted if re.fullmatch(r"plumbline[_:][\w:]+", code)}
        assert metrics <= known


def test_the_page_of_costs_lists_every_alert_once() -> None:
    """Each with how it is decided and what false alarms it has."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", ALERTS_PAGE.read_text("utf-8"), re.M)
    assert sorted(name for name, *_ in rows) == NAMES
    assert all(decided.strip() and false.strip() for _, decided, false in rows)


def test_the_example_of_own_objectives_is_valid(tmp_path: Path) -> None:
    """As it stands in the page."""
    (block,) = re.findall(r"```yml\n(.*?)```", ALERTS_PAGE.read_text("utf-8"), re.DOTALL)
    path = tmp_path / "my.yaml"
    path.write_text(block, encoding="utf-8")
    files = generated(load_objectives(path))
    receivers = yaml.safe_load(files["alertmanager/alertmanager.yml"])["receivers"]
    assert "pagerduty_configs" in receivers[0]
