"""The alerts, by whom they concern: search, ingest, monitor, rollout."""

from __future__ import annotations

from deploy.alerting.alerts.ingest import ingest_alerts
from deploy.alerting.alerts.monitor import monitor_alerts
from deploy.alerting.alerts.rollout import rollout_alerts
from deploy.alerting.alerts.search import search_alerts
from deploy.alerting.inhibitions import INHIBITIONS
from deploy.alerting.objectives import Alerts, Objectives
from deploy.alerting.rule import Alert

__all__ = ["alerts_of", "groups_of"]


def groups_of(objectives: Objectives) -> dict[str, list[Alert]]:
    """Group to its alerts, those that are turned off left out.

    One group, so that all are evaluated at one moment, one after another: consequences before
    their causes. When something is mended the end of what was inhibited is then sent before the
    end of what inhibited it, and is not told in between.
    """
    every = [
        *monitor_alerts(objectives),
        *ingest_alerts(objectives),
        *search_alerts(objectives),
        *rollout_alerts(objectives),
    ]
    wanted = [alert for alert in every if objectives.alerts.of(alert.name).enabled]
    causes = _causes()
    return {"plumbline-alerts": sorted(wanted, key=lambda alert: -len(causes[alert.name]))}


def _causes() -> dict[str, set[str]]:
    """Alert to those that speak for it, directly or through another."""
    found: dict[str, set[str]] = {name: set() for name in Alerts.model_fields}
    for _ in found:
        for one in INHIBITIONS:
            source = one.source.split(" ")[0]
            for target in one.targets:
                found[target.split(" ")[0]] |= {source, *found[source]}
    return found


def alerts_of(objectives: Objectives) -> list[Alert]:
    """All of them; two of one name differ in their labels."""
    return [alert for alerts in groups_of(objectives).values() for alert in alerts]
