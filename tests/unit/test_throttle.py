"""The throttle: makes room for live events, within bounds, and comes back."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.errors import TransientError
from pipelines.core.throttle import (
    LEAST_SHARE,
    Freshness,
    LatestFreshness,
    Throttle,
    ThrottleTimes,
)
from tests.support.processes import wait_until

GOOD = Freshness(lag_records=3, searchable_seconds=0.4)
SLOW = Freshness(lag_records=3, searchable_seconds=9.0)
BEHIND = Freshness(lag_records=5000, searchable_seconds=0.4)
BETWEEN = Freshness(lag_records=3, searchable_seconds=4.5)


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.now += seconds
        return event.is_set()


def throttle(readings, clock: Clock | None = None, **more) -> tuple[Throttle, Clock]:
    """One whose looks take from the readings, and then nothing new."""
    clock = clock or Clock()
    left = iter(readings)
    made = Throttle(
        lambda: next(left, None),
        5.0,
        1000,
        times=ThrottleTimes(clock.monotonic, clock.wait),
        **more,
    )
    return made, clock


def work(made: Throttle, clock: Clock, seconds: float = 2.0) -> float:
    """One piece of work and the pause after it."""
    clock.now += seconds
    return made.after(seconds)


def test_full_speed_while_live_is_fresh() -> None:
    """Nothing is lost where nothing waits."""
    made, clock = throttle([GOOD] * 50)
    assert [work(made, clock) for _ in range(50)] == [0.0] * 50
    assert made.share == 1
    assert made.paused_seconds == 0


@pytest.mark.parametrize("reading", [SLOW, BEHIND])
def test_backs_off_by_half_at_each_bad_look(reading: Freshness) -> None:
    """Events that take too long, or too many that wait, halve the share of the time."""
    made, clock = throttle([reading, GOOD, GOOD])
    paused = work(made, clock)
    assert paused == pytest.approx(2.0 * (1 / 0.6 - 1), abs=0.7)
    assert made.share == pytest.approx(0.6)


def test_holds_between_calm_and_bound() -> None:
    """Just below the bound it neither grows nor shrinks: it would swing around it."""
    made, clock = throttle([SLOW] + [BETWEEN] * 20)
    for _ in range(10):
        work(made, clock)
    assert made.share == pytest.approx(0.5)


def test_nothing_known_changes_nothing() -> None:
    """Where nobody can tell how live fares, it goes on as it was."""
    made, clock = throttle([SLOW, None, Freshness(), None])
    for _ in range(4):
        work(made, clock)
    assert made.share == pytest.approx(0.5)


def test_never_stops_for_good() -> None:
    """However bad it looks, work goes on, and no pause is longer than ten seconds."""
    made, clock = throttle([SLOW] * 1000)
    pauses = [work(made, clock) for _ in range(20)]
    assert made.share == LEAST_SHARE
    assert max(pauses) <= 10.0 + 2.0


def test_looks_at_a_bounded_rate() -> None:
    """Small pieces of work do not ask the broker each time."""
    looks = []

    def read() -> Freshness:
        looks.append(clock.now)
        return GOOD

    clock = Clock()
    made = Throttle(read, 5.0, 1000, times=ThrottleTimes(clock.monotonic, clock.wait))
    for _ in range(100):
        work(made, clock, 0.1)
    assert len(looks) <= 10.0 / 2.0 + 1


def test_a_pause_ends_when_live_recovers() -> None:
    """The length of a pause is worked out anew at each look."""
    made, clock = throttle([SLOW] * 5 + [GOOD] * 100)
    work(made, clock)
    for _ in range(40):
        work(made, clock)
    assert made.share == 1
    assert work(made, clock) == 0


def test_stop_ends_a_pause() -> None:
    """A build that is told to stop does not sit out its pause."""
    stop = threading.Event()
    made, clock = throttle([SLOW] * 5, stop=stop)
    stop.set()
    assert work(made, clock) == 0


@given(
    st.lists(st.sampled_from([GOOD, SLOW, BEHIND, BETWEEN, None, Freshness()]), max_size=60),
    st.floats(0.01, 30.0),
)
def test_recovers_whatever_happened(history, seconds: float) -> None:
    """From any history the share stays within its bounds, and good looks bring full speed back."""
    made, clock = throttle([*history, *[GOOD] * 200])
    for _ in range(60):
        paused = work(made, clock, seconds)
        assert LEAST_SHARE <= made.share <= 1
        assert 0 <= paused <= 10.0 + made.look_seconds
    good = 0
    while made.share < 1:
        work(made, clock, max(seconds, made.look_seconds))
        good += 1
        assert good <= 75
    assert work(made, clock, seconds) == 0


def test_the_newest_answer_counts_once() -> None:
    """Whoever works never waits for Kafka; what was seen once is not counted twice."""
    answers = iter([GOOD, SLOW])
    asked = threading.Event()

    def read() -> Freshness | None:
        found = next(answers, None)
        if found is None:
            asked.set()
        return found

    latest = LatestFreshness(read, interval_seconds=0.001)
    try:
        assert asked.wait(10)
        assert latest() == SLOW
        assert latest() is None
    finally:
        latest.close()


def test_an_outage_is_nothing_new() -> None:
    """A broker that does not answer neither ends the thread nor slows the work."""
    answers = iter(["fails", GOOD])

    def read() -> Freshness | None:
        found = next(answers, None)
        if found == "fails":
            raise TransientError("no answer")
        return found

    latest = LatestFreshness(read, interval_seconds=0.001)
    try:
        assert wait_until(latest, 10) == GOOD
    finally:
        latest.close()
