"""Alertmanager's configuration: who is told, how often, and what speaks for what."""

from __future__ import annotations

from typing import Any

from deploy.alerting.durations import format_duration
from deploy.alerting.inhibitions import INHIBITIONS, Inhibition
from deploy.alerting.objectives import SEVERITIES, Objectives
from deploy.alerting.rule import Alert

__all__ = ["alertmanager_config"]


def alertmanager_config(objectives: Objectives, alerts: list[Alert]) -> dict[str, Any]:
    """The whole file.

    A group is what is wrong with one index by one severity, so that a person gets one message
    where several things fail at once, and one that may wait does not travel with one that must
    not.
    """
    notifications = objectives.notifications
    repeat = {**type(notifications)().repeat, **notifications.repeat}
    names = {alert.name for alert in alerts}
    return {
        "route": {
            "receiver": SEVERITIES[1],
            "group_by": ["index", "severity"],
            "group_wait": format_duration(objectives.wait(notifications.group_wait)),
            "group_interval": format_duration(objectives.wait(notifications.group_interval)),
            "repeat_interval": format_duration(repeat["warning"]),
            "routes": [
                {
                    "matchers": [f'severity="{severity}"'],
                    "receiver": severity,
                    "repeat_interval": format_duration(repeat[severity]),
                }
                for severity in SEVERITIES
            ],
        },
        "receivers": [
            {
                "name": severity,
                **notifications.receivers.get(
                    severity,
                    {
                        "webhook_configs": [
                            {"url": notifications.webhook_url, "send_resolved": True}
                        ]
                    },
                ),
            }
            for severity in SEVERITIES
        ],
        "inhibit_rules": [rule for one in INHIBITIONS if (rule := _rule(one, names)) is not None],
    }


def _rule(inhibition: Inhibition, names: set[str]) -> dict[str, Any] | None:
    """`None` where one side is turned off."""
    source, *more = inhibition.source.split(" ")
    plain = [name for name in inhibition.targets if " " not in name and name in names]
    narrow = [name for name in inhibition.targets if " " in name and name.split(" ")[0] in names]
    if source not in names or not (plain or narrow):
        return None
    matchers = [f'alertname="{source}"', *(_matcher(one) for one in more)]
    # One rule has one list of targets; those with a further matcher are merged by their names.
    names_of = [*plain, *(name.split(" ")[0] for name in narrow)]
    targets = [f'alertname=~"{"|".join(dict.fromkeys(names_of))}"']
    labels = {part for name in narrow for part in name.split(" ")[1:]}
    if labels and plain:
        raise ValueError(f"{inhibition.source}: targets with and without matchers in one rule")
    targets.extend(_matcher(one) for one in sorted(labels))
    return {"source_matchers": matchers, "target_matchers": targets, "equal": [*inhibition.equal]}


def _matcher(given: str) -> str:
    name, _, value = given.partition("=")
    return f'{name}="{value}"'
