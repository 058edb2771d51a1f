"""A job on Flink that lives as long as the command that started it."""

from __future__ import annotations

import structlog

from pipelines.core.errors import PlumblineError
from pipelines.core.settings import Settings
from pipelines.flink.rest import ENDED, FlinkRest

__all__ = ["AttachedJob"]

_PATIENCE_SECONDS = 2.0

_log = structlog.get_logger()


class AttachedJob:
    """Sees to it that a job on a cluster ends with its command.

    Beam's job server forgets a job that is cancelled, and leaves it running in the cluster. Where
    no REST API answers at `flink.rest_url` there is nothing to do: a Flink inside the job server
    has none.

    Parameters
    ----------
    settings
        Name the API.
    """

    def __init__(self, settings: Settings) -> None:
        self._rest = FlinkRest(settings.flink.rest_url, outage_timeout_seconds=_PATIENCE_SECONDS)
        self._name = ""
        self._known: set[str] = set()

    def begin(self, name: str) -> None:
        """A job of this name is about to be submitted; those there are now are not it."""
        self._name = name
        try:
            self._known = set(self._rest.job_ids(name))
        except PlumblineError:
            self._name = ""

    def end(self) -> None:
        """Cancels the job where it still runs; never raises."""
        if not self._name:
            return
        try:
            for job_id, state in self._rest.job_ids(self._name).items():
                if job_id not in self._known and state not in ENDED:
                    self._rest.cancel(job_id)
                    _log.info("job_cancelled", job_id=job_id, job_name=self._name)
        except PlumblineError as error:
            _log.warning("job_not_cancelled", job_name=self._name, error=str(error))
