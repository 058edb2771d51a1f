"""Settings of a job on Flink: where it is submitted, where its Python runs, how it recovers."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.core.section import PositiveSeconds, Section

__all__ = ["FlinkSettings"]

_ADDRESS = re.compile(r"[A-Za-z0-9._\-\[\]:]+:\d{1,5}")


class FlinkSettings(Section):
    """How `plumbline ingest --runner flink` runs.

    What is `None` is left to Flink's own configuration.
    """

    job_endpoint: str | None = None
    """`host:port` of Beam's job server for Flink, which knows the cluster it submits to."""
    rest_url: str = "http://localhost:8081"
    """Flink's REST API, the address of its web page: what `ingest status`, `stop` and `resume`
    ask."""
    environment: Literal["LOOPBACK", "EXTERNAL", "DOCKER", "PROCESS"] = "LOOPBACK"
    """Where the steps run: in the submitting process (`LOOPBACK`, which has to stay), in a
    `plumbline worker-pool` beside each task manager (`EXTERNAL`), or as Beam starts them."""
    environment_config: str | None = None
    """Address of the pool as a task manager sees it, by default `localhost:50000`; else what Beam
    wants of that environment."""
    parallelism: Annotated[int, Field(ge=1, le=256)] = 1
    """Subtasks that read, encode and write; `kafka.splits` must be at least as many."""
    max_parallelism: Annotated[int, Field(ge=1, le=32_768)] = 128
    """Most subtasks that a savepoint of this job can ever be resumed with. Splits are spread over
    the subtasks by it, so a resumed job keeps the value it was started with."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Worker processes that a task manager has started for the job."""
    checkpoint_interval_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 5.0
    """Offsets are committed when a checkpoint has completed. What is searchable does not wait for
    it."""
    checkpoint_timeout_seconds: PositiveSeconds = 600.0
    retain_checkpoints: bool = True
    """Keep the last checkpoint of a job that is cancelled or has failed."""
    state_backend: Literal["filesystem", "rocksdb"] | None = None
    """The state is a few hundred bytes a split, so Flink's default does."""
    state_path: str | None = None
    """Where `state_backend` keeps checkpoints, as a URL that job manager and task managers both
    reach."""
    savepoint_path: str | None = None
    """Folder for the savepoint of `ingest stop`; by default the cluster's own."""
    restart_attempts: Annotated[int, Field(ge=0)] | None = None
    """How often Flink starts a job again that has failed, in all."""
    restart_delay_seconds: PositiveSeconds | None = None
    start_timeout_seconds: PositiveSeconds = 180.0
    """How long a submitted job may take until all of its subtasks run."""
    stop_timeout_seconds: PositiveSeconds = 180.0
    """How long `ingest stop` waits for a savepoint, and for the end of the job."""

    @model_validator(mode="after")
    def _check(self) -> FlinkSettings:
        if self.job_endpoint is not None and not _ADDRESS.fullmatch(self.job_endpoint):
            raise ValueError("`job_endpoint` must look like localhost:8099")
        if not re.fullmatch(r"https?://[^/\s@]+(/\S*)?", self.rest_url):
            raise ValueError("`rest_url` must look like http://localhost:8081, without a login")
        if (self.state_backend is None) != (self.state_path is None):
            raise ValueError("`state_backend` and `state_path` go together: give both")
        if self.restart_delay_seconds is not None and self.restart_attempts is None:
            raise ValueError(
                "`restart_delay_seconds` needs `restart_attempts`: Beam hands both on, or neither"
            )
        if self.parallelism > self.max_parallelism:
            raise ValueError(
                f"`parallelism` ({self.parallelism}) is above `max_parallelism` "
                f"({self.max_parallelism})"
            )
        return self

    @property
    def detached(self) -> bool:
        """Whether the job goes on when the process that submitted it has ended."""
        return self.environment != "LOOPBACK"
