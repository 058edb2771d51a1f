"""Many windows one after another: how often the control alarms over a stream."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
from scipy.stats import binomtest, norm

from monitors.drift import SequentialControl, two_sample_test
from tests.benchmarks.drift_scenarios import Population

__all__ = ["STREAMS", "known_good_and_drifted", "stream_rows"]

STREAMS = int(os.environ.get("DRIFT_STREAMS", "400"))
"""Streams of each kind by day; a quarter of them by hour."""

_WINDOWS = int(os.environ.get("DRIFT_WINDOWS", "400"))
"""Real windows whose scores the streams are made of."""

_REFERENCE = 2000
_WINDOW = 500
_WOBBLE = 0.15
_FIRST = datetime(2025, 1, 6, tzinfo=UTC)
_DAILY_BASELINE = 30
_HOURLY_BASELINE = 336
_CORRELATION = 0.5

Scores = np.ndarray
"""Shape (windows, 2): score and effect."""


def known_good_and_drifted(population: Population) -> tuple[Scores, Scores, float]:
    """Scores of windows that wobble, of such windows with 20 % of one topic, and p ≤ .05 by day."""
    random = np.random.default_rng(99)
    order = random.permutation(len(population.vectors))
    reference = population.vectors[order[:_REFERENCE]]
    rows = order[_REFERENCE:]
    labels = population.own.labels[rows]
    names = np.unique(labels)
    good, drifted, small = [], [], 0
    for number in range(_WINDOWS + _WINDOWS // 4):
        factor = dict(
            zip(names, np.exp(random.normal(scale=_WOBBLE, size=len(names))), strict=True)
        )
        weights = np.array([factor[label] for label in labels])
        flooded = number >= _WINDOWS
        count = _WINDOW - _WINDOW // 5 if flooded else _WINDOW
        window = random.choice(rows, count, replace=False, p=weights / weights.sum())
        if flooded:
            topic = random.choice(population.topics)
            left = np.setdiff1d(rows[labels == topic], window)
            flood = random.permutation(left)[: _WINDOW // 5]
            window = np.concatenate([window, flood])
        test = two_sample_test(reference, population.vectors[window], random=random)
        (drifted if flooded else good).append((test.statistic, test.effect))
        small += not flooded and test.p_value <= 0.05
    return np.array(good), np.array(drifted), small / _WINDOWS


def stream_rows(population: Population) -> list[list[str]]:
    """Rows for the table."""
    good, drifted, small = known_good_and_drifted(population)
    order = np.argsort(good[:, 0])
    ranked = good[order]
    scores = f"scores up to {good[:, 0].max():.1f}; with mix20 {np.median(drifted[:, 0]):.1f}"
    first = ["wobble, one test a day", str(_WINDOW), population.name, str(_WINDOWS)]
    rows = [[*first, f"{small:.3f}", "", "", scores]]
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
    for baseline in (_DAILY_BASELINE, 60):
        for correlation in (0.0, _CORRELATION):
            caught = 0
            for _ in range(STREAMS // 2):
                before = _correlated(ranked, baseline, correlation, random)
                after = drifted[random.integers(len(drifted), size=3)]
                first = _first_alarm(np.concatenate([before, after]), timedelta(days=1))
                caught += first is not None and first >= baseline
            name = f"mix20 within 3 days, baseline {baseline}, correlation {correlation}"
            rows.append(_row(name, population, caught, STREAMS // 2, "caught"))
    return rows


def _row(name: str, population: Population, hits: int, streams: int, target: str) -> list[str]:
    interval = binomtest(hits, streams).proportion_ci(0.99)
    row = [name, str(_WINDOW), population.name, str(streams), f"{hits / streams:.3f}"]
    row += [f"{interval.low:.3f}-{interval.high:.3f}", target, ""]
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
