"""Many windows one after another: how often the control alarms over a stream."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from scipy.stats import binomtest, norm

from monitors.drift import DriftTest, SequentialControl, two_sample_test
from tests.benchmarks.drift_scenarios import Population

__all__ = ["STREAMS", "Scored", "scored_windows", "stream_rows"]

STREAMS = int(os.environ.get("DRIFT_STREAMS", "400"))
"""Streams of each kind by day; a quarter of them by hour."""

_WINDOWS = int(os.environ.get("DRIFT_WINDOWS", "400"))
"""Real windows whose scores the streams are made of."""

_TOPIC_WINDOWS = max(8, _WINDOWS // 20)
"""Real windows for each topic that floods; a flood is of one topic for all its days."""

_REFERENCE = 2000
_WINDOW = 500
_WOBBLE = 0.15
_FIRST = datetime(2025, 1, 6, tzinfo=UTC)
_DAILY_BASELINE = 30
_HOURLY_BASELINE = 336
_CORRELATION = 0.5

Scores = np.ndarray
"""Shape (windows, 2): score and effect."""


@dataclass(frozen=True)
class Scored:
    """Scores of real windows.

    Parameters
    ----------
    good
        Of windows whose topics wobble.
    drifted
        By topic: of such windows with 20 % of that topic.
    small
        Share of the good ones with p ≤ .05.
    """

    good: Scores
    drifted: Mapping[str, Scores]
    small: float


def scored_windows(population: Population) -> Scored:
    """Tests windows against one reference; each window's documents are drawn anew."""
    random = np.random.default_rng(99)
    order = random.permutation(len(population.vectors))
    reference = population.vectors[order[:_REFERENCE]]
    rows = order[_REFERENCE:]
    labels = population.own.labels[rows]
    names = np.unique(labels)

    def tested(flooded_by: str | None) -> DriftTest:
        factor = dict(
            zip(names, np.exp(random.normal(scale=_WOBBLE, size=len(names))), strict=True)
        )
        weights = np.array([factor[label] for label in labels])
        flood = 0 if flooded_by is None else _WINDOW // 5
        window = random.choice(rows, _WINDOW - flood, replace=False, p=weights / weights.sum())
        if flooded_by is not None:
            left = np.setdiff1d(rows[labels == flooded_by], window)
            window = np.concatenate([window, random.permutation(left)[:flood]])
        return two_sample_test(reference, population.vectors[window], random=random)

    def scores(tests: list[DriftTest]) -> Scores:
        return np.array([(test.statistic, test.effect) for test in tests])

    good = [tested(None) for _ in range(_WINDOWS)]
    drifted = {
        topic: scores([tested(topic) for _ in range(_TOPIC_WINDOWS)]) for topic in population.topics
    }
    return Scored(scores(good), drifted, float(np.mean([test.p_value <= 0.05 for test in good])))


def stream_rows(population: Population) -> list[list[str]]:
    """Rows for the table."""
    scored = scored_windows(population)
    ranked = scored.good[np.argsort(scored.good[:, 0])]
    first = ["wobble, one test a day", str(_WINDOW), population.name, str(_WINDOWS)]
    rows = [[*first, f"{scored.small:.3f}", "", "", f"scores up to {ranked[-1, 0]:.1f}"]]
    print(" | ".join(rows[0]), file=sys.stderr, flush=True)
    random = np.random.default_rng(5)
    day, hour, fewer = timedelta(days=1), timedelta(hours=1), STREAMS // 4
    kinds = (
        ("60 days of wobble", day, _DAILY_BASELINE, 60, 0.0, STREAMS),
        ("60 days, correlated", day, _DAILY_BASELINE, 60, _CORRELATION, STREAMS),
        ("1,440 hours", hour, _HOURLY_BASELINE, 1440, 0.0, fewer),
        ("1,440 hours, correlated", hour, _HOURLY_BASELINE, 1440, _CORRELATION, fewer),
    )
    for name, step, baseline, windows, correlation, streams in kinds:
        alarms = sum(
            _first_alarm(_correlated(ranked, baseline + windows, correlation, random), step)
            is not None
            for _ in range(streams)
        )
        rows.append(_row(name, population, alarms, streams, "<= .05"))
    shares = {topic: float(np.mean(population.own.labels == topic)) for topic in scored.drifted}
    for baseline in (_DAILY_BASELINE, 60):
        for correlation in (0.0, _CORRELATION):
            caught: dict[str, int] = {}
            each = max(1, STREAMS // 2 // len(shares))
            for topic, drifted in scored.drifted.items():
                for _ in range(each):
                    before = _correlated(ranked, baseline, correlation, random)
                    after = drifted[random.integers(len(drifted), size=3)]
                    alarm = _first_alarm(np.concatenate([before, after]), day)
                    caught[topic] = caught.get(topic, 0) + (alarm is not None and alarm >= baseline)
            name = f"mix20 within 3 days, baseline {baseline}, correlation {correlation}"
            words = ", ".join(
                f"{topic} ({shares[topic]:.0%}) {hits / each:.2f}"
                for topic, hits in sorted(caught.items(), key=lambda item: -shares[item[0]])
            )
            hits = sum(caught.values())
            rows.append(_row(name, population, hits, each * len(shares), "caught", words))
    return rows


def _row(
    name: str, population: Population, hits: int, streams: int, target: str, words: str = ""
) -> list[str]:
    interval = binomtest(hits, streams).proportion_ci(0.99)
    row = [name, str(_WINDOW), population.name, str(streams), f"{hits / streams:.3f}"]
    row += [f"{interval.low:.3f}-{interval.high:.3f}", target, words]
    print(" | ".join(row), file=sys.stderr, flush=True)
    return row


def _correlated(
    ranked: Scores, windows: int, correlation: float, random: np.random.Generator
) -> Scores:
    """A stream whose values are the ranked ones, and whose ranks follow a Gaussian AR(1)."""
    noise = random.normal(size=windows)
    state = np.empty(windows)
    state[0] = noise[0]
    for number in range(1, windows):
        state[number] = (
            correlation * state[number - 1] + np.sqrt(1 - correlation**2) * noise[number]
        )
    place = norm.cdf(state) * (len(ranked) - 1)
    columns = [np.interp(place, np.arange(len(ranked)), ranked[:, column]) for column in (0, 1)]
    return np.stack(columns, axis=1)


def _first_alarm(stream: Scores, step: timedelta) -> int | None:
    """Number of the first window that alarms, from 0; `None` without one."""
    control = SequentialControl()
    for number, (score, effect) in enumerate(stream):
        at = _FIRST + number * step
        decision = control.update(
            float(score),
            effect=float(effect),
            minimum_effect=0.0,
            at=at,
            season=f"{at.hour:02}" if step < timedelta(days=1) else None,
        )
        if decision.alarm:
            return number
    return None
