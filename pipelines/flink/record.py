"""What is known of a version's job on Flink: its ids, and the savepoint it was stopped with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from pipelines.core.control import Control

__all__ = ["FLINK_RUN", "FlinkRun", "read_run", "write_run"]

FLINK_RUN = "flink-run"
"""Kind of the control record; its name is the version's."""


@dataclass(frozen=True)
class FlinkRun:
    """One submission and its end.

    Parameters
    ----------
    run
        Id under which its processes hold the version's lease.
    job_id
        Flink's.
    rest_url
        The cluster.
    submitted_at, stopped_at
        ISO 8601, UTC; `stopped_at` is empty while nobody has stopped it.
    savepoint
        Path of the one it was stopped with; empty when there is none.
    parallelism
        It was submitted with.
    """

    run: str
    job_id: str
    rest_url: str
    submitted_at: str
    parallelism: int
    stopped_at: str = ""
    savepoint: str = ""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The run of a control record; what a later release has added is left out."""
        names = cls.__dataclass_fields__
        return cls(**{name: value for name, value in fields.items() if name in names})

    def stopped(self, savepoint: str) -> FlinkRun:
        """The same, stopped now."""
        return replace(self, stopped_at=now(), savepoint=savepoint)


def now() -> str:
    """The time as the records keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_run(control: Control, version: str) -> FlinkRun | None:
    """The version's last run on Flink; `None` when there was none."""
    record = control.read(FLINK_RUN, version)
    return None if record is None else FlinkRun.from_fields(record.fields)


def write_run(control: Control, version: str, run: FlinkRun) -> None:
    """Keeps a run in place of the one before. Whoever calls it has the version's lease, or stops
    the job that has.
    """
    while (
        control.swap(FLINK_RUN, version, seen=control.read(FLINK_RUN, version), fields=asdict(run))
        is None
    ):
        pass
