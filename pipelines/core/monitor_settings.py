"""Settings of the monitor: its service, its store and each of its probes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from pipelines.core.section import PositiveSeconds, Section

__all__ = [
    "AnnSettings",
    "CanarySettings",
    "DriftSettings",
    "FidelitySettings",
    "FreshnessSettings",
    "GeometrySettings",
    "GoldenSettings",
    "IntegritySettings",
    "MonitorSettings",
    "ProbeSettings",
]

Interval = Annotated[float, Field(ge=1, le=31 * 86_400)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[float, Field(gt=0, lt=1)]


class ProbeSettings(Section):
    """What every probe has."""

    enabled: bool = True
    interval_seconds: Interval = 300.0
    timeout_seconds: PositiveSeconds = 120.0
    """A run that takes longer counts as failed; the probe is not started again beside it."""


class GoldenSettings(ProbeSettings):
    """Does search still find the judged documents?"""

    file: Path | None = None
    """The golden set; without one the probe says so and scores nothing."""
    interval_seconds: Interval = 900.0
    timeout_seconds: PositiveSeconds = 840.0
    k: Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], Field(min_length=1)] = (10,)
    """Depths of recall and nDCG; the first one decides."""
    minimum_effect: Ratio = 0.02
    """Least loss of recall that may alarm."""
    queries_per_second: Annotated[float, Field(gt=0)] | None = None
    """How many queries the probe may ask, at most, so that it leaves the live index alone.
    Default: as few as four fifths of `timeout_seconds`, or of the interval where that is less,
    have room for, 1 to 20; 20 in a version's first run and in `monitor once`, which somebody waits
    for."""
    average_run_length: Annotated[float, Field(ge=20)] = 2000.0
    """Windows until a false alarm, on average, at least."""


class CanarySettings(ProbeSettings):
    """Does the encoder, here and in the workers, still give the vectors it gave?"""

    worker_report_seconds: Annotated[float, Field(ge=10)] = 900.0
    """How old a worker's own report may be before it counts as gone."""


class FidelitySettings(ProbeSettings):
    """Are the stored vectors the ones that the contract gives for the stored texts?"""

    interval_seconds: Interval = 900.0
    sample: Annotated[int, Field(ge=10, le=10_000)] = 200
    """Documents encoded anew in one run."""
    maximum_mismatch_ratio: Ratio = 0.0
    """Share of the sample that may be farther than the canaries' bound."""


class DriftSettings(ProbeSettings):
    """Do new vectors come from the same distribution as the reference?"""

    interval_seconds: Interval = 3600.0
    timeout_seconds: PositiveSeconds = 600.0
    window_seconds: Annotated[float, Field(ge=60, le=366 * 86_400)] = 86_400.0
    """Event time that the current sample spans."""
    minimum_window: Annotated[int, Field(ge=50)] = 500
    window: Annotated[int, Field(ge=50, le=5000)] = 1000
    """Vectors of the current sample, at most."""
    minimum_reference: Annotated[int, Field(ge=100)] = 2000
    reference: Annotated[int, Field(ge=100, le=20_000)] = 5000
    """Vectors of a reference sample, at most."""
    reference_seconds: Annotated[float, Field(ge=60)] = 14 * 86_400.0
    """Event time that a reference of documents spans, at least; twice, four times, … as much where
    so few came that there would not be enough."""
    permutations: Annotated[int, Field(ge=99, le=9999)] = 199
    level: Level = 0.05
    average_run_length: Annotated[float, Field(ge=20)] = 2000.0
    """Windows until a false alarm, on average, at least."""
    automatic_reference: bool = True
    """Take the first reference of a version when it has enough documents, and say so in the
    store. Later ones are always somebody's decision."""

    @model_validator(mode="after")
    def _check(self) -> DriftSettings:
        if self.window < self.minimum_window:
            raise ValueError(
                f"`window` ({self.window}) must be at least `minimum_window` "
                f"({self.minimum_window})"
            )
        if self.reference < self.minimum_reference:
            raise ValueError(
                f"`reference` ({self.reference}) must be at least `minimum_reference` "
                f"({self.minimum_reference})"
            )
        return self


class AnnSettings(ProbeSettings):
    """Does the approximate index find what exact search finds?"""

    interval_seconds: Interval = 900.0
    queries: Annotated[int, Field(ge=10, le=5000)] = 100
    k: Annotated[int, Field(ge=1, le=1000)] = 10
    objective: Ratio = 0.95
    """Least recall@k of approximate against exact search."""
    queries_per_second: Annotated[float, Field(gt=0)] = 20.0


class IntegritySettings(ProbeSettings):
    """Is the version what it claims to be?"""

    sample: Annotated[int, Field(ge=100, le=20_000)] = 1000
    """Points read with their vectors in one run."""
    maximum_duplicate_ratio: Ratio = 0.2
    """Share of exact duplicates in the sample above which the probe warns."""


class FreshnessSettings(ProbeSettings):
    """How long until an event is searchable?"""

    interval_seconds: Interval = 30.0
    timeout_seconds: PositiveSeconds = 30.0
    objective_seconds: Annotated[float, Field(gt=0)] = 300.0
    """How old the oldest event that is not searchable may be."""


class GeometrySettings(ProbeSettings):
    """Is the space healthy?"""

    interval_seconds: Interval = 3600.0
    sample: Annotated[int, Field(ge=100, le=5000)] = 1000


class MonitorSettings(Section):
    """The monitor service."""

    database_url: SecretStr | None = None
    """Where history lives: `sqlite:///file.db` or `postgresql+psycopg://…`. Default: the file
    `plumbline-monitor.db` in the working folder."""
    database_url_file: Path | None = None
    port: Annotated[int, Field(ge=0, le=65_535)] = 9109
    """Of `/metrics`, `/healthz` and `/readyz`; 0 picks a free one."""
    host: str = "127.0.0.1"
    seed: Annotated[int, Field(ge=0)] = 0
    """Of every random choice: the same store and seed give the same samples and p-values."""
    jitter_ratio: Ratio = 0.1
    """Share of its interval by which a probe's start is moved at random."""
    lease_seconds: Annotated[float, Field(ge=1, le=600)] = 15.0
    retention_days: Annotated[int, Field(ge=1)] = 90
    """How long runs are kept. Baselines, references and their history are kept for as long as
    they are in use."""
    golden: GoldenSettings = GoldenSettings()
    canary: CanarySettings = CanarySettings()
    fidelity: FidelitySettings = FidelitySettings()
    drift: DriftSettings = DriftSettings()
    ann: AnnSettings = AnnSettings()
    integrity: IntegritySettings = IntegritySettings()
    freshness: FreshnessSettings = FreshnessSettings()
    geometry: GeometrySettings = GeometrySettings()

    @model_validator(mode="after")
    def _check(self) -> MonitorSettings:
        if self.database_url is not None and self.database_url_file is not None:
            raise ValueError("give `database_url` or `database_url_file`, not both")
        return self
