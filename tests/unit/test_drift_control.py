"""Control over time: what it needs for an alarm, what it keeps, and how rarely it is wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.stats import binom

from monitors.drift.betting import bets, conformal_p_value
from monitors.drift.control import SequentialControl
from monitors.drift.pool import MOST_WINDOWS, _memory, spreads
from monitors.drift.tail import tail_p_value
from pipelines.core.errors import SettingsError

START = datetime(2025, 1, 6, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def feed(control, scores, *, begin=0, step=DAY, effect=None, minimum_effect=0.0, seasons=False):
    """All decisions on these scores."""
    decisions = []
    for number, score in enumerate(scores, start=begin):
        at = START + number * step
        decisions.append(
            control.update(
                float(score),
                effect=1.0 if effect is None else effect,
                minimum_effect=minimum_effect,
                at=at,
                season=f"{at.hour:02}" if seasons else None,
            )
        )
    return decisions


def normal(seed, windows, correlation=0.0):
    """A stream of scores without drift; its neighbours correlate as told."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=windows)
    for number in range(1, windows):
        scores[number] = (
            correlation * scores[number - 1] + np.sqrt(1 - correlation**2) * scores[number]
        )
    return scores


def watched(windows=30, **parameters):
    """A control with a baseline of that many days."""
    control = SequentialControl(**parameters)
    feed(control, normal(0, windows))
    return control


def alarmed(decisions):
    return any(decision.alarm for decision in decisions)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_few_daily_streams_alarm_without_drift(correlation):
    """Of 80 streams of 60 days no more alarm than .05 allows at 99.9 %."""
    alarms = sum(
        alarmed(feed(SequentialControl(), normal(seed, 90, correlation))) for seed in range(80)
    )
    assert alarms <= binom.ppf(0.999, 80, 0.05)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_few_hourly_streams_alarm_without_drift(correlation):
    """Of 6 streams of 60 days of hours, none or one alarms."""
    streams = [normal(seed, 336 + 1440, correlation) for seed in range(6)]
    alarms = sum(
        alarmed(feed(SequentialControl(), scores, step=HOUR, seasons=True)) for scores in streams
    )
    assert alarms <= binom.ppf(0.999, 6, 0.05)


def test_catches_a_large_drift_in_three_windows():
    """Windows ten standard deviations above the baseline alarm by the third."""
    for seed in range(20):
        control = SequentialControl()
        assert not alarmed(feed(control, normal(seed, 30)))
        assert alarmed(feed(control, 10 + normal(100 + seed, 3), begin=30))


def test_one_strange_window_is_no_alarm():
    """A single outlier, however large, does not alarm; nor does it join the baseline for long."""
    control = watched()
    assert not alarmed(feed(control, [1000.0], begin=30))
    assert not alarmed(feed(control, normal(1, 20), begin=31))


def test_a_small_effect_never_alarms():
    """Evidence does not grow below the least effect."""
    control = watched()
    decisions = feed(control, [10.0] * 10, begin=30, effect=0.01, minimum_effect=0.02)
    assert not alarmed(decisions)


def test_a_small_baseline_warns_instead():
    """With ten known-good days the same drift is a warning."""
    control = SequentialControl(minimum_spreads=0.0)
    feed(control, normal(0, 10))
    decisions = feed(control, 10 + np.arange(12), begin=10)
    assert not alarmed(decisions[:9])
    assert not decisions[0].trusted
    assert any(decision.warning for decision in decisions)


def test_a_short_span_is_not_trusted():
    """A hundred windows of one day are not two weeks."""
    control = SequentialControl()
    feed(control, normal(0, 100), step=timedelta(minutes=15))
    assert not control.trusted
    assert not alarmed(feed(control, [10.0] * 5, begin=100, step=timedelta(minutes=15)))


def test_an_alarm_stays_until_the_evidence_has_fallen():
    """It holds over the drift and some good windows, then ends by itself."""
    control = watched()
    feed(control, [10.0] * 5, begin=30)
    good = feed(control, normal(2, 20), begin=35)
    assert good[0].alarm
    assert not good[-1].alarm
    assert good[-1].e_value < 200


def test_reset_takes_an_alarm_back_and_keeps_the_baseline():
    """Somebody has looked: the next good window is not an alarm."""
    control = watched()
    size = control.baseline_size
    assert feed(control, [10.0] * 5, begin=30)[-1].alarm
    control.reset()
    assert not feed(control, [0.0], begin=35)[-1].alarm
    assert control.baseline_size >= size


