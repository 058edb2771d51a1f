"""What became of one run."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime

from monitors.probes.base import ProbeResult
from monitors.store import Outcome, VersionKey

__all__ = ["Finished", "as_failed", "begun_at"]


@dataclass(frozen=True)
class Finished:
    """What became of one run.

    Parameters
    ----------
    key
        Version it looked at, as far as it is known.
    failure, message
        Why it failed: of `FAILURES`, and in words.
    result
        `None` unless it completed.
    recorded
        Whether the store has it.
    """

    probe: str
    key: VersionKey
    started_at: datetime
    seconds: float
    outcome: Outcome
    failure: str = ""
    message: str = ""
    result: ProbeResult | None = None
    recorded: bool = False


def begun_at(
    probe: str,
    key: VersionKey,
    started_at: datetime,
    begun: float,
    *,
    failure: str = "",
    message: str = "",
) -> Finished:
    """A run that ends now, as failed until somebody says otherwise.

    Parameters
    ----------
    begun
        On `time.monotonic()`'s scale.
    """
    seconds = time.monotonic() - begun
    return Finished(probe, key, started_at, seconds, Outcome.FAILED, failure, message)


def as_failed(ended: Finished, failure: str, message: str) -> Finished:
    """The run, but failed."""
    return replace(ended, outcome=Outcome.FAILED, failure=failure, message=message, result=None)
