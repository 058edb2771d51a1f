"""The same job on Flink, through Beam's job server, with `LOOPBACK` workers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.core.encoder import load_encoder
from pipelines.core.settings import Settings
from pipelines.core.versions import create_version
from tests.support.flink_server import FlinkJobServer
from tests.support.forked import ForkedProcess
from tests.support.fusion import SINKS, STEPS
from tests.support.jobs import ENVIRONMENT
from tests.support.processes import wait_until
from tests.support.replay import compare, replay
from tests.support.scenario import Scenario, merged
from tests.support.stream import Stream

SEED = 20_260_319


@pytest.fixture
def jobs(require_flink: None) -> Iterator[FlinkJobServer]:
    """Beam's job server with a Flink inside it, which ends with it: a job there never ends."""
    with FlinkJobServer() as server:
        yield server


def arguments(jobs: FlinkJobServer) -> list[str]:
    """Those of `plumbline ingest` that run it there."""
    return [
        *("--runner", "flink", "--job-endpoint", jobs.endpoint),
        "--beam-option=--parallelism=2",
        # Offsets are committed when a checkpoint completes.
        "--beam-option=--checkpointing_interval=500",
    ]


def tasks(jobs: FlinkJobServer) -> set[str]:
    """Flink's tasks: the steps between two redistributions, by the names that Beam gives them."""
    scheduled = re.compile(r"ExecutionGraph - (.*) \(\d+/\d+\) \(\S+\) switched from CREATED")
    return set(scheduled.findall(jobs.process.log()))


def break_problems(names: set[str]) -> list[str]:
    """Why offsets could be committed before their effects, as `fusion_problems` says.

    What reads a split and all that follows must be one task. Beside it there are the source of
    the one element that starts everything, and the task that makes the splits of it.
    """
    working = [name for name in names if all(step in name for step in (*STEPS, *SINKS))]
    problems = [] if len(working) == 1 else [f"no one task has all steps: {sorted(names)}"]
    if len(names) != 3:
        problems.append(f"expected three tasks, there are {len(names)}: {sorted(names)}")
    return problems


@pytest.mark.timeout(400)
def test_the_same_index_on_flink(scenario: Callable[..., Scenario], jobs: FlinkJobServer) -> None:
    """Two splits on two subtasks, killed once: index, dead letters and offsets are a replay's."""
    it = scenario(partitions=4, settings={"kafka": {"splits": 2}})
    stream = Stream(SEED, 150, sentences=3, unchanged_share=0.35)
    it.topic.produce(stream.take(800))
    with it.job(*arguments(jobs)) as job:
        it.wait_committed(job, 200, 120)
        # Of the first job alone: the next one's tasks may be named in another order.
        broken = break_problems(tasks(jobs))
    assert not broken, broken
    assert not it.durability_problems()
    it.topic.produce(stream.take(400))
    with it.job(*arguments(jobs)) as job:
        it.wait_caught_up(job)
        it.topic.produce(stream.take(100))
        it.wait_caught_up(job)
    # One that ends by itself, on a group that has offsets; the topic's end is committed then.
    it.topic.produce(stream.take(100))
    with it.job(*arguments(jobs), "--until-caught-up") as job:
        assert job.wait(120) == 0, job.log()
    assert it.caught_up()
    problems = it.problems()
    assert not problems, problems[:10]


@pytest.mark.timeout(400)
def test_a_fusion_break_shows_on_flink(
    scenario: Callable[..., Scenario], jobs: FlinkJobServer
) -> None:
    """With a Reshuffle behind the reader Flink's tasks are others, and the check says so."""
    it = scenario(partitions=2, settings={"kafka": {"splits": 2}})
    it.topic.produce(Stream(SEED, 50, sentences=3).take(50))
    with it.job(*arguments(jobs), mutation="reshuffle"):
        names = wait_until(lambda: tasks(jobs), 90, what="Flink has scheduled the job")
    assert break_problems(names), names


@pytest.mark.timeout(400)
def test_a_version_is_filled_on_flink(
    scenario: Callable[..., Scenario], jobs: FlinkJobServer, tmp_path: Path
) -> None:
    """The batch job gives on Flink what a replay under the target's contract gives."""
    it = scenario(partitions=2, settings={"rollout": {"range_documents": 20}})
    it.topic.produce(Stream(SEED, 100, sentences=3).take(300))
    with it.job("--until-caught-up") as job:
        job.done(120)
    settings = Settings(**merged(it.values, {"contract": {"chunk": {"size": 24}}}))
    encoder = load_encoder(settings.contract, settings.runtime)
    target = create_version(it.qdrant, settings, encoder, make_live=False)
    command = ForkedProcess(
        [
            *("backfill", "--config", str(it.config), "--to", target.name, "--json"),
            *("--runner", "flink", "--job-endpoint", jobs.endpoint, "--parallelism", "2"),
        ],
        tmp_path / "backfill.log",
        environment=ENVIRONMENT,
        mutation="none",
    )
    wait_until(lambda: not command.running, 200, what="the backfill has ended")
    assert command.returncode == 0, command.log_tail()
    wanted = replay(it.topic.records, settings, hostile=it.topic.hostile.keys())
    problems = compare(it.qdrant, target, wanted, encoder)
    assert not problems, problems[:10]
