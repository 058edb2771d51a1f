"""The same job on Prism, Beam's own portable runner: nothing in it is Flink's alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import require
from tests.support.prism_server import INSTALL_HINT, PrismServer, prism_available
from tests.support.scenario import Scenario
from tests.support.stream import Stream

SEED = 20_261_127


@pytest.fixture
def prism() -> Iterator[PrismServer]:
    """A Prism that ends with the test, and its jobs with it."""
    require(prism_available(), INSTALL_HINT)
    with PrismServer() as server:
        yield server


@pytest.mark.timeout(400)
def test_the_same_index_on_prism(scenario: Callable[..., Scenario], prism: PrismServer) -> None:
    """Killed once and started anew: index, dead letters and offsets are a replay's."""
    it = scenario(partitions=4)
    stream = Stream(SEED, 150, sentences=3, unchanged_share=0.35)
    arguments = ["--runner", "portable", "--job-endpoint", prism.endpoint]
    it.topic.produce(stream.take(500))
    with it.job(*arguments) as job:
        it.wait_committed(job, 100, 120)
    assert not it.durability_problems()
    it.topic.produce(stream.take(200))
    with it.job(*arguments) as job:
        it.wait_caught_up(job)
        it.topic.produce(stream.take(100))
        it.wait_caught_up(job)
    it.topic.produce(stream.take(100))
    with it.job(*arguments, "--until-caught-up") as job:
        assert job.wait(120) == 0, job.log()
    assert it.caught_up()
    problems = it.problems()
    assert not problems, problems[:10]
