"""Does a search of the candidate take longer than one of live?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monitors.golden.run import Pace, VersionStore
from monitors.sampling import live_points, sample_points
from pipelines.core.errors import CanaryMismatchError, ContractMismatchError, ModelError
from pipelines.core.points import DENSE
from pipelines.rollout.verify.base import CheckResult, Outcome, VerifyContext

if TYPE_CHECKING:
    from pipelines.core.versions import Version

__all__ = ["NAME", "Latency", "LatencyBounds", "check_latency", "latency_bounds"]

NAME = "latency"

_MEASURES = "ratio of p95"
_QUERIES = 100
_WARM_UP = 5
_ROUNDS = 3
_MOST_ROUNDS = 9
_MINIMUM_QUERIES = 20
_RESAMPLES = 1000
_LEVEL = 0.01
"""Chance of refusing a candidate that is just as slow as the bound allows."""


@dataclass
class Latency:
    """Seconds of every search, a query a row and a round a column, of live and of the candidate."""

    live: list[list[float]] = field(default_factory=list)
    candidate: list[list[float]] = field(default_factory=list)

    @property
    def p95(self) -> tuple[float, float]:
        """Of live and of the candidate, seconds."""
        return _p95(np.asarray(self.live)), _p95(np.asarray(self.candidate))

    @property
    def ratio(self) -> float:
        """Candidate to live."""
        live, candidate = self.p95
        return candidate / live


class LatencyBounds(NamedTuple):
    """One-sided 99 % bounds of what the two p95 differ by."""

    ratio_low: float
    ratio_high: float
    seconds_low: float


def check_latency(context: VerifyContext) -> CheckResult:
    """Searches both versions in turn for the same queries, one search at a time.

    Golden queries where there is a set, each encoded for either version; else stored vectors of
    either version, drawn at random. Which version is asked first alternates, so that a machine
    that is busy for a while is busy for both. Refused is a candidate whose ratio of p95 lies above
    `rollout.latency_ratio` with 99 % confidence, and whose p95 is, with the same confidence, more
    than `rollout.latency_allowance_seconds` longer: nobody waits for half a millisecond that has
    become one. Both by a bootstrap over the queries (`latency_bounds`); what is measured above the
    bound and could be noise is measured up to three times as long, and then passes with a word
    about it.
    """
    bound = context.settings.rollout.latency_ratio
    allowance = context.settings.rollout.latency_allowance_seconds
    queries, kind = _queries(context)
    if len(queries) < _MINIMUM_QUERIES:
        words = f"there are {len(queries)} queries to measure with; fewer than {_MINIMUM_QUERIES}."
        return CheckResult(NAME, Outcome.SKIPPED, None, bound, _MEASURES, words)
    times = Latency([[] for _ in queries], [[] for _ in queries])
    for live, candidate in queries[:_WARM_UP]:
        _search(context, context.live, live)
        _search(context, context.candidate, candidate)
    bounds = LatencyBounds(0.0, 0.0, 0.0)
    refused = False
    for number in range(_MOST_ROUNDS):
        _round(context, queries, times, number)
        if number + 1 < _ROUNDS:
            continue
        bounds = latency_bounds(times.live, times.candidate, context.random)
        live, candidate = times.p95
        refused = bounds.ratio_low > bound and bounds.seconds_low > allowance
        if times.ratio <= bound or candidate - live <= allowance or refused:
            break
    ratio = times.ratio
    details = {
        "live_p95_seconds": round(live, 6),
        "candidate_p95_seconds": round(candidate, 6),
        "low": round(bounds.ratio_low, 4),
        "longer_low_seconds": round(bounds.seconds_low, 6),
        "queries": len(queries),
        "rounds": len(times.live[0]),
        "kind": kind,
    }
    words = (
        f"p95 is {1000 * candidate:.3g} ms against live's {1000 * live:.3g} ms over "
        f"{len(queries)} {kind} in {len(times.live[0])} rounds: {ratio:.2f} times as long, at "
        f"least {bounds.ratio_low:.2f} with 99 % confidence"
    )
    if refused:
        words += ". Look at the size of the collection, quantization and `ef`."
        return CheckResult(NAME, Outcome.REFUSE, ratio, bound, _MEASURES, words, details)
    if ratio > bound and candidate - live <= allowance:
        words += f"; {1000 * allowance:g} ms more are allowed at any ratio"
    elif ratio > bound:
        words += "; that is above the bound by less than the noise of this measurement"
    return CheckResult(NAME, Outcome.PASS, ratio, bound, _MEASURES, f"{words}.", details)


def latency_bounds(
    live: Sequence[Sequence[float]],
    candidate: Sequence[Sequence[float]],
    random: np.random.Generator,
) -> LatencyBounds:
    """One-sided 99 % bounds of the ratio of the two p95 and of their difference, seconds.

    Percentile bootstrap over the queries, 1,000 resamples; a query's rounds stay together, and so
    do its times in both versions.

    Parameters
    ----------
    live, candidate
        Seconds, a query a row.
    """
    before, after = np.asarray(live, float), np.asarray(candidate, float)
    p95 = np.empty((_RESAMPLES, 2))
    for number in range(_RESAMPLES):
        rows = random.integers(0, len(before), len(before))
        p95[number] = _p95(before[rows]), _p95(after[rows])
    low, high = np.quantile(p95[:, 1] / p95[:, 0], [_LEVEL, 1 - _LEVEL])
    return LatencyBounds(float(low), float(high), float(np.quantile(p95[:, 1] - p95[:, 0], _LEVEL)))


def _p95(seconds: npt.NDArray[np.float64]) -> float:
    return max(1e-9, float(np.quantile(seconds, 0.95)))


def _round(
    context: VerifyContext, queries: Sequence[tuple[Any, Any]], times: Latency, number: int
) -> None:
    order = context.random.permutation(len(queries))
    for place, row in enumerate(order):
        live, candidate = queries[row]
        context.watch("measuring searches", number * len(queries) + place, 0)
        if (place + number) % 2:
            times.live[row].append(_search(context, context.live, live))
            times.candidate[row].append(_search(context, context.candidate, candidate))
        else:
            times.candidate[row].append(_search(context, context.candidate, candidate))
            times.live[row].append(_search(context, context.live, live))


def _search(context: VerifyContext, version: Version, vector: Any) -> float:
    # A store of its own: one that has seen a document's head does not ask for it again.
    store = VersionStore(context.qdrant, version, Pace(None))
    started = time.perf_counter()
    store.search(vector, context.k)
    return time.perf_counter() - started


def _queries(context: VerifyContext) -> tuple[list[tuple[Any, Any]], str]:
    """Vectors for live and for the candidate, and what they are."""
    try:
        asked = context.golden_vectors
    except (CanaryMismatchError, ContractMismatchError, ModelError):
        asked = {}  # the canaries' check says it
    if asked:
        live, candidate = asked[context.live.name], asked[context.candidate.name]
        both = [query for query in live if query in candidate]
        chosen = context.random.permutation(len(both))[:_QUERIES]
        pairs = [(live[both[row]], candidate[both[row]]) for row in chosen]
        if len(pairs) >= _MINIMUM_QUERIES:
            return pairs, "golden queries"
    stored = [_stored(context, version) for version in (context.live, context.candidate)]
    return list(zip(*stored, strict=False)), "stored vectors"


def _stored(context: VerifyContext, version: Version) -> list[Any]:
    vectors = []
    for point in sample_points(
        context.qdrant,
        version.name,
        _QUERIES,
        where=live_points(),
        random=context.random,
        with_payload=(),
        with_vectors=True,
        dimension=version.contract.dimension,
    ):
        vector = (point.vector or {}).get(DENSE)
        if vector is not None:
            vectors.append(np.asarray(vector, np.float32))
    return vectors
