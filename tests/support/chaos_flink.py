"""Chaos with live's job on a Flink cluster, whose parts are harmed as well."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

from tests.support.chaos import Chaos
from tests.support.chaos_report import CLOCKS_SET, WORKER_KILLED, WORKERS_KILLED
from tests.support.flink_stack import FlinkStack
from tests.support.processes import wait_until

__all__ = ["FlinkChaos"]

_LOST = "job manager killed"
"""The job is lost with it, and is submitted again, which takes as long as three other harms."""


class FlinkChaos(Chaos):
    """Two task managers with a worker pool each, and the rollout's build beside them.

    The candidate's job is the build's own and runs in process. Parameters are those of `Chaos`.
    """

    def _start(self, stack: ExitStack) -> None:
        self._submitted = False
        self.flink = FlinkStack(self._folder, environment=self._environment)
        stack.enter_context(self.flink)
        super()._start(stack)

    def _runner_settings(self) -> Mapping[str, Any]:
        return self.flink.settings()

    def _order(self, names: list[str]) -> list[str]:
        """Those of Flink come first, so that few harms are such ones, and cheap ones before."""
        order = super()._order(names)
        return sorted(order, key=lambda name: (name not in self._flink_harms, name == _LOST))

    def _live_runs(self) -> bool:
        return bool(self.flink.alive())

    def _start_live(self, *_: Any) -> None:
        """Submits it, or resumes it after it was lost with the job manager, or has failed.

        Beam's job server is there for the submission alone: the job must go on without it.
        """
        again = ("ingest", "resume", "--standby")
        self.flink.job_server.start()
        self.flink.submit(self.it, *(again if self._submitted else ()))
        self.flink.job_server.kill()
        self._submitted = True
        self.report.restarts["Flink job"] += 1

    def _end_live(self) -> None:
        self.flink.wait(self.it.caught_up, "the Flink job has caught up", 180)
        stopped = self.flink.plumbline(self.it, "ingest", "stop")
        assert stopped["exit_code"] == 0, stopped

    # Harms.

    def _kill_task_manager(self) -> None:
        """The other one has slots enough; its workers end with it."""
        number = self._dice.randrange(len(self.flink.pools))
        self.flink.cluster.kill_worker(number)
        self._pause(self._dice.uniform(0.0, 2.0))
        self.flink.cluster.restart_worker(number)

    def _kill_worker_pool(self) -> None:
        """With its workers; the job waits for another."""
        pool = self._dice.choice(self.flink.pools)
        pool.kill()
        self._pause(self._dice.uniform(0.0, 2.0))
        pool.start()

    def _kill_worker(self) -> None:
        """One worker of a pool. Flink may just be starting them anew, or ending them."""

        def killed() -> bool:
            pids = [pid for pool in self.flink.pools for pid in pool.worker_pids()]
            if not pids:
                return False
            os.kill(self._dice.choice(pids), signal.SIGKILL)
            return True

        wait_until(killed, 60, what="a worker is killed")
        self.report.seen[WORKERS_KILLED] += 1

    def _kill_job_manager(self) -> None:
        """Without high availability the job is lost with it."""
        self.flink.cluster.kill_manager()
        self._pause(self._dice.uniform(0.0, 2.0))
        self.flink.cluster.restart_manager()

    _flink_harms: ClassVar[dict[str, Callable[[FlinkChaos], None]]] = {
        "task manager killed": _kill_task_manager,
        "worker pool killed": _kill_worker_pool,
        _LOST: _kill_job_manager,
        WORKER_KILLED: _kill_worker,
    }
    _harms: ClassVar[dict[str, Callable[[Any], None]]] = {
        **_flink_harms,
        **{
            name: harm
            for name, harm in Chaos._harms.items()
            # Live's job is no process of its own here.
            if name not in ("job killed", "job frozen", CLOCKS_SET)
        },
    }
