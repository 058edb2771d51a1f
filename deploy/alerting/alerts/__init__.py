"""The alerts, by whom they concern: search, ingest, monitor, rollout."""

from __future__ import annotations

from deploy.alerting.alerts.ingest import ingest_alerts
from deploy.alerting.alerts.monitor import monitor_alerts
from deploy.alerting.alerts.rollout import rollout_alerts
from deploy.alerting.alerts.search import search_alerts
from deploy.alerting.objectives import Objectives
from deploy.alerting.rule import Alert

__all__ = ["alerts_of", "groups_of"]


def groups_of(objectives: Objectives) -> dict[str, list[Alert]]:
    """Group to its alerts, those that are turned off left out; symptoms first."""
    every = {
        "plumbline-search": search_alerts(objectives),
        "plumbline-ingest": ingest_alerts(objectives),
        "plumbline-monitor": monitor_alerts(objectives),
        "plumbline-rollout": rollout_alerts(objectives),
    }
    return {
        group: [alert for alert in alerts if objectives.alerts.of(alert.name).enabled]
        for group, alerts in every.items()
    }


def alerts_of(objectives: Objectives) -> list[Alert]:
    """All of them; two of one name differ in their labels."""
    return [alert for alerts in groups_of(objectives).values() for alert in alerts]
