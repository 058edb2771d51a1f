"""How `plumbline monitor` shows runs and references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.cli.output import print_table, say, warn
from pipelines.core.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monitors.finished import Finished
    from monitors.once import Round
    from monitors.reset import Standing
    from monitors.store import ReferenceEvent, ReferenceSummary, ResetEvent, StoredRun

__all__ = [
    "exit_code_of",
    "exit_code_of_reset",
    "print_history",
    "print_references",
    "print_reset",
    "print_resets",
    "print_round",
    "reset_as_json",
    "reset_event_as_json",
    "round_as_json",
    "stored_as_json",
]

_STYLES = {
    "ok": "green",
    "warning": "yellow",
    "alarm": "bold red",
    "undecided": "cyan",
    "failed": "magenta",
}
_OUT_OF_REACH = ("unavailable", "service_refused", "history")
_FIGURES = 4


def exit_code_of(runs: Sequence[Finished]) -> int:
    """1 on an alarm, 3 where a service is out of reach, 4 where a probe failed otherwise, else 0.

    An alarm is known whatever else could not be looked at. A result that was dropped because the
    alias moved is none of these.
    """
    levels = {run.result.level.value for run in runs if run.result is not None}
    if "alarm" in levels:
        return ExitCode.NO
    failures = {run.failure for run in runs if run.failure}
    if failures & set(_OUT_OF_REACH):
        return ExitCode.UNAVAILABLE
    return ExitCode.UNANSWERED if failures else ExitCode.OK


def print_round(found: Round) -> None:
    """A table: probe, level, words, and the figures that matter most."""
    from rich.text import Text

    say(found.key.version)
    rows = []
    for run in found.runs:
        level, words = _level(run), run.message if run.result is None else run.result.words
        rows.append(
            (run.probe, Text(level, _STYLES.get(level, "")), words, _key_figures(run), _time(run))
        )
    print_table(["probe", "level", "words", "figures", "seconds"], rows, right=["seconds"])
    if found.note:
        warn(found.note)


def _level(run: Finished) -> str:
    return run.outcome.value if run.result is None else run.result.level.value


def _time(run: Finished) -> str:
    return f"{run.seconds:.1f}"


def _key_figures(run: Finished) -> str:
    """The statistical side, then the first figures, one a line."""
    if run.result is None:
        return run.failure
    evidence = run.result.evidence
    lines = []
    if evidence is not None:
        for label, value in (
            ("effect", evidence.effect),
            ("p", evidence.p_value),
            ("e", evidence.e_value),
        ):
            if value is not None:
                lines.append(f"{label} {value:.3g}")
        lines += [f"{sample} {size:,}" for sample, size in evidence.samples.items()]
    for figure in list(run.result.figures)[:_FIGURES]:
        name = figure.family.name.removeprefix("plumbline_")
        labels = f" {'/'.join(figure.labels)}" if figure.labels else ""
        lines.append(f"{name}{labels} {figure.value:.4g}")
    return "\n".join(lines)


def round_as_json(found: Round, exit_code: int) -> dict[str, Any]:
    """The round for programs."""
    return {
        "index": found.key.index,
        "version": found.key.version,
        "recorded": found.recorded,
        "note": found.note,
        "exit_code": exit_code,
        "probes": [_finished_as_json(run) for run in found.runs],
    }


def _finished_as_json(run: Finished) -> dict[str, Any]:
    from dataclasses import asdict

    from monitors.store.values import plain

    shown: dict[str, Any] = {
        "probe": run.probe,
        "outcome": run.outcome.value,
        "started_at": run.started_at.isoformat(timespec="milliseconds"),
        "seconds": round(run.seconds, 3),
        "failure": run.failure or None,
        "message": run.message or None,
    }
    result = run.result
    if result is not None:
        shown |= {
            "level": result.level.value,
            "reason": result.reason,
            "words": result.words,
            "evidence": None if result.evidence is None else plain(asdict(result.evidence)),
            "figures": [
                {
                    "name": figure.family.name,
                    "labels": dict(zip(figure.family.labels, figure.labels, strict=False)),
                    "value": plain(float(figure.value)),
                }
                for figure in result.figures
            ],
            "details": plain(result.details),
        }
    return shown


def stored_as_json(run: StoredRun) -> dict[str, Any]:
    """A run of the history for programs."""
    return {
        "id": run.id,
        "version": run.key.version,
        "probe": run.probe,
        "outcome": run.outcome.value,
        "started_at": run.started_at.isoformat(timespec="milliseconds"),
        "seconds": round(run.seconds, 3),
        "failure": run.failure or None,
        "message": run.message or None,
        "level": None if run.level is None else run.level.value,
        "reason": run.reason or None,
        "words": run.words or None,
        "evidence": dict(run.evidence),
        "details": dict(run.details),
    }


def print_history(runs: Sequence[StoredRun]) -> None:
    """A table of runs, the newest first."""
    if not runs:
        say("no runs yet: `plumbline monitor once` makes one of each probe")
        return
    print_table(
        ["started (UTC)", "probe", "level", "words", "seconds"],
        [
            (
                f"{run.started_at:%Y-%m-%d %H:%M:%S}",
                run.probe,
                run.outcome.value if run.level is None else run.level.value,
                run.words or f"{run.failure}: {run.message}",
                f"{run.seconds:.1f}",
            )
            for run in runs
        ],
        right=["seconds"],
    )


def print_references(
    version: str, references: Sequence[ReferenceSummary], events: Sequence[ReferenceEvent]
) -> None:
    """What there is, and who put it there."""
    say(version)
    if references:
        print_table(
            ["kind", "name", "in force", "vectors", "taken (UTC)", "by", "reason"],
            [
                (
                    one.kind,
                    one.name,
                    "yes" if one.in_force else "",
                    f"{one.rows:,}",
                    f"{one.created_at:%Y-%m-%d %H:%M:%S}",
                    one.created_by,
                    one.reason,
                )
                for one in references
            ],
            right=["vectors"],
        )
    else:
        say("no reference yet: `plumbline monitor reference set --reason …` takes one")
    past = [event for event in events if event.key.version != version]
    if past:
        say("earlier versions")
        print_table(
            ["version", "kind", "name", "taken (UTC)", "by", "reason"],
            [
                (
                    event.key.version,
                    event.kind,
                    event.name,
                    f"{event.at:%Y-%m-%d %H:%M:%S}",
                    event.by,
                    event.reason,
                )
                for event in past
            ],
        )


def exit_code_of_reset(standing: Standing) -> int:
    """As of a run; 1 where nothing was taken back though nothing failed."""
    if standing.run is None:
        return ExitCode.OK
    code = exit_code_of([standing.run])
    return ExitCode.NO if code == ExitCode.OK and not standing.taken_back else code


def print_reset(standing: Standing) -> None:
    """What there is to take back, and what came of it."""
    say(f"{standing.probe} on {standing.key.version}")
    last = standing.last
    if last is not None:
        level = "" if last.level is None else last.level.value
        say(f"last said, {last.started_at:%Y-%m-%d %H:%M:%S} UTC: {level}: {last.words}")
    say(f"remembered: {_in_words(standing.remembered)}")
    run = standing.run
    if run is None:
        say(f"{standing.words} Nothing was changed: give a --reason and no --dry-run to do it.")
    elif not standing.taken_back:
        warn(f"nothing was taken back: {run.message}")
    else:
        assert run.result is not None
        say(f"taken back. {standing.words}")
        say(f"now: {run.result.level.value}: {run.result.words}")


def _in_words(remembered: Mapping[str, Any]) -> str:
    parts = []
    for name, value in remembered.items():
        label = name.replace("_", " ")
        if isinstance(value, Mapping):
            parts.append(f"{label} ({_in_words(value)})")
        else:
            shown = f"{value:,}" if type(value) is int else "none" if value is None else str(value)
            parts.append(f"{label} {shown}")
    return ", ".join(parts) or "nothing in figures"


def reset_as_json(standing: Standing, exit_code: int) -> dict[str, Any]:
    """The reset for programs."""
    run = standing.run
    return {
        "index": standing.key.index,
        "version": standing.key.version,
        "probe": standing.probe,
        "last": None if standing.last is None else stored_as_json(standing.last),
        "remembered": dict(standing.remembered),
        "words": standing.words,
        "taken_back": standing.taken_back,
        "run": None if run is None else _finished_as_json(run),
        "exit_code": exit_code,
    }


def reset_event_as_json(event: ResetEvent) -> dict[str, Any]:
    """A line of the history of resets for programs."""
    return {
        "version": event.key.version,
        "probe": event.probe,
        "at": event.at.isoformat(timespec="milliseconds"),
        "by": event.by,
        "reason": event.reason,
        "level": None if event.level is None else event.level.value,
        "words": event.words or None,
        "run_id": event.run_id,
    }


def print_resets(events: Sequence[ResetEvent]) -> None:
    """A table of resets, the newest first."""
    if not events:
        say("nobody has taken back anything: `plumbline monitor reset PROBE --reason …` does")
        return
    print_table(
        ["at (UTC)", "version", "probe", "by", "reason", "had said"],
        [
            (
                f"{event.at:%Y-%m-%d %H:%M:%S}",
                event.key.version,
                event.probe,
                event.by,
                event.reason,
                f"{'' if event.level is None else event.level.value}: {event.words}",
            )
            for event in events
        ],
    )
