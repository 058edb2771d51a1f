"""`promtool test rules` on the committed rules and a world."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.alerting.alerts import groups_of
from deploy.alerting.objectives import Objectives
from tests.rules.world import STEP, World
from tests.support.processes import REPOSITORY, servers_dir

__all__ = ["PROMTOOL", "Expected", "alert_names", "check_alerts", "fired"]

PROMTOOL = servers_dir() / "prometheus" / "usr" / "bin" / "promtool"
RULES = tuple(
    REPOSITORY / "deploy" / "prometheus" / f"plumbline.{kind}.yml" for kind in ("rules", "alerts")
)

_ORDER = ["plumbline", *groups_of(Objectives())]


@dataclass(frozen=True)
class Expected:
    """What one alert must look like at a moment: nothing, or these labels and annotations."""

    alert: str
    seconds: float
    firing: Sequence[tuple[Mapping[str, str], Mapping[str, str]]] = field(default_factory=tuple)


def check_alerts(folder: Path, world: World, expected: Sequence[Expected]) -> str:
    """What promtool objects to; empty where every alert is as expected."""
    tests = [
        {
            "alertname": one.alert,
            "eval_time": f"{one.seconds:g}s",
            "exp_alerts": [
                {"exp_labels": dict(labels), "exp_annotations": dict(annotations)}
                for labels, annotations in one.firing
            ],
        }
        for one in expected
    ]
    return _run(folder, world, {"alert_rule_test": tests})


def fired(folder: Path, world: World, *, but: Sequence[str] = ()) -> set[str]:
    """Names of the alerts that fired at some time in a world, those in `but` left out."""
    minutes = round(world.minutes)
    left_out = f', alertname!~"{"|".join(but)}"' if but else ""
    expression = (
        "count by (alertname) "
        f'(count_over_time(ALERTS{{alertstate="firing"{left_out}}}[{minutes + 5}m]))'
    )
    question = {"expr": expression, "eval_time": f"{minutes}m", "exp_samples": []}
    answer = _run(folder, world, {"promql_expr_test": [question]})
    found = alert_names(answer)
    assert bool(answer) == bool(found), answer
    return found


def alert_names(answer: str) -> set[str]:
    """Names of alerts in what promtool says."""
    return set(re.findall(r'alertname="(\w+)"', answer))


def _run(folder: Path, world: World, questions: Mapping[str, Any]) -> str:
    content = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": f"{STEP}s",
        "group_eval_order": _ORDER,
        "tests": [{"interval": f"{STEP}s", "input_series": world.input_series(), **questions}],
    }
    # JSON is YAML.
    file = folder / "test.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(file)],
        capture_output=True,
        text=True,
        timeout=240,
        env={"GOMAXPROCS": "1"},
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
