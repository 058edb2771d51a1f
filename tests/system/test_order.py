"""However events are spread and shuffled: while a key keeps its order, the index is the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipelines import ingest
from pipelines.core.points import OURS
from tests.support.scenario import Scenario
from tests.support.stream import Message, Stream, interleaved

SEED = 20_260_315
PARTITIONS = (1, 4, 16)


def contents(it: Scenario) -> dict[str, Any]:
    """What the index holds, without what depends on where an event stood."""
    assert it.version is not None
    found: dict[str, Any] = {}
    offset = None
    while True:
        records, offset = it.qdrant.call(
            "scroll", it.version.name, limit=1000, offset=offset, with_vectors=False
        )
        for record in records:
            payload = dict(record.payload)
            ours = payload.pop(OURS)
            found[f"{ours['document_id']}#{ours['chunk']}"] = {
                "metadata": payload,
                **{
                    name: ours.get(name)
                    for name in ("title", "text", "text_hash", "chunks", "start", "end", "deleted")
                },
            }
        if offset is None:
            return found


def run(it: Scenario, messages: Sequence[Message], timestamps: Sequence[int] | None) -> None:
    """Puts the messages into the topic, reads it to its end and compares with the replay."""
    it.topic.produce(messages, timestamps)
    result = ingest.run_ingest(it.settings, until_caught_up=True, create=True)
    assert result.exit_code == 0, result
    assert result.counts.consumed == len(messages)
    problems = it.problems()
    assert not problems, problems[:10]


@pytest.mark.acceptance
@pytest.mark.timeout(900)
@pytest.mark.parametrize("order_by", ["timestamp", "version"])
def test_order_and_partitions_change_nothing(
    scenario: Callable[..., Scenario], order_by: str, acceptance: bool
) -> None:
    """Over 1, 4 and 16 partitions, shuffled between keys: the same documents and chunks."""
    count, documents = (6000, 600) if acceptance else (1500, 150)
    stream = Stream(SEED, documents, versioned=order_by == "version", unchanged_share=0.35)
    messages = list(stream.take(count))
    shuffles: list[tuple[str, list[Message], list[int] | None]] = [
        (f"-{partitions}", interleaved(messages, SEED + partitions), None)
        for partitions in PARTITIONS
    ]
    results = {}
    for suffix, shuffled, timestamps in shuffles:
        it = scenario(
            suffix,
            partitions=int(suffix[1:]),
            settings={
                "kafka": {"order_by": order_by},
                "ingest": {"batch_events": 128, "bundle_events": 512, "bundle_seconds": 5},
            },
        )
        run(it, shuffled, timestamps)
        results[suffix] = contents(it)
    first = results.pop("-1")
    for suffix, other in results.items():
        assert first == other, f"1 and {suffix[1:]} partitions differ"


@pytest.mark.timeout(300)
def test_versions_decide_whatever_the_order(scenario: Callable[..., Scenario]) -> None:
    """With `order_by: version` a key's events may come in any order and with any timestamps."""
    stream = Stream(SEED + 1, 40, versioned=True, unchanged_share=0.35)
    messages = list(stream.take(600))
    rng = random.Random(SEED)
    results = []
    for suffix in ("-a", "-b"):
        rng.shuffle(messages)
        it = scenario(suffix, partitions=4, settings={"kafka": {"order_by": "version"}})
        stamps = [it.topic.first_timestamp + rng.randrange(10_000) for _ in messages]
        run(it, messages, stamps)
        results.append(contents(it))
    assert results[0] == results[1]


@pytest.mark.timeout(300)
def test_timestamps_decide_whatever_the_order(scenario: Callable[..., Scenario]) -> None:
    """Late events change nothing: mirrors and several topics bring them out of their order."""
    stream = Stream(SEED + 2, 40, unchanged_share=0.35)
    messages = list(stream.take(600))
    order = list(range(len(messages)))
    rng = random.Random(SEED)
    results = []
    for suffix in ("-a", "-b"):
        rng.shuffle(order)
        it = scenario(suffix, partitions=4)
        stamps = [it.topic.first_timestamp + number for number in order]
        run(it, [messages[number] for number in order], stamps)
        results.append(contents(it))
    assert results[0] == results[1]
