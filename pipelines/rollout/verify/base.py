"""What a check is given, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.canaries import CanaryReport, check
from pipelines.core.lag import LagReader

if TYPE_CHECKING:
    from monitors.golden.golden_set import GoldenSet
    from pipelines.core.encoder import Encoder
    from pipelines.core.qdrant import Qdrant
    from pipelines.core.settings import Settings
    from pipelines.core.versions import Version

__all__ = ["BUILD_ANEW", "FILL_AGAIN", "Check", "CheckResult", "Outcome", "VerifyContext", "named"]

_NAMED = 10

BUILD_ANEW = (
    "What stays so while its job runs wants a new build: `plumbline rollout abort`, then "
    "`plumbline rollout plan`"
)
"""What to do about a candidate that holds the wrong things."""

FILL_AGAIN = "`plumbline rollout build --again` fills what is missing or older"
"""What to do about a candidate that lacks things: what stands is left alone, so it costs little."""


class Outcome(StrEnum):
    """What a check found. Values are stable: scripts use them."""

    PASS = "pass"  # noqa: S105 - no password
    REFUSE = "refuse"
    """The candidate is not what it must be."""
    UNDECIDED = "undecided"
    """There was not enough to tell: the rollout does not go on, and nothing is proved wrong."""
    SKIPPED = "skipped"
    """It does not apply here, or the user said so with a reason."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    Parameters
    ----------
    name
        Of the check.
    outcome
        `pass` and `skipped` let the rollout go on.
    figure
        What was measured, in the unit that `measures` says; `None` where nothing could be.
    bound
        What the figure is held to: at most, but for the recall of approximate search and the
        golden gate's difference, where it is at least.
    measures
        What the figure is: `documents that differ`, `ratio of p95`.
    words
        Why, for people: values, and what to do. No document's text.
    details
        For programs, JSON values.
    """

    name: str
    outcome: Outcome
    figure: float | None
    bound: float | None
    measures: str
    words: str
    details: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the rollout may go on."""
        return self.outcome in (Outcome.PASS, Outcome.SKIPPED)

    def to_json(self) -> dict[str, Any]:
        """For the rollout's record and for programs."""
        return {**asdict(self), "outcome": self.outcome.value, "seconds": round(self.seconds, 3)}


@dataclass
class VerifyContext:
    """What every check is given.

    Parameters
    ----------
    settings
        `rollout` holds the bounds.
    live, candidate
        Of one index.
    load
        Gives a version's encoder, not yet compared with its canaries.
    lag
        Tells how far a version's consumer group is; `None` where no Kafka is set up.
    source
        What the candidate was built from: `version` or `topic`; empty where nobody knows.
    golden
        Judged queries; `None` without a set.
    without_golden
        Why the user goes on without one; empty: they do not.
    margin, level, k
        Of the golden gate.
    settle_seconds
        Between two looks at something that is being written, perhaps.
    patience_seconds
        How long a consumer group, an optimiser or a document may take to come to rest.
    random
        Of samples and resamples.
    sleep
        Injected by tests.
    watch
        Told what is going on: words, done, of how many (0 where that is not known).
    """

    settings: Settings
    qdrant: Qdrant
    live: Version
    candidate: Version
    load: Callable[[Version], Encoder]
    lag: LagReader | None = None
    source: str = ""
    golden: GoldenSet | None = None
    without_golden: str = ""
    margin: float = 0.02
    level: float = 0.05
    k: int = 10
    settle_seconds: float = 1.0
    patience_seconds: float = 60.0
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    sleep: Callable[[float], None] = time.sleep
    watch: Callable[[str, int, int], None] = lambda _words, _done, _total: None
    _encoders: dict[str, Encoder] = field(default_factory=dict, repr=False)
    _reports: dict[str, CanaryReport] = field(default_factory=dict, repr=False)

    def unchecked_encoder(self, version: Version) -> Encoder:
        """The version's encoder. Raises `ModelError` or `ContractMismatchError`."""
        if version.name not in self._encoders:
            self._encoders[version.name] = self.load(version)
        return self._encoders[version.name]

    def encoder(self, version: Version) -> Encoder:
        """The same once it has reproduced the canaries. Raises `CanaryMismatchError` too."""
        encoder = self.unchecked_encoder(version)
        if version.name not in self._reports:
            self._reports[version.name] = check(version.canaries, encoder)
        return encoder

    @cached_property
    def golden_vectors(self) -> dict[str, dict[str, Any]]:
        """Version to golden query to its vector, encoded once."""
        from monitors.golden.run import encode_golden

        if self.golden is None:
            return {}
        return {
            version.name: encode_golden(self.encoder(version), self.golden.scored)
            for version in (self.live, self.candidate)
        }


Check = Callable[[VerifyContext], CheckResult]
"""One question to the candidate. It raises only what keeps it from asking (a service out of reach);
what it finds wrong is an answer."""


def named(ids: list[str]) -> str:
    """Ids for people: the first ten, and how many more."""
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return f"{', '.join(ids[:_NAMED])}{more}"
