"""Rows of the tables from our values, and back."""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import ColumnElement, Table, and_

from monitors.probes.base import Level
from monitors.store.records import Outcome, Run, StoredFigure, StoredRun, VersionKey
from monitors.store.values import plain

__all__ = ["columns", "of_version", "run_values", "stored_run", "text"]


def of_version(table: Table, key: VersionKey) -> ColumnElement[bool]:
    """The rows of this version."""
    return and_(
        table.c.index_name == key.index,
        table.c.version == key.version,
        table.c.incarnation == key.incarnation,
    )


def columns(key: VersionKey) -> dict[str, str]:
    """The columns that name a version."""
    return {"index_name": key.index, "version": key.version, "incarnation": key.incarnation}


def text(value: str) -> str:
    """Text that PostgreSQL takes: no NUL and no half of a surrogate pair."""
    return value.replace("\0", "�").encode("utf-8", "replace").decode("utf-8")


def run_values(run: Run) -> dict[str, Any]:
    """A row of `runs`."""
    return {
        **columns(run.key),
        "probe": run.probe,
        "started_at": run.started_at,
        "seconds": run.seconds,
        "outcome": run.outcome.value,
        "failure": run.failure or None,
        "message": text(run.message) or None,
        "level": None if run.level is None else run.level.value,
        "reason": run.reason or None,
        "words": text(run.words) or None,
        "evidence": plain(run.evidence),
        "figures": [
            [figure.name, float(figure.value), list(figure.labels)]
            for figure in run.figures
            if math.isfinite(figure.value)
        ],
        "details": plain(run.details),
    }


def stored_run(row: Any) -> StoredRun:
    """A row of `runs` as a value."""
    return StoredRun(
        id=int(row.id),
        key=VersionKey(row.index_name, row.version, row.incarnation),
        probe=row.probe,
        started_at=row.started_at,
        seconds=float(row.seconds),
        outcome=Outcome(row.outcome),
        failure=row.failure or "",
        message=row.message or "",
        level=None if row.level is None else Level(row.level),
        reason=row.reason or "",
        words=row.words or "",
        evidence=row.evidence or {},
        figures=tuple(
            StoredFigure(name, float(value), tuple(labels))
            for name, value, labels in row.figures or ()
        ),
        details=row.details or {},
    )
