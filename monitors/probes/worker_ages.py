"""How old the workers' canary reports are, told without anybody else's clock.

A report's epoch moves with every check of its worker. What this process has seen change since its
last look was written since; what stands as it stood is as old as the time over which it stood, on
the clock of the monitor. Only a report that the monitor meets for the first time after it was away
has no such age. There the worker's clock may tell that a report is old, and so leave it out until
its worker writes again; no clock can make a report younger than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipelines.core.worker_reports import WorkerReport

__all__ = ["WorkerAges"]

_CLOCKS_MAY_DIFFER_SECONDS = 60.0
_MAX_REMEMBERED = 1024


@dataclass(frozen=True)
class WorkerAges:
    """Reports by whether their workers still count, and what to remember of them.

    Parameters
    ----------
    current
        Written within the bound, as far as anybody can tell.
    gone
        Older: their workers have stopped, or their jobs have nothing to do.
    forgotten
        Gone for ten times the bound: they may be removed.
    state
        For the next look, JSON.
    """

    current: Sequence[WorkerReport]
    gone: Sequence[WorkerReport]
    forgotten: Sequence[WorkerReport]
    state: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        reports: Sequence[WorkerReport],
        *,
        state: Mapping[str, Any] | None,
        now: datetime,
        bound_seconds: float,
    ) -> WorkerAges:
        """Sorts the reports.

        Parameters
        ----------
        reports
            As they stand in the store now.
        state
            Of the last look; `None` at the first.
        now
            On the monitor's clock.
        bound_seconds
            How old a report may be (`monitor.canary.worker_report_seconds`).
        """
        moment = now.timestamp()
        looked_at = _number((state or {}).get("looked_at"))
        known = (state or {}).get("reports")
        known = known if isinstance(known, Mapping) else {}
        # After a longer absence a change proves nothing about when it was made.
        away = looked_at is None or not 0 <= moment - looked_at <= bound_seconds
        current, gone, forgotten = [], [], []
        seen: dict[str, Any] = {}
        for report in reports:
            write = str(report.record.fields.get("write"))
            before = known.get(report.name)
            before = before if isinstance(before, Mapping) else {}
            since = _number(before.get("since"))
            if before.get("write") == write and since is not None:
                since = min(since, moment)
            elif away and not _looks_recent(report, now, bound_seconds):
                since = moment - bound_seconds - 1
            else:
                since = moment
            age = moment - since
            if age <= bound_seconds:
                current.append(report)
            else:
                gone.append(report)
            if age > 10 * bound_seconds:
                forgotten.append(report)
            if len(seen) < _MAX_REMEMBERED:
                seen[report.name] = {"write": write, "since": since}
        return cls(current, gone, forgotten, {"looked_at": moment, "reports": seen})


def _looks_recent(report: WorkerReport, now: datetime, bound_seconds: float) -> bool:
    if report.written_at is None:
        return False
    age = (now - report.written_at).total_seconds()
    return -_CLOCKS_MAY_DIFFER_SECONDS <= age <= bound_seconds


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
