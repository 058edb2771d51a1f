"""A rollout's build in processes, beside a scenario's live job."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.core.encoder import Encoder, load_encoder
from pipelines.core.rollout import Rollout, RolloutState
from pipelines.core.settings import ContractSettings, Settings
from pipelines.core.versions import Version, open_version
from pipelines.rollout.context import RolloutContext
from pipelines.rollout.plan import plan
from tests.support.forked import ForkedProcess
from tests.support.jobs import ENVIRONMENT
from tests.support.replay import compare
from tests.support.scenario import Scenario
from tests.support.version_pairs import differences

__all__ = ["FAST_BUILDS", "RolloutScenario", "answer"]

FAST_BUILDS: dict[str, Any] = {
    "rollout": {
        "range_documents": 40,
        "batch_documents": 16,
        "lag_bound_records": 200,
        # These tests are about what is stored, on machines that others use as well.
        "freshness_bound_seconds": 600,
        "metrics_port": None,
    }
}
"""Settings for many small ranges, so that a kill finds some done and some not."""


class RolloutScenario:
    """The builds of one candidate.

    Parameters
    ----------
    scenario
        Its live job is the caller's.
    directory
        For logs.
    contract
        The candidate's, beside the model of the scenario.
    """

    def __init__(self, scenario: Scenario, directory: Path, **contract: Any) -> None:
        self.it = scenario
        self._directory = directory
        self._builds = 0
        own = scenario.settings.contract.model_dump()
        self.contract = ContractSettings(**{**own, **contract})
        self.settings: Settings = scenario.settings

    def plan(self) -> Rollout:
        """Plans it, in this process."""
        return plan(self.settings, self.contract, sample=50).rollout

    def build(self, *arguments: str, environment: Mapping[str, str] | None = None) -> ForkedProcess:
        """Starts `plumbline rollout build`."""
        return self.command("build", *arguments, environment=environment)

    def command(
        self, name: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> ForkedProcess:
        """Starts another command of the rollout."""
        self._builds += 1
        return ForkedProcess(
            ["rollout", name, "--config", str(self.it.config), "--json", *arguments],
            self._directory / f"{name}-{self._builds}.log",
            environment={**ENVIRONMENT, **(environment or {})},
            mutation="none",
        )

    @property
    def rollout(self) -> Rollout:
        """As it is on record."""
        return RolloutContext.open(self.settings).rollout()

    @property
    def live(self) -> Version:
        """The version it began from."""
        return open_version(self.it.qdrant, self.rollout.live.name)

    @property
    def candidate(self) -> Version:
        """The version that is built."""
        return open_version(self.it.qdrant, self.rollout.candidate.name)

    @property
    def encoder(self) -> Encoder:
        """The candidate's, in this process."""
        return load_encoder(self.contract, self.settings.runtime)

    def job_pid(self) -> int | None:
        """Of the candidate's job, as the record says."""
        pid = self.rollout.note("build").get("job", {}).get("pid")
        return None if pid is None else int(pid)

    def kill_job(self) -> bool:
        """SIGKILL to the candidate's job; False when it did not run."""
        pid = self.job_pid()
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Ends what a build has left running."""
        with contextlib.suppress(Exception):
            self.kill_job()

    def candidate_caught_up(self) -> bool:
        """Whether the candidate's group has committed everything that was produced."""
        committed = self.it.topic.committed(self.candidate.group_id)
        return all(committed.get(p, 0) >= end for p, end in self.it.topic.ends().items())

    def problems(self) -> list[str]:
        """How the candidate differs from live, and from a replay of the topic."""
        state = self.rollout.state
        problems = [] if state is RolloutState.VERIFYING else [f"the rollout is {state}"]
        problems += differences(self.it.qdrant, self.live, self.candidate)
        expected = self.it.expected()
        problems += compare(self.it.qdrant, self.candidate, expected, self.encoder)
        return problems


def answer(process: ForkedProcess) -> dict[str, Any]:
    """The JSON that a command has printed."""
    lines = [line for line in process.log().splitlines() if line.startswith("{")]
    return dict(json.loads(lines[-1]))
