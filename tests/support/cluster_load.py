"""Jobs on a Flink cluster under a load that is timed: what the figures about scaling come from."""

from __future__ import annotations

import itertools
import json
import threading
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support.brokers import Broker, Message
from tests.support.flink_stack import FlinkStack
from tests.support.kafka_server import KafkaServer
from tests.support.processes import wait_until
from tests.support.scenario import Scenario
from tests.support.usage import busy_seconds, cpu_seconds

__all__ = ["ClusterJob", "ClusterRun", "spread"]

_LOOK_SECONDS = 0.2

_names = itertools.count(1)


def spread(texts: Iterable[str], partitions: int, prefix: str) -> list[Message]:
    """One document a text, whose keys put as many into each partition as into any other.

    Parameters
    ----------
    prefix
        Of the documents' ids.
    """
    first = int(time.time() * 1000)
    found = []
    for number, text in enumerate(texts):
        key = next(
            key
            for salt in itertools.count()
            if zlib.crc32(key := f"{prefix}-{number}-{salt}".encode()) % partitions
            == number % partitions
        )
        body = json.dumps({"id": key.decode(), "text": text}, ensure_ascii=False)
        found.append(Message(key, body.encode(), first + number))
    return found


@dataclass(frozen=True)
class ClusterRun:
    """One load, from the first record read to the last event settled.

    Parameters
    ----------
    documents, seconds
        How many, and how long.
    cpu
        Processor seconds by what took them: `workers`, `pools`, `task managers`, `job manager`,
        `broker`, `store`.
    each_worker
        Processor seconds of each worker process.
    others
        Processor seconds of everything else on the machine, this process included.
    """

    documents: int
    seconds: float
    cpu: Mapping[str, float]
    each_worker: Sequence[float]
    others: float

    @property
    def rate(self) -> float:
        """Documents per second."""
        return self.documents / self.seconds


class ClusterJob:
    """A job on a cluster, of an index and a topic of its own; running in the block.

    Parameters
    ----------
    stack, kafka, broker
        Where it runs, and where its events come from.
    store_url, store_pid
        Where its vectors go, and the process whose processor time counts for that.
    directory
        For its settings.
    workers
        Its parallelism.
    model, partitions, settings
        As of a scenario.
    """

    def __init__(
        self,
        stack: FlinkStack,
        kafka: KafkaServer,
        broker: Broker,
        store_url: str,
        store_pid: int,
        directory: Path,
        *,
        workers: int,
        model: Path | str,
        partitions: int,
        settings: Mapping[str, Any],
    ) -> None:
        self._stack = stack
        self._kafka = kafka
        self._broker = broker
        self._store_pid = store_pid
        self._workers = workers
        flink = {
            "flink": {
                **stack.settings()["flink"],
                "parallelism": workers,
                "checkpoint_interval_seconds": 5.0,
                "start_timeout_seconds": 400.0,
            }
        }
        self._it = Scenario(
            kafka,
            store_url,
            directory,
            f"scaling-{next(_names)}",
            model=model,
            partitions=partitions,
            settings={**settings, **flink},
        )
        self._job_id = ""

    def load(self, messages: Sequence[Message], *, timeout_seconds: float = 300.0) -> ClusterRun:
        """Sends the messages and waits until the job has settled them all."""
        consumed, settled = self._consumed(), self._settled()
        sending = threading.Thread(target=self._broker.send, args=(self._it.topic.name, messages))
        sending.start()
        wait_until(
            lambda: self._consumed() > consumed,
            60,
            what="the first record is read",
            interval_seconds=0.02,
        )
        began, before, machine = time.perf_counter(), self._usage(), busy_seconds()
        wait_until(
            lambda: self._settled() >= settled + len(messages),
            timeout_seconds,
            what="the last event is settled",
            interval_seconds=_LOOK_SECONDS,
        )
        seconds, after = time.perf_counter() - began, self._usage()
        machine = busy_seconds() - machine
        sending.join()
        taken = {
            what: [late - early for early, late in zip(before[what], after[what], strict=True)]
            for what in before
        }
        cpu = {what: sum(values) for what, values in taken.items()}
        others = machine - sum(cpu.values())
        return ClusterRun(len(messages), seconds, cpu, taken["workers"], others)

    def encoding(self) -> tuple[float, float]:
        """Batches encoded so far by all jobs of the pools, and the seconds that took."""
        return (
            self._samples("plumbline_encode_seconds_count"),
            self._samples("plumbline_encode_seconds_sum"),
        )

    def _samples(self, name: str) -> float:
        return sum(sum(pool.samples(name)) for pool in self._stack.pools)

    def _consumed(self) -> float:
        return self._samples("plumbline_consumed_events_total")

    def _settled(self) -> float:
        return self._samples("plumbline_events_total")

    def _usage(self) -> dict[str, list[float]]:
        stack = self._stack
        assert stack.cluster.job_manager is not None
        pids = {
            "workers": [pid for pool in stack.pools for pid in pool.worker_pids()],
            "pools": [pool.process.pid for pool in stack.pools],
            "task managers": [worker.pid for worker in stack.cluster.workers],
            "job manager": [stack.cluster.job_manager.pid],
            "broker": [self._kafka.process.pid],
            "store": [self._store_pid],
        }
        return {what: [cpu_seconds([pid]) for pid in found] for what, found in pids.items()}

    def __enter__(self) -> Self:
        self._job_id = self._stack.submit(self._it)["job_id"]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.cluster.rest(f"/jobs/{self._job_id}", method="PATCH")
        self._stack.wait(lambda: not self._stack.alive(), "the job has ended")
        # A worker that has not ended yet would be counted with the next job's.
        self._stack.wait(
            lambda: not any(pool.worker_pids() for pool in self._stack.pools), "no worker is left"
        )
