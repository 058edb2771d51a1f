"""Recording rules, alerts and Alertmanager's configuration, generated from objectives.

`python -m deploy.alerting` writes them; `deploy.alerting.objectives` is the one place of budgets,
thresholds, waiting times and severities.
"""

from __future__ import annotations

from deploy.alerting.generate import alert_rules, generated, recording_rules, write
from deploy.alerting.load import load_objectives
from deploy.alerting.objectives import Objectives

__all__ = [
    "Objectives",
    "alert_rules",
    "generated",
    "load_objectives",
    "recording_rules",
    "write",
]
