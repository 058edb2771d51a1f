"""The job on a Flink cluster of several processes, which are killed in turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.support.flink_stack import FlinkStack
from tests.support.kafka_server import INSTALL_HINT, KafkaServer, kafka_available
from tests.support.scenario import Scenario
from tests.support.stream import Stream

SEED = 20_260_321
DOCUMENTS = 150


@pytest.fixture
def broker() -> Iterator[KafkaServer]:
    """A broker that the test may stop."""
    require(kafka_available(), INSTALL_HINT)
    with KafkaServer() as server:
        yield server


@pytest.fixture
def stack(require_flink: None, tmp_path: Path) -> Iterator[FlinkStack]:
    """Two task managers with a worker pool each."""
    with FlinkStack(tmp_path) as whole:
        yield whole


class Attack:
    """A job under load, and what is done to the services that it needs."""

    def __init__(
        self, it: Scenario, stack: FlinkStack, broker: KafkaServer, events: Stream
    ) -> None:
        self.it = it
        self.stack = stack
        self.broker = broker
        self.events = events
        self.job_id = ""
        self.faults: dict[str, Callable[[], None]] = {
            "task manager": self.task_manager,
            "worker pool": self.worker_pool,
            "broker": self.restart_broker,
            "job manager": self.job_manager,
            "task manager, worker pool and broker": self.together,
            "everything": self.everything,
        }

    def submit(self, *words: str) -> dict[str, Any]:
        """Submits the job, or resumes it; from then on it is the one that is attacked.

        Beam's job server is there for the submission alone: the job must go on without it.
        """
        self.stack.job_server.start()
        answer = self.stack.submit(self.it, *words)
        self.stack.job_server.kill()
        self.job_id = answer["job_id"]
        return answer

    def hit(self, name: str) -> None:
        """Does it in the middle of a batch, and waits until the job has caught up all the same."""
        self.load(120)
        before = sum(self.it.committed().values())
        self.load(120)
        self.stack.wait(
            lambda: sum(self.it.committed().values()) > before, f"something is committed: {name}"
        )
        self.faults[name]()
        self.load(60)
        self.stack.wait(self.it.caught_up, f"caught up after the end of the {name}")
        ahead = [one for one in self.it.durability_problems() if "committed" in one]
        assert not ahead, (name, ahead[:5])

    def load(self, count: int) -> None:
        """Produces the next events."""
        self.it.topic.produce(self.events.take(count))

    def task_manager(self) -> None:
        """One of the two is killed; the job goes on with the other, and it comes back."""
        self.stack.cluster.kill_worker(0)
        self.stack.cluster.restart_worker(0)

    def worker_pool(self) -> None:
        """The pool beside a task manager is killed with its workers, and comes back."""
        self.stack.pools[1].kill()
        self.stack.pools[1].start()

    def restart_broker(self) -> None:
        """The broker is killed, and comes back."""
        self.broker.kill()
        self.broker.start()

    def job_manager(self) -> None:
        """Without high availability the job is lost with it, and is submitted anew."""
        self.stack.cluster.kill_manager()
        self.stack.cluster.restart_manager()
        assert self.stack.plumbline(self.it, "ingest", "status")["exit_code"] == 1
        # The task managers may not have noticed yet, so that the lost run still has its workers.
        answer = self.submit("ingest", "resume", "--standby")
        assert answer["savepoint"] is None

    def together(self) -> None:
        """Three at once; what is started again finds the others gone or still starting."""
        self.stack.cluster.kill_worker(1)
        self.stack.pools[0].kill()
        self.restart_broker()
        self.stack.pools[0].start()
        self.stack.cluster.restart_worker(1)

    def everything(self) -> None:
        """The whole cluster and the broker, and all come back; only the logs and the store stay."""
        for number, pool in enumerate(self.stack.pools):
            self.stack.cluster.kill_worker(number)
            pool.kill()
        self.stack.cluster.kill_manager()
        self.restart_broker()
        self.stack.cluster.restart_manager()
        for number, pool in enumerate(self.stack.pools):
            pool.start()
            self.stack.cluster.restart_worker(number)
        assert self.submit("ingest", "resume", "--standby")["savepoint"] is None


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
def test_nothing_is_lost_whatever_is_killed(
    broker: KafkaServer,
    stack: FlinkStack,
    store: Any,
    tmp_path: Path,
    model: Path,
    acceptance: bool,
) -> None:
    """Index, dead letters and offsets are a replay's after every part was killed, alone or not.

    The job has been submitted by a process that ended at once. In between it is stopped with a
    savepoint and resumed with another parallelism and with more partitions.
    """
    it = Scenario(
        broker, store.url, tmp_path, "cluster", model=model, partitions=4, settings=stack.settings()
    )
    attack = Attack(it, stack, broker, Stream(SEED, DOCUMENTS, sentences=3, unchanged_share=0.35))
    attack.load(300)
    attack.submit()
    stack.wait(it.caught_up, "the first events are committed")
    check_metrics(stack, 300)
    check_status(stack, it, attack.job_id)
    # The submitting process has gone, and its workers hold the lease.
    with it.job() as other:
        assert other.wait(60) == 1
        assert "the Flink job plumbline-cluster" in other.log()

    order = list(attack.faults)
    rounds = 4 if acceptance else 1
    dice = random.Random(SEED)
    for number in range(rounds):
        if number:
            dice.shuffle(order)
        for name in order:
            attack.hit(name)
        stopped = stack.plumbline(it, "ingest", "stop")
        assert stopped["exit_code"] == 0, stopped
        assert stopped["savepoint"], stopped
        assert not it.durability_problems()
        it.topic.add_partitions(it.topic.partitions + 2)
        attack.load(100)
        resumed = attack.submit("ingest", "resume", "--parallelism", str(number % 2 * 2 + 1))
        assert resumed["savepoint"] == stopped["savepoint"]
        stack.wait(it.caught_up, "all is committed after the resumption")
    assert stack.plumbline(it, "ingest", "stop", "--cancel")["exit_code"] == 0
    # One that ends by itself leaves none behind in the cluster.
    attack.load(60)
    stack.job_server.start()
    last = stack.plumbline(it, "ingest", "--runner", "flink", "--until-caught-up")
    assert last["exit_code"] == 0, last
    stack.wait(lambda: not stack.alive(), "no job is left")
    problems = it.problems()
    assert not problems, problems[:10]


def check_metrics(stack: FlinkStack, consumed: int) -> None:
    """Both pools' workers have worked, and between them every event is accounted for."""
    totals = [sum(pool.samples("plumbline_consumed_events_total")) for pool in stack.pools]
    settled = sum(sum(pool.samples("plumbline_events_total")) for pool in stack.pools)
    assert all(total > 0 for total in totals), totals
    assert settled == sum(totals) >= consumed
    lag = [
        value for pool in stack.pools for value in pool.samples("plumbline_consumer_lag_records")
    ]
    assert lag
    assert not any(lag)


def check_status(stack: FlinkStack, it: Scenario, job_id: str) -> None:
    """`ingest status` says of a job that is well what a person wants to know."""

    def told() -> dict[str, Any]:
        answer = stack.plumbline(it, "ingest", "status")
        assert answer["exit_code"] == 0
        (only,) = answer["jobs"]
        return only

    # Flink gathers a job's figures once it has been asked for them.
    stack.wait(lambda: told()["restarts"] is not None, "Flink tells the restarts")
    job = told()
    assert it.version is not None
    assert (job_id, it.version.name, True, 0, 2) == (
        job["job_id"],
        job["version"],
        job["running"],
        job["restarts"],
        job["parallelism"],
    )
    assert job["last_checkpoint"]["age_seconds"] < 60
    # Whoever opens Flink's page finds the steps by the names of the documentation.
    assert any("Decode" in name and "WriteToQdrant" in name for name in job["tasks"])
