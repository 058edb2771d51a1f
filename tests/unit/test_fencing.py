"""A run that has lost its lease reads and commits nothing more."""

from __future__ import annotations

import pytest
from kafka import TopicPartition

from pipelines.core.errors import LeaseHeldError, PlumblineError, ServiceUnavailableError
from pipelines.core.failures import FAILURES
from pipelines.core.settings import Settings
from pipelines.io.kafka import mark
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.mark import KafkaMark
from pipelines.io.kafka.positions import Place
from pipelines.io.kafka.reader import KafkaReader


@pytest.fixture(autouse=True)
def clean():
    FAILURES.clear()
    yield
    FAILURES.clear()


@pytest.mark.parametrize(
    "lost_to", [LeaseHeldError("taken over"), ServiceUnavailableError("not renewed in time")]
)
def test_a_lost_lease_stops_reading_and_committing(lost_to: PlumblineError, monkeypatch):
    """Whether another job has taken over for certain, or only may have."""
    committed: list[object] = []
    monkeypatch.setattr(mark, "commit", lambda feed, places: committed.append(places))
    feed = Feed.of(Settings(kafka={"topics": ["documents"]}), "group")
    place = {TopicPartition("documents", 0): Place(5)}
    KafkaMark(feed, place).finalize_checkpoint()
    FAILURES.fence(lost_to)
    KafkaMark(feed, place).finalize_checkpoint()
    assert committed == [place]
    reader = KafkaReader(feed, "run", 0, place, None)
    with pytest.raises(type(lost_to)):
        reader.advance()
