"""Settings of rollouts: what a candidate must prove, and what it may cost the live version."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from pipelines.core.section import PositiveSeconds, Section

__all__ = ["RolloutSettings"]

Level = Annotated[float, Field(gt=0, lt=0.5)]
Days = Annotated[float, Field(ge=0, le=3650)]


class RolloutSettings(Section):
    """How a version is replaced by another one."""

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Loss of recall that the candidate must be shown to stay below."""
    level: Level = 0.05
    """How often a candidate exactly at the margin may pass, and how often it may be refused."""
    k: Annotated[int, Field(ge=1, le=1000)] = 10
    """Depth of the recall that the gate compares."""
    batch_documents: Annotated[int, Field(ge=1, le=4096)] = 256
    """Documents that the backfill reads and writes at once."""
    range_documents: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    """Documents of one range: what a backfill that was killed does again, at most."""
    freshness_bound_seconds: PositiveSeconds = 5.0
    """The backfill slows down while live events take longer than this to be searchable."""
    lag_bound_records: Annotated[int, Field(ge=0)] = 1000
    """It slows down, too, while more events than this wait; and a version whose consumer group
    is further behind is neither promoted nor rolled back to."""
    live_metrics_url: str | None = None
    """Where live's job serves its metrics, for the same end; by default `metrics.host` and
    `metrics.port`."""
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] | None = 9110
    """Of a build's own metrics, on `metrics.host`; 0 picks a free one, null turns them off."""
    job_directory: Path = Path("plumbline-rollout")
    """Folder for log and settings of the ingest job that a build starts, one below for each
    rollout."""
    latency_ratio: Annotated[float, Field(ge=1)] = 1.5
    """How much longer than live's the candidate's p95 of search latency may be."""
    latency_allowance_seconds: Annotated[float, Field(ge=0, le=60)] = 0.005
    """A candidate whose p95 is longer by no more than this passes at any ratio."""
    ann_objective: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Least recall of the candidate's approximate search against exact search."""
    soak_hours: Annotated[float, Field(gt=0, le=8760)] = 168.0
    """How long the previous version is kept ready for a rollback, at least."""
    false_rollback: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Chance that `--auto-rollback` acts within a soak although nothing is worse."""
    tombstone_days: Days = 30.0
    """Tombstones younger than this are never purged: at least the retention of the topics and of
    the dead letters."""

    @field_validator("live_metrics_url")
    @classmethod
    def _without_login(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/\s]+", value):
            raise ValueError("`live_metrics_url` must look like http://localhost:9108/metrics")
        if value is not None and re.match(r"https?://[^/\s]*@", value):
            raise ValueError(
                "`live_metrics_url` must not carry a login; use `metrics.username` and "
                "`metrics.password_file`"
            )
        return value
