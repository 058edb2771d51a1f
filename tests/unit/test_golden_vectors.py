"""Golden queries are encoded once by each encoder, and at leisure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from monitors.golden.golden_set import GoldenQuery
from monitors.golden.vectors import GoldenVectors
from monitors.probes.base import Deadline, ProbeTimeoutError
from pipelines.core.encoder import Encoded


class Counting:
    """An encoder that says what it was asked for, takes a second a call, and refuses `no`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.texts: list[str] = []

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        self.clock.now += 1.0
        self.texts.extend(texts)
        refused = {row: "zero" for row, text in enumerate(texts) if text == "no"}
        return Encoded(np.ones((len(texts), 2), np.float32), refused)


class Clock:
    """Time that passes when somebody works or sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


def queries(count: int, *texts: str) -> list[GoldenQuery]:
    asked = [f"query {number}" for number in range(count)] + list(texts)
    return [GoldenQuery(str(number), text, {"d": 1}, 1) for number, text in enumerate(asked)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vectors(clock: Clock) -> GoldenVectors:
    return GoldenVectors(clock=lambda: clock.now, sleep=clock.sleep)


def test_the_same_encoder_is_not_asked_again(clock: Clock, vectors: GoldenVectors) -> None:
    """The second run of the probe costs searches alone; other queries are encoded."""
    encoder: Any = Counting(clock)
    first = vectors.of(encoder, queries(40, "no"), Deadline.after(60))
    assert len(encoder.texts) == 41
    assert list(first) == [str(number) for number in range(40)]
    assert vectors.of(encoder, queries(40, "no"), Deadline.after(60)) is first
    assert len(encoder.texts) == 41
    vectors.of(encoder, queries(40, "yes"), Deadline.after(60))
    assert len(encoder.texts) == 82


def test_another_encoder_is_asked(clock: Clock, vectors: GoldenVectors) -> None:
    """A version's encoder never answers for another's; two keep their vectors."""
    encoders: list[Any] = [Counting(clock) for _ in range(2)]
    for _ in range(3):
        for encoder in encoders:
            vectors.of(encoder, queries(20), Deadline.after(60))
    assert [len(encoder.texts) for encoder in encoders] == [20, 20]
    third: Any = Counting(clock)
    vectors.of(third, queries(20), Deadline.after(60))
    assert len(third.texts) == 20


def test_an_encoder_that_is_gone_takes_its_vectors_along(
    clock: Clock, vectors: GoldenVectors
) -> None:
    """What the monitor has freed is not kept alive by the probe."""
    for _ in range(5):
        encoder: Any = Counting(clock)
        vectors.of(encoder, queries(3), Deadline.after(60))
        assert len(encoder.texts) == 3
        del encoder
    assert sum(reference() is not None for reference, *_ in vectors._kept) == 0


def test_encoding_leaves_time_to_others(clock: Clock, vectors: GoldenVectors) -> None:
    """Three seconds of rest for each second of work, none after the last."""
    encoder: Any = Counting(clock)
    vectors.of(encoder, queries(40), Deadline.after(60))
    assert (clock.slept, clock.now) == (6.0, 9.0)


def test_time_that_is_up_ends_it(clock: Clock, vectors: GoldenVectors) -> None:
    """The deadline is looked at before every slice."""
    encoder: Any = Counting(clock)
    with pytest.raises(ProbeTimeoutError):
        vectors.of(encoder, queries(40), Deadline.after(-1))
    assert encoder.texts == []
