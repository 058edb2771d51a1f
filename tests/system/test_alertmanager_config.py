"""The committed Alertmanager configuration, judged by amtool."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from deploy.alerting import Objectives
from deploy.alerting.alerts import alerts_of
from deploy.alerting.inhibitions import INHIBITIONS
from tests.conftest import require
from tests.support.alertmanager_server import INSTALL_HINT, alertmanager_available, amtool
from tests.support.processes import REPOSITORY
from tests.support.prometheus_tools import INSTALL_HINT as PROMETHEUS_HINT
from tests.support.prometheus_tools import check_files, prometheus_available

CONFIG = REPOSITORY / "deploy" / "alertmanager" / "alertmanager.yml"
PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
CONTENT = yaml.safe_load(CONFIG.read_text("utf-8"))


@pytest.fixture(autouse=True)
def tools() -> None:
    """amtool is there."""
    require(alertmanager_available(), INSTALL_HINT)


def test_prometheus_accepts_its_files() -> None:
    """Rules and configuration, by promtool."""
    require(prometheus_available(), PROMETHEUS_HINT)
    assert check_files(PROMETHEUS) == ""


def test_alertmanager_accepts_its_file(tmp_path: Path) -> None:
    """And objects to one that is not."""
    done = amtool("check-config", str(CONFIG))
    assert done.returncode == 0, done.stderr
    assert f"{len(CONTENT['inhibit_rules'])} inhibit rules" in done.stdout
    broken = tmp_path / "broken.yml"
    broken.write_text(CONFIG.read_text("utf-8").replace("group_wait: 10s", "group_wait: soon"))
    assert amtool("check-config", str(broken)).returncode != 0


@pytest.mark.parametrize("alert", alerts_of(Objectives()), ids=lambda alert: alert.name)
def test_each_alert_goes_to_the_receiver_of_its_severity(alert) -> None:
    """By the labels that its rule gives it."""
    labels = alert.to_yaml(Objectives())["labels"]
    given = [f"{name}={value}" for name, value in labels.items()]
    done = amtool(
        "config",
        "routes",
        "test",
        f"--config.file={CONFIG}",
        f"alertname={alert.name}",
        "index=docs",
        *given,
    )
    assert (done.returncode, done.stdout.strip()) == (0, labels["severity"]), done.stderr


def test_what_has_no_severity_is_told_all_the_same() -> None:
    """An alert of somebody else's that comes here does not vanish."""
    done = amtool("config", "routes", "test", f"--config.file={CONFIG}", "alertname=Other")
    assert done.stdout.strip() == "warning"


def test_every_inhibition_is_in_the_file_with_its_reason() -> None:
    """Source, targets, and the index that must be the same."""
    text = CONFIG.read_text("utf-8")
    rules = CONTENT["inhibit_rules"]
    assert len(rules) == len(INHIBITIONS)
    for rule, one in zip(rules, INHIBITIONS, strict=True):
        assert f'alertname="{one.source.split(" ")[0]}"' in rule["source_matchers"]
        (names,) = [m for m in rule["target_matchers"] if m.startswith("alertname=~")]
        wanted = {target.split(" ")[0] for target in one.targets}
        assert set(re.findall(r"Plumbline\w+", names)) == wanted
        assert "index" in rule["equal"]
        assert one.why in text
