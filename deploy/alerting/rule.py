"""One rule, as data: a recording, or an alert with its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deploy.alerting.durations import format_duration
from deploy.alerting.objectives import Objectives

__all__ = ["Alert", "Component", "Dashboard", "Recording"]

Component = Literal["search", "ingest", "monitor", "rollout"]

Dashboard = Literal[
    "plumbline-overview",
    "plumbline-ingest",
    "plumbline-quality",
    "plumbline-rollout",
    "plumbline-service-levels",
]
"""Unique ids of the dashboards."""


@dataclass(frozen=True)
class Recording:
    """A recording rule: the series `name`, with the value of `expression`."""

    name: str
    expression: str

    def to_yaml(self) -> dict[str, Any]:
        """As a rule file has it."""
        return {"record": self.name, "expr": _indented(self.expression)}


@dataclass(frozen=True)
class Alert:
    """An alert.

    Parameters
    ----------
    name
        Key of its objective in `Alerts`.
    expression
        Gives a sample for each thing that is wrong. Its labels are the alert's.
    summary
        One line; a template of Prometheus.
    description
        What is wrong by how much, and what to look at first; a template too.
    component
        Who is concerned.
    dashboard
        Where it shows.
    labels
        Further static ones: rules of one name are told apart by them.
    """

    name: str
    expression: str
    summary: str
    description: str
    component: Component
    dashboard: Dashboard
    labels: Mapping[str, str] = field(default_factory=dict)

    def to_yaml(self, objectives: Objectives) -> dict[str, Any]:
        """As a rule file has it."""
        objective = objectives.alerts.of(self.name)
        links = objectives.links
        found: dict[str, Any] = {"alert": self.name, "expr": _indented(self.expression)}
        if objective.wait:
            found["for"] = format_duration(objectives.wait(objective.wait))
        found["labels"] = {
            "severity": objective.severity,
            "component": self.component,
            **self.labels,
        }
        found["annotations"] = {
            "summary": self.summary,
            "description": self.description,
            "dashboard_url": (
                f"{links.dashboards.rstrip('/')}/d/{self.dashboard}"
                "?var-index={{ $labels.index | urlquery }}"
            ),
            "runbook_url": f"{links.runbook}#{self.name.lower()}",
        }
        return found


def _indented(expression: str) -> str:
    return "\n".join(line.rstrip() for line in expression.strip().splitlines())
