"""Everything that a job on a Flink cluster needs, as processes that tests kill one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.support.flink_server import FlinkCluster, FlinkJobServer
from tests.support.forked import ForkedProcess
from tests.support.jobs import ENVIRONMENT
from tests.support.processes import ServerDiedError, free_port, wait_until
from tests.support.scenario import Scenario
from tests.support.worker_pool import PoolProcess

__all__ = ["FlinkStack"]

POOL = "worker-pool"
"""Host of the pool, as each task manager sees its own."""


class FlinkStack:
    """A job manager and task managers with a worker pool beside each.

    Beam's job server, `job_server`, is for the test to start when it submits.

    Parameters
    ----------
    directory
        For logs.
    task_managers, slots
        How many, and task slots of each. With two of each, one task manager can run a job of
        parallelism 2 alone.
    pools
        In place of one pool beside each task manager: the first of these serves all of them.
    config
        Of Flink, beside what is here.
    environment
        Of the pools beside the task managers, added to their own.
    start_timeout_seconds
        Of the cluster.
    """

    def __init__(
        self,
        directory: Path,
        task_managers: int = 2,
        slots: int = 2,
        *,
        pools: Sequence[PoolProcess] = (),
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        start_timeout_seconds: float = 120.0,
    ) -> None:
        self.cluster = FlinkCluster(
            task_managers,
            slots,
            hosts=[POOL],
            config={
                # Both task managers get work, though one could do it all.
                "cluster.evenly-spread-out-slots": True,
                "restart-strategy.type": "fixed-delay",
                "restart-strategy.fixed-delay.attempts": 1000,
                "restart-strategy.fixed-delay.delay": "1 s",
                **(config or {}),
            },
        )
        port = pools[0].port if pools else free_port()
        self.pools = list(pools) or [
            PoolProcess(
                f"127.0.0.{number + 1}",
                port,
                directory / f"pool-{number}.log",
                environment=environment,
            )
            for number in range(task_managers)
        ]
        self._pool = f"{pools[0].host if pools else POOL}:{port}"
        self._start_timeout_seconds = start_timeout_seconds
        self.job_server = FlinkJobServer(self.cluster.rest_address)
        self._directory = directory
        self._commands = 0
        self._stack = ExitStack()

    def settings(self, **flink: Any) -> Mapping[str, Any]:
        """Settings of a job that runs here."""
        return {
            "kafka": {"splits": 4},
            "flink": {
                "job_endpoint": self.job_server.endpoint,
                "rest_url": self.cluster.rest_url,
                "environment": "EXTERNAL",
                "environment_config": self._pool,
                "parallelism": 2,
                "checkpoint_interval_seconds": 0.5,
                **flink,
            },
        }

    def plumbline(self, it: Scenario, *words: str, timeout_seconds: float = 240) -> dict[str, Any]:
        """The JSON answer of a command, with its exit code as `exit_code`."""
        self._commands += 1
        process = ForkedProcess(
            [*words, "--config", str(it.config), "--json"],
            self._directory / f"command-{self._commands}.log",
            environment=ENVIRONMENT,
            mutation="none",
        )
        wait_until(
            lambda: not process.running, timeout_seconds, what=f"{' '.join(words)} has ended"
        )
        answers = [
            json.loads(line)
            for line in process.log().splitlines()
            if line.startswith("{") and '"event"' not in line
        ]
        assert answers or process.returncode, process.log()
        answer: dict[str, Any] = answers[-1] if answers else {"said": process.log()}
        return {**answer, "exit_code": process.returncode}

    def submit(self, it: Scenario, *words: str) -> dict[str, Any]:
        """`plumbline ingest --runner flink`, or `ingest resume` and the like when given."""
        given = words or ("ingest", "--runner", "flink", "--create")
        answer = self.plumbline(it, *given)
        assert answer["exit_code"] == 0, answer.get("said", answer)
        return answer

    def alive(self) -> list[str]:
        """Ids of the jobs that have not ended, as Flink's own API tells it."""
        jobs = self.cluster.rest("/jobs/overview")["jobs"]
        return [
            job["jid"] for job in jobs if job["state"] not in ("FINISHED", "CANCELED", "FAILED")
        ]

    def wait(self, condition: Callable[[], Any], what: str, timeout_seconds: float = 120.0) -> None:
        """Waits for it; fails with the ends of all logs."""
        try:
            wait_until(condition, timeout_seconds, what=what, interval_seconds=0.2)
        except TimeoutError as error:
            raise ServerDiedError(f"{error}\n{self.logs()}") from error

    def logs(self) -> str:
        """The ends of all logs."""
        processes = [
            *(pool.process for pool in self.pools),
            *self.cluster.workers,
            *([self.cluster.job_manager] if self.cluster.job_manager else []),
            self.job_server.process,
        ]
        return "\n".join(f"--- {one.name}\n{one.log_tail(25)}" for one in processes)

    def __enter__(self) -> Self:
        try:
            for pool in self.pools:
                self._stack.callback(pool.kill)
                pool.start()
            self._stack.callback(self.cluster.close)
            self.cluster.start(self._start_timeout_seconds)
            self._stack.callback(self.job_server.close)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