def test_windows_of_an_alarm_do_not_join_the_baseline():
    """A drift that lasts stays an alarm."""
    control = watched(60)
    decisions = feed(control, 10 + normal(3, 60), begin=60)
    assert all(decision.alarm for decision in decisions[3:])
    assert decisions[-1].baseline_size == decisions[3].baseline_size


def test_survives_being_written_down_after_every_window():
    """Through JSON at each step, every decision is the same."""
    scores = np.concatenate([normal(4, 40), 10 + normal(5, 4), normal(6, 10)])
    steady = feed(SequentialControl(), scores, seasons=True)
    state = None
    for number, score in enumerate(scores):
        control = SequentialControl.from_json(state)
        (decision,) = feed(control, [score], begin=number, seasons=True)
        assert decision.alarm == steady[number].alarm
        assert decision.e_value == pytest.approx(steady[number].e_value, rel=1e-5)
        state = json.loads(json.dumps(control.to_json()))


def test_memory_is_bounded():
    """The state of many more windows than are kept stays below 200 kB."""
    control = SequentialControl()
    feed(control, normal(7, MOST_WINDOWS + 50), step=HOUR, seasons=True)
    assert control.baseline_size == MOST_WINDOWS
    assert len(json.dumps(control.to_json())) < 200_000


@pytest.mark.parametrize(("windows", "correlation"), [(30, 0.0), (30, 0.5), (400, 0.5)])
def test_what_carries_over_is_rarely_taken_for_less(windows, correlation):
    """Two standard errors above what is found: at most 5 % lie below, and no more above."""
    found = []
    for seed in range(300):
        series = normal(1_000 + seed, windows, correlation)
        found.append(_memory(series - series.mean()))
    assert np.mean(np.array(found) < correlation) <= 0.05
    assert np.mean(found) <= correlation + 2 / np.sqrt(windows) + 0.05


def test_overlapping_windows_are_no_new_evidence():
    """Hourly looks at a daily window count once a day."""
    control = watched(30, window_seconds=86_400.0)
    decisions = [
        control.update(10.0, effect=1, minimum_effect=0, at=START + 30 * DAY + hour * HOUR)
        for hour in range(21)
    ]
    assert [decision.counted for decision in decisions] == [True] + [False] * 20
    assert not alarmed(decisions)
    assert decisions[-1].e_value == decisions[0].e_value


def test_the_usual_level_of_the_hour_is_taken_off():
    """A score that is high every noon is ordinary at noon and unusual at midnight."""
    control = SequentialControl()
    hours = np.arange(24 * 21) % 24
    feed(control, normal(8, len(hours)) + 8.0 * (hours == 12), step=HOUR, seasons=True)
    noon, midnight = START + 21 * DAY + 12 * HOUR, START + 22 * DAY
    kwargs = {"effect": 1.0, "minimum_effect": 0.0}
    assert control.update(8.0, at=noon, season="12", **kwargs).p_value > 0.1
    assert control.update(8.0, at=midnight, season="00", **kwargs).p_value < 0.02


def test_a_score_that_never_changes_is_not_unusual():
    """Ties count against drift: the golden probe of an unchanged index."""
    decisions = feed(SequentialControl(), [0.5] * 60)
    assert {decision.p_value for decision in decisions} == {1.0}
    assert not alarmed(decisions)


@pytest.mark.parametrize("ranks", [1, 6, 21, 60, 501, 100_000])
def test_no_wager_gains_on_average_without_drift(ranks):
    """Each wager's mean over equally likely p-values is at most 1, and near it where they are fine.

    Their midpoints are taken, 1/2n, 3/2n and so on: a p-value of a rank is larger and pays less.
    """
    paid = np.array([bets((rank - 0.5) / ranks) for rank in range(1, ranks + 1)]).mean(axis=0)
    by_ranks = np.array([bets(rank / ranks) for rank in range(1, ranks + 1)]).mean(axis=0)
    assert (by_ranks <= 1 + 1e-9).all()
    assert ranks < 100_000 or paid == pytest.approx([1.0] * len(paid), abs=0.01)


def test_no_single_window_decides():
    """The least p-value pays far less than an alarm needs."""
    assert max(bets(0.0)) < 100


