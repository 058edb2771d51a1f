"""Services that fail while the job runs: it waits, goes on, and loses and spoils nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.support.kafka_server import INSTALL_HINT, KafkaServer, kafka_available
from tests.support.processes import wait_until
from tests.support.qdrant_server import QdrantServer
from tests.support.replay import replay
from tests.support.scenario import Scenario
from tests.support.stream import Stream

SEED = 20_260_316
DOCUMENTS = 60


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaServer]:
    """A broker that the tests of this file may stop."""
    require(kafka_available(), INSTALL_HINT)
    with KafkaServer() as server:
        yield server


def stream(offset: int = 0) -> Stream:
    return Stream(SEED + offset, DOCUMENTS, sentences=3, unchanged_share=0.35)


def finish(it: Scenario, job: Any) -> dict[str, Any]:
    """Waits until all is read, drains the job, and compares everything."""
    it.wait_caught_up(job)
    job.terminate()
    finished: dict[str, Any] = job.done(60)
    problems = it.problems()
    assert not problems, problems[:10]
    return finished


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_broker_restarted_mid_stream(
    broker: KafkaServer, store: Any, tmp_path: Path, model: Path, how: str
) -> None:
    """A broker that crashes or restarts while the job reads costs no event and no dead letter."""
    it = Scenario(broker, store.url, tmp_path, f"broker-{how}", model=model, partitions=3)
    events = stream()
    it.topic.produce(events.take(400))
    with it.job() as job:
        it.wait_committed(job, 100)
        noticed = len(job.events("kafka_client"))
        getattr(broker, how)()
        # Away for long enough that the job's client has complained.
        job._process.wait_ready(
            lambda: len(job.events("kafka_client")) > noticed, 60, what="the job has noticed"
        )
        broker.restart()
        it.topic.produce(events.take(200))
        finish(it, job)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "retry_after": 1, "times": 6},
        {"status": 500, "times": 6},
        {"status": 429, "retry_after": 1, "times": 3},
        {"drop": "reset", "times": 6},
        {"drop": "close", "when": "after", "times": 6},
        {"delay_seconds": 3, "times": 3},
    ],
    ids=["503", "500", "429", "reset", "answer-lost", "slow"],
)
def test_store_in_trouble_mid_stream(
    scenario: Callable[..., Scenario], store: Any, fault: dict[str, Any]
) -> None:
    """Refusals and lost answers are repeated until they succeed, slow answers are waited for."""
    it = scenario(partitions=2)
    it.topic.produce(stream().take(300))
    store.faults(f"/collections/{it.settings.index}--.*/points", skip=8, **fault)
    with it.job() as job:
        job._process.wait_ready(
            lambda: store.fault_hits() == [fault["times"]], 120, what="every fault has hit"
        )
        finish(it, job)


@pytest.mark.timeout(240)
def test_writes_applied_after_their_timeout(scenario: Callable[..., Scenario], store: Any) -> None:
    """A write that the store carries out long after the job gave it up never touches a head.

    What it can do is put back a chunk that was deleted in the meantime, older than its head: no
    condition guards a point that does not exist. The integrity probe sweeps such chunks.
    """
    it = scenario(partitions=2, settings={"qdrant": {"timeout_seconds": 1}})
    it.topic.produce(stream().take(300))
    store.faults(
        f"/collections/{it.settings.index}--.*/points$",
        method="PUT",
        skip=8,
        times=4,
        delay_seconds=3,
    )
    with it.job() as job:
        it.wait_caught_up(job)
        job.terminate()
        job.done(60)
    wait_until(lambda: store.fault_hits() == [4], 30, what="every fault has hit")
    assert not it.dead_letter_problems()
    assert not it.offset_problems()
    wrong = [problem for problem in it.index_problems() if "chunk" not in problem]
    assert not wrong, wrong[:10]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["kill", "stop", "pause"])
def test_store_down_mid_stream(
    kafka_server: KafkaServer, tmp_path: Path, model: Path, how: str
) -> None:
    """A store that is away for a while, or frozen, is waited for."""
    with QdrantServer(tmp_path / "data") as server:
        it = Scenario(
            kafka_server,
            server.url,
            tmp_path,
            f"store-{how}-{tmp_path.parent.name}",
            model=model,
            settings={"qdrant": {"timeout_seconds": 1}},
        )
        it.topic.produce(stream().take(400))
        with it.job() as job:
            it.wait_committed(job, 100)
            if how == "pause":
                server.process.pause()
            else:
                getattr(server, how)()
            job.wait_for("stamina.retry_scheduled", 30)
            if how == "pause":
                server.process.resume()
            else:
                server.start()
            finish(it, job)


@pytest.mark.timeout(240)
def test_topic_deleted_and_created_again(
    broker: KafkaServer, store: Any, tmp_path: Path, model: Path
) -> None:
    """A topic made anew under its name is read from its beginning by the job that runs."""
    it = Scenario(broker, store.url, tmp_path, "recreated", model=model, partitions=2)
    events = stream()
    it.topic.produce(events.take(200))
    with it.job() as job:
        it.wait_caught_up(job)
        before, hostile = it.topic.records, dict(it.topic.hostile)
        broker.delete_topic(it.topic.name)
        broker.create_topic(it.topic.name, partitions=2)
        # Other offsets, later timestamps.
        it.topic.records, it.topic.hostile = [], {}
        it.topic.first_timestamp += 1_000_000
        it.topic.produce(events.take(150))
        job._process.wait_ready(
            lambda: not it.offset_problems(), 120, what="the new topic is committed to its end"
        )
        job.terminate()
        job.done(60)
    assert not it.offset_problems()
    letters = {(*place, reason) for place, reason in [*hostile.items(), *it.topic.hostile.items()]}
    assert letters == set(it.dead_letters.read())
    # Told apart before they are put together: offsets of the one topic mean others in the other.
    good = [r for r in before if (r.topic, r.partition, r.offset) not in hostile]
    good += [
        r for r in it.topic.records if (r.topic, r.partition, r.offset) not in it.topic.hostile
    ]
    problems = it.index_problems(replay(good, it.settings))
    assert not problems, problems[:10]


@pytest.mark.timeout(240)
def test_partitions_added_mid_stream(scenario: Callable[..., Scenario]) -> None:
    """New partitions are read from their beginning, though keys move to them."""
    it = scenario(partitions=1)
    events = stream()
    it.topic.produce(events.take(200))
    with it.job() as job:
        it.wait_committed(job, 50)
        it.topic.add_partitions(5)
        it.topic.produce(events.take(300))
        finish(it, job)


@pytest.mark.timeout(240)
def test_outage_of_the_store_past_the_bound(scenario: Callable[..., Scenario], store: Any) -> None:
    """After `outage_timeout_seconds` the job stops with 3; the next one completes its work."""
    it = scenario(settings={"qdrant": {"outage_timeout_seconds": 2}})
    it.topic.produce(stream().take(300))
    with it.job() as job:
        it.wait_committed(job, 50)
        store.faults("/points", status=503, times=None)
        assert job.wait(90) == 3, job.log()[-3000:]
    store.clear_faults()
    assert not it.durability_problems()
    assert not it.caught_up()
    with it.job("--until-caught-up") as job:
        job.done()
    problems = it.problems()
    assert not problems, problems[:10]


@pytest.mark.timeout(240)
def test_outage_of_the_broker_past_the_bound(
    broker: KafkaServer, store: Any, tmp_path: Path, model: Path
) -> None:
    """The same for the broker: exit status 3, and nothing is lost."""
    it = Scenario(
        broker,
        store.url,
        tmp_path,
        "broker-away",
        model=model,
        settings={"kafka": {"outage_timeout_seconds": 3, "request_timeout_seconds": 2}},
    )
    it.topic.produce(stream().take(300))
    with it.job() as job:
        it.wait_committed(job, 50)
        broker.kill()
        status = job.wait(90)
        log = job.log()
    broker.start()
    assert status == 3, log[-3000:]
    assert not it.durability_problems()
    with it.job("--until-caught-up") as job:
        job.done()
    problems = it.problems()
    assert not problems, problems[:10]
