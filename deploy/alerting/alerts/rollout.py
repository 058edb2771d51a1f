"""A rollout that does not move, or did what somebody should know."""

from __future__ import annotations

from deploy.alerting.durations import format_duration
from deploy.alerting.objectives import Objectives
from deploy.alerting.promql import current, window
from deploy.alerting.rule import Alert

__all__ = ["rollout_alerts"]


def rollout_alerts(objectives: Objectives) -> list[Alert]:
    """All of them."""
    return [
        _stuck(objectives),
        _unfinished(objectives),
        _moved(objectives),
        _rolled_back(objectives),
        _forced(objectives),
        _candidate(objectives),
    ]


def _in_state(states: str, objectives: Objectives) -> str:
    state = f'plumbline_rollout_state{{state=~"{states}"}}'
    return f"{current(state, 'state', objectives=objectives)} == 1"


def _age(objectives: Objectives) -> str:
    since = current("plumbline_rollout_state_since_timestamp_seconds", objectives=objectives)
    return f"time() - {since}"


def _stuck(objectives: Objectives) -> Alert:
    objective = objectives.alerts.PlumblineRolloutStuck
    span = window(objective.without_progress, objectives)
    idle, longest = (
        f"{objectives.window(seconds):g}"
        for seconds in (objective.without_progress, objective.open_for)
    )
    done = 'plumbline_rollout_tokens{kind="done"}'
    return Alert(
        "PlumblineRolloutStuck",
        f"(\n"
        f"  {_in_state('building', objectives)}\n"
        f"  and on (index) ({_age(objectives)}) > {idle}\n"
        f"  unless on (index) max by (index) (\n"
        f"    max_over_time({done}{span}) - min_over_time({done}{span})\n"
        f"  ) > 0\n"
        f")\n"
        f"or\n"
        f"{_in_state('failed', objectives)}\n"
        f"or\n"
        f"(\n"
        f"  {_in_state('planned|verifying|ready', objectives)}\n"
        f"  and on (index) ({_age(objectives)}) > {longest}\n"
        f")",
        "{{ $labels.index }}: the rollout is {{ $labels.state }} and does not move",
        '{{ if eq $labels.state "building" }}Nothing was encoded for '
        f"{format_duration(objective.without_progress)}: the build was stopped, or waits."
        '{{ else if eq $labels.state "failed" }}The build could not go on.'
        "{{ else }}It has stood there for "
        f"{format_duration(objective.open_for)}.{{{{ end }}}} While a rollout is open every event "
        "is written twice and no tombstone is purged. `plumbline rollout status` says what it "
        "waits for and which command comes next.",
        "rollout",
        "plumbline-rollout",
    )


def _unfinished(objectives: Objectives) -> Alert:
    intent = current("plumbline_rollout_intent", "action", objectives=objectives)
    return Alert(
        "PlumblineRolloutStepUnfinished",
        f"{intent} == 1",
        "{{ $labels.index }}: {{ $labels.action }} has begun and has not ended",
        "A step of the rollout, {{ $labels.action }}, was cut short. Searches are answered all the "
        "same; `plumbline rollout status`, or the same command once more, finishes it.",
        "rollout",
        "plumbline-rollout",
    )


def _moved(objectives: Objectives) -> Alert:
    moved = current("plumbline_rollout_alias_moved", objectives=objectives)
    intent = current("plumbline_rollout_intent", objectives=objectives)
    return Alert(
        "PlumblineAliasMoved",
        # A step that switches it is announced first.
        f"{moved} == 1\nunless on (index) {intent} == 1",
        "{{ $labels.index }}: the alias is not where its rollout left it",
        "Searches of {{ $labels.index }} go to another version than the record of its last rollout "
        "names: somebody moved the alias by hand. Nothing writes to that version unless a job of "
        "its own does, and the rollout's next step refuses. `plumbline index alias` shows both and "
        "puts it back.",
        "rollout",
        "plumbline-rollout",
    )


def _rolled_back(objectives: Objectives) -> Alert:
    window_seconds = objectives.window(objectives.alerts.PlumblineRolledBackAutomatically.window)
    automatic = current("plumbline_rollout_automatic_rollback", objectives=objectives)
    return Alert(
        "PlumblineRolledBackAutomatically",
        f"{automatic} == 1\nand on (index) ({_age(objectives)}) < {window_seconds:g}",
        "{{ $labels.index }}: the new version was rolled back by itself",
        "`plumbline rollout soak --auto-rollback` found the new version worse, or its canaries "
        "broken, and switched back. Searches are answered by the previous version, which has every "
        "write. The record of the rollout has the reason with its figures.",
        "rollout",
        "plumbline-rollout",
    )


def _forced(objectives: Objectives) -> Alert:
    forced = current("plumbline_rollout_promotion_forced", objectives=objectives)
    return Alert(
        "PlumblinePromotionForced",
        f"{forced} == 1\nand on (index) {_in_state('soaking', objectives)}",
        "{{ $labels.index }}: a version is live that did not pass",
        "The promotion was forced past the gate and the version soaks. Its reason is in the record "
        "of the rollout; until the previous version is retired, `plumbline rollout rollback` leads "
        "back.",
        "rollout",
        "plumbline-rollout",
    )


def _candidate(objectives: Objectives) -> Alert:
    alarm = current("plumbline_probe_alarm", "version", "probe", objectives=objectives)
    return Alert(
        "PlumblineCandidateAlarm",
        # One role a version: around a switch there are two for a while.
        f"{alarm}\n"
        f"* on (index, version) group_left (role)\n"
        f"topk by (index, version) (1, plumbline:other_version)\n"
        f"== 1",
        "{{ $labels.index }}: {{ $labels.probe }} alarms on the {{ $labels.role }} version",
        "{{ $labels.probe }} alarms on {{ $labels.version }}, which nobody searches. A candidate "
        "like that will not pass `plumbline rollout verify`; a previous version like that is no "
        "way back.",
        "rollout",
        "plumbline-rollout",
    )
