"""Splits go evenly to the subtasks of a Flink job."""

from __future__ import annotations

from collections import Counter

import pytest

from pipelines.core.settings import Settings
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.source import KafkaSource, KafkaSourceCoder
from pipelines.io.kafka.spread import keyed, salt_for, subtask_of, unkeyed


def test_agrees_with_flink():
    """Key groups of keys as Flink 1.19 computes them (`KeyGroupRangeAssignment`, 128 groups)."""
    groups = {b"": 123, b"a": 75, b"\xff\x00\x80": 4, b"x" * 200: 118}
    assert groups == {element: subtask_of(element, 128, 128) for element in groups}


@pytest.mark.parametrize("splits", [1, 2, 3, 4, 6, 16, 128, 200])
@pytest.mark.parametrize("max_parallelism", [128, 32_768])
def test_every_subtask_has_its_share(splits, max_parallelism):
    """At any parallelism no subtask has two splits more than another, and none stands idle."""
    settings = Settings(kafka={"topics": ["documents"], "splits": splits})
    sources = KafkaSource(Feed.of(settings, "group"), "run").splits(max_parallelism)
    coder = KafkaSourceCoder()
    elements = [coder.encode(source) for source in sources]
    for parallelism in (1, 2, 3, 4, 8):
        if parallelism > splits:
            continue
        loads = Counter(subtask_of(element, parallelism, max_parallelism) for element in elements)
        assert parallelism == len(loads)
        assert max(loads.values()) - min(loads.values()) <= 1


def test_the_number_is_no_part_of_the_source():
    """A split is the same whatever subtask it was meant for: Beam finds parked readers by it."""
    settings = Settings(kafka={"topics": ["documents"], "splits": 2})
    whole = KafkaSource(Feed.of(settings, "group"), "run")
    for one, other in zip(whole.splits(128), whole.splits(64), strict=True):
        coder = KafkaSourceCoder()
        assert one == coder.decode(coder.encode(other))
    assert unkeyed(keyed(b"state", 7)) == b"state"


def test_splits_beyond_the_key_groups_are_spread_as_well():
    """More splits than key groups share them."""
    groups = [subtask_of(keyed(b"s", salt_for(b"s", n, 8, 4)), 4, 4) for n in range(8)]
    assert groups == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_element_keeps_its_key_through_a_worker():
    """What a worker decodes and encodes again falls where it was meant to fall."""
    feed = Feed.of(Settings(kafka={"topics": ["documents"], "splits": 8}), "group")
    coder = KafkaSourceCoder()
    elements = [coder.encode(source) for source in KafkaSource(feed, "run").splits(128)]
    again = [coder.encode(coder.decode(element)) for element in elements]
    assert again == elements
    assert [subtask_of(element, 8, 128) for element in again] == list(range(8))