@pytest.mark.parametrize(
    "draw",
    [
        lambda random, size: random.exponential(size=size),
        lambda random, size: random.normal(size=size),
        lambda random, size: random.chisquare(4, size=size),
        lambda random, size: random.lognormal(sigma=0.5, size=size),
    ],
    ids=["exponential", "normal", "chi-squared", "lognormal"],
)
@pytest.mark.parametrize("windows", [30, 336])
def test_p_values_beyond_the_known_good_windows_are_calibrated(draw, windows):
    """No more of 4,000 p-values are below a level than it says, beyond 1 / (n + 1) too (99.9 %)."""
    random = np.random.default_rng(21)
    found = np.array([tail_p_value(row[0], row[1:]) for row in draw(random, (4000, windows + 1))])
    for level in (0.1, 0.02, 0.002):
        assert np.count_nonzero(found <= level) <= binom.ppf(0.999, 4000, level)


def test_the_farther_beyond_the_rarer():
    """Above all known-good windows the p-value goes on falling; among them it is the rank's."""
    known_good = normal(9, 30)
    highest = known_good.max()
    assert tail_p_value(highest - 1e-9, known_good) == 2 / 31
    rarer = [tail_p_value(highest + distance, known_good) for distance in (0.01, 1.0, 3.0, 9.0)]
    assert rarer == sorted(rarer, reverse=True)
    assert rarer[0] <= 1 / 31
    assert rarer[-1] < 1e-3


def test_a_tail_without_excesses_leaves_the_rank():
    """Known-good windows that are all alike say nothing of the tail; nor do fewer than 20."""
    assert tail_p_value(2.0, np.ones(30)) == 1 / 31
    assert tail_p_value(50.0, normal(10, 19)) == 1 / 20


def test_hourly_windows_need_the_evidence_of_a_days_windows():
    """The run length counts days where windows are shorter: one window gives a 24th of it."""
    daily, hourly = SequentialControl(), SequentialControl()
    feed(daily, normal(11, 336))
    feed(hourly, normal(11, 336), step=HOUR)
    (day,) = feed(daily, [30.0], begin=336)
    (hour,) = feed(hourly, [30.0], begin=336, step=HOUR)
    assert day.p_value == hour.p_value
    assert hour.e_value == pytest.approx(day.e_value / 24, rel=0.01)


def test_conformal_p_value_counts_ties():
    """(1 + number at least as large) / (1 + number)."""
    assert conformal_p_value(2.0, np.array([1.0, 2.0, 3.0])) == 3 / 4
    assert conformal_p_value(9.0, np.array([1.0, 2.0, 3.0])) == 1 / 4
    assert conformal_p_value(0.0, np.array([])) == 1.0


def test_spreads_of_a_symmetric_sample_are_standard_deviations():
    """And a value above others that do not vary is infinitely far."""
    values = np.random.default_rng(9).normal(5, 2, size=4000)
    assert spreads(11.0, values) == pytest.approx(3.0, abs=0.15)
    assert spreads(2.0, np.ones(10)) == float("inf")
    assert spreads(1.0, np.ones(10)) == 0.0
    assert spreads(9.0, np.ones(4)) == 0.0


@pytest.mark.parametrize(
    "state",
    [
        {"format": 2},
        {},
        {"format": 1},
        {"format": 1, "pool": {}, "pending": [], "last": None, "evidence": [], "alarm": False},
    ],
)
def test_refuses_a_state_it_did_not_write(state):
    """With an error that says what to do."""
    with pytest.raises(SettingsError, match="plumbline monitor reset"):
        SequentialControl.from_json(state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_scores_that_are_not_finite(value):
    """They would poison the baseline."""
    control = SequentialControl()
    with pytest.raises(SettingsError, match="finite"):
        control.update(value, effect=0, minimum_effect=0, at=START)
    with pytest.raises(SettingsError, match="finite"):
        control.update(0, effect=value, minimum_effect=0, at=START)


def test_refuses_a_time_without_a_zone_and_a_short_run_length():
    """Both are mistakes of the caller."""
    with pytest.raises(SettingsError, match="time zone"):
        SequentialControl().update(0, effect=0, minimum_effect=0, at=START.replace(tzinfo=None))
    with pytest.raises(SettingsError, match="at least 20"):
        SequentialControl(average_run_length=10)
