"""What the processes that write a version say of their own encoders.

The monitor's encoder never sees a fault in a worker's, so each process that writes a version
leaves the result of its last canary check in the control collection: one record a process, written
over at every check, and before a process stops because of what it found.

No process compares another's clock with its own. A record's epoch moves with every write, and
whoever watches measures on its own clock for how long it has stood still.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import structlog

from pipelines.core.control import CONTROL_COLLECTION, Control, ControlRecord
from pipelines.core.errors import PlumblineError
from pipelines.core.process import ProcessIdentity

if TYPE_CHECKING:
    from pipelines.core.canaries import CanaryReport
    from pipelines.core.qdrant import Qdrant

__all__ = [
    "CANARY_REPORT",
    "MAX_REPORTS",
    "WorkerReport",
    "WorkerReporter",
    "read_reports",
    "remove_report",
]

CANARY_REPORT = "canary-report"
"""Kind of the control records that are reports."""

MAX_REPORTS = 256
"""Of one version. A process that starts removes what is over, oldest first."""

_MESSAGE_CHARACTERS = 1000

ReportLevel = Literal["ok", "warning", "refusal"]
_LEVELS: Mapping[str, ReportLevel] = {"ok": "ok", "warning": "warning", "refusal": "refusal"}

_log = structlog.get_logger()


@dataclass(frozen=True)
class WorkerReport:
    """One process's last canary check, as it stands in the store.

    Parameters
    ----------
    record
        Identity and epoch; the epoch moves with every check.
    host, pid
        Which process.
    level
        What it decided by the canaries' bounds.
    document_distance, query_distance
        The largest of any text; infinite where only one side has a vector, `None` where it did not
        come to a comparison (another contract).
    written_at
        By the worker's own clock; `None` where it cannot be read.
    message
        Why it refused, empty otherwise; no document's text.
    """

    record: ControlRecord = field(repr=False)
    host: str
    pid: int
    level: ReportLevel
    document_distance: float | None
    query_distance: float | None
    written_at: datetime | None
    message: str = ""

    @property
    def name(self) -> str:
        """Of the record: version, host, process and when the process started."""
        return self.record.name

    @property
    def worker(self) -> str:
        """For people: `host, process 17`."""
        return f"{self.host}, process {self.pid}"


class WorkerReporter:
    """Leaves this process's reports about one version. Never raises, and never waits for a store.

    Parameters
    ----------
    qdrant
        The store.
    version
        Name of the version that this process writes.
    interval_seconds
        A report that says nothing new is left out when the last one is not as old as this.
    identity
        Injected by tests.
    """

    def __init__(
        self,
        qdrant: Qdrant,
        version: str,
        interval_seconds: float,
        identity: ProcessIdentity | None = None,
    ) -> None:
        self._control = Control(qdrant, patient=False)
        self._qdrant = qdrant
        self._version = version
        self._interval_seconds = interval_seconds
        self._identity = identity or ProcessIdentity.current()
        self._name = (
            f"{version}/{self._identity.host}/{self._identity.pid}-{self._identity.started}"
        )
        self._written: tuple[float, ReportLevel] | None = None

    def report(self, report: CanaryReport | None, error: PlumblineError | None = None) -> None:
        """Says how a check ended.

        Parameters
        ----------
        report
            The distances; `None` where there was nothing to compare.
        error
            Why this process refuses to write; it stops with it right after.
        """
        level: ReportLevel = "refusal" if report is None or error is not None else report.level
        if self._written is not None:
            at, known = self._written
            if known == level and time.monotonic() - at < self._interval_seconds:
                return
        try:
            if self._written is None:
                self._tidy()
            self._write(level, report, error)
        except Exception as problem:  # noqa: BLE001 - a report is worth no job
            _log.warning(
                "canary_report_not_written", version=self._version, error=type(problem).__name__
            )
            return
        self._written = (time.monotonic(), level)

    def _write(
        self, level: ReportLevel, report: CanaryReport | None, error: PlumblineError | None
    ) -> None:
        fields = {
            **self._identity.to_payload(),
            "version": self._version,
            "level": level,
            "document_distance": _number(report.document_distance if report else None),
            "query_distance": _number(report.query_distance if report else None),
            "message": str(error)[:_MESSAGE_CHARACTERS] if error is not None else "",
            # For people, and for a monitor that looks for the first time.
            "written_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        seen = self._control.read(CANARY_REPORT, self._name)
        self._control.swap(CANARY_REPORT, self._name, seen=seen, fields=fields)

    def _tidy(self) -> None:
        """Removes what processes of this host left that have ended, and the oldest of too many."""
        left = []
        for report in read_reports(self._control, self._version):
            owner = ProcessIdentity.from_payload(report.record.fields)
            if report.name != self._name and owner.has_ended(seen_by=self._identity):
                remove_report(self._qdrant, report)
            else:
                left.append(report)
        # Other hosts' clocks decide here, about nothing but which record goes first.
        left.sort(key=lambda report: str(report.record.fields.get("written_at", "")))
        for report in left[: max(0, len(left) - MAX_REPORTS + 1)]:
            remove_report(self._qdrant, report)


def read_reports(control: Control, version: str) -> list[WorkerReport]:
    """What the processes that write a version have said last, by name.

    A record that cannot be read as a report is passed over.
    """
    found = []
    for record in control.list(CANARY_REPORT):
        report = _report(record)
        if record.fields.get("version") == version and report is not None:
            found.append(report)
    return found


def remove_report(qdrant: Qdrant, report: WorkerReport) -> None:
    """Removes a report, unless its process has written since it was read."""
    from qdrant_client import models

    conditions: list[Any] = [
        models.FieldCondition(key=key, match=models.MatchValue(value=value))
        for key, value in (
            ("kind", CANARY_REPORT),
            ("name", report.name),
            ("write", str(report.record.fields.get("write"))),
        )
    ]
    qdrant.try_call(
        "delete",
        CONTROL_COLLECTION,
        points_selector=models.FilterSelector(filter=models.Filter(must=conditions)),
        wait=True,
    )


def _report(record: ControlRecord) -> WorkerReport | None:
    fields = record.fields
    level = _LEVELS.get(str(fields.get("level")))
    host, pid = fields.get("host"), fields.get("pid")
    if level is None or not isinstance(host, str) or not isinstance(pid, int):
        return None
    return WorkerReport(
        record=record,
        host=host,
        pid=pid,
        level=level,
        document_distance=_distance(fields.get("document_distance")),
        query_distance=_distance(fields.get("query_distance")),
        written_at=_time(fields.get("written_at")),
        message=str(fields.get("message", "")),
    )


_INFINITE = "infinite"
"""JSON has no infinity."""


def _number(distance: float | None) -> float | str | None:
    if distance is None:
        return None
    return distance if math.isfinite(distance) else _INFINITE


def _distance(value: object) -> float | None:
    if value == _INFINITE:
        return math.inf
    return float(value) if isinstance(value, int | float) else None


def _time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
