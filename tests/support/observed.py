"""A small world that Prometheus watches: every kind of process, and everything that they export.

An ingest job on Kafka, a monitor with all probes and a golden set, a rollout that is built, proved,
promoted by force, left half done and rolled back; a stream that changes its subject, a few bad
events, a store that is away for a moment, and documents that somebody deletes there. Each of these
is there because some metric has no series without it.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from qdrant_client import models

from pipelines.core.faults import VARIABLE
from pipelines.core.points import OURS
from tests.support.forked import ForkedProcess
from tests.support.kafka_server import KafkaServer
from tests.support.monitor_process import MonitorProcess
from tests.support.processes import REPOSITORY, free_ports, wait_until
from tests.support.prometheus_server import PrometheusServer, Scrape
from tests.support.qdrant_server import QdrantServer
from tests.support.rollouts import FAST_BUILDS, RolloutScenario
from tests.support.scenario import Scenario, merged
from tests.support.stream import Message

__all__ = ["RULES", "ObservedWorld"]

RULES = tuple(
    REPOSITORY / "deploy" / "prometheus" / f"plumbline.{kind}.yml" for kind in ("rules", "alerts")
)

_INTERVALS = {
    "canary": 3,
    "freshness": 2,
    "integrity": 4,
    "fidelity": 5,
    "ann": 6,
    "golden": 5,
    "drift": 5,
    "geometry": 6,
}
"""Seconds: often enough to see everything within a minute, seldom enough for two processors."""

_PATIENCE_SECONDS = 240.0
"""For one step on a busy machine; alone it takes a tenth of that."""

_FIRST, _SECOND = "alpha beta gamma delta epsilon zeta", "7 11 13 17 19 23 29 31"


class ObservedWorld:
    """All of it, from the start to the rollback; use it as a context manager.

    Parameters
    ----------
    kafka
        Shared with others.
    directory
        For settings, logs and the monitor's store.
    model
        That costs nothing.
    name
        Of topic and index.
    documents
        Written at first, and once more of another subject.
    """

    def __init__(
        self, kafka: KafkaServer, directory: Path, model: Path, name: str, *, documents: int = 160
    ) -> None:
        self.name = name
        self._kafka = kafka
        self._directory = directory
        self._model = model
        self._documents = documents
        self._random = random.Random(20_261_127)
        self._bodies: dict[str, dict[str, Any]] = {}
        self._stack = ExitStack()
        self.begun = time.time()
        self.ports = dict(zip(("ingest", "backfill"), free_ports(2), strict=True))

    def __enter__(self) -> Self:
        try:
            return self._start()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _start(self) -> Self:
        self.store = self._stack.enter_context(QdrantServer())
        self.it = Scenario(
            self._kafka,
            self.store.url,
            self._directory,
            self.name,
            model=self._model,
            partitions=2,
            settings=self._settings(),
        )
        self.job = self._stack.enter_context(self.it.job())
        self._write(_FIRST)
        values = merged(self.it.values, {"qdrant": {"outage_timeout_seconds": 2.0}})
        self.monitor = self._stack.enter_context(
            MonitorProcess(self._directory, f"{self.name}-monitor", values)
        )
        self.ports["monitor"] = self.monitor.port
        index = {"index": self.name}
        self.prometheus = self._stack.enter_context(
            PrometheusServer(
                [
                    Scrape("plumbline-ingest", self.ports["ingest"], index),
                    Scrape("plumbline-backfill", self.ports["backfill"], index),
                    Scrape("plumbline-monitor", self.ports["monitor"]),
                ],
                RULES,
            )
        )
        self.monitor.wait_ready(_PATIENCE_SECONDS)
        for step in (
            self._change_the_subject,
            self._bad_events,
            self._outage,
            self._rollout,
            self._damage,
        ):
            step()
        return self

    def _settings(self) -> dict[str, Any]:
        golden = self._directory / f"{self.name}-golden.yaml"
        queries = [
            {"id": f"q{number}", "text": f"document {number}", "judged": {f"doc/{number}": 2}}
            for number in range(12)
        ]
        golden.write_text(yaml.safe_dump({"version": 1, "queries": queries}), "utf-8")
        probes = {
            probe: {"interval_seconds": seconds, "timeout_seconds": 60}
            for probe, seconds in _INTERVALS.items()
        }
        own = {
            "golden": {"file": str(golden), "queries_per_second": 500},
            "fidelity": {"sample": 10},
            "ann": {"queries": 30, "queries_per_second": 500},
            "integrity": {"sample": 100},
            "geometry": {"sample": 100},
            "drift": {
                "window_seconds": 600,
                "minimum_window": 50,
                "window": 100,
                "minimum_reference": 100,
                "reference": 200,
                "permutations": 99,
            },
        }
        database = {"database_url": f"sqlite:///{self._directory / f'{self.name}.db'}"}
        return {
            "metrics": {"port": self.ports["ingest"]},
            "monitor": {**database, **merged(probes, own)},
            "rollout": {
                **FAST_BUILDS["rollout"],
                "metrics_port": self.ports["backfill"],
                "job_directory": str(self._directory / f"{self.name}-jobs"),
            },
        }

    def _write(self, words: str) -> None:
        """One event for each document, of now; some once more the same, and some deleted."""
        vocabulary = words.split()
        messages = []
        for number in range(self._documents):
            key = f"doc/{number}"
            self._bodies[key] = {
                "id": key,
                "title": f"document {number}",
                "text": " ".join(self._random.choices(vocabulary, k=16)) + ".",
                "metadata": {"lang": self._random.choice(["en", "de"])},
            }
            messages.append(_event(self._bodies[key]))
        self._produce(messages)
        # In a batch of their own: what comes together counts once.
        self.it.wait_caught_up(self.job, _PATIENCE_SECONDS)
        again = [_event(self._bodies[f"doc/{number}"]) for number in range(5)]
        # More than the golden set judges, and never all of it.
        last = range(self._documents - 5, self._documents)
        self._produce([*again, *(Message(f"doc/{number}".encode(), None) for number in last)])
        self.it.wait_caught_up(self.job, _PATIENCE_SECONDS)

    def _produce(self, messages: list[Message]) -> None:
        now = round(time.time() * 1000) - len(messages)
        self.it.topic.produce(messages, range(now, now + len(messages)))

    def _change_the_subject(self) -> None:
        """The drift probe takes a reference, and what comes then is unlike it."""
        self._seen("plumbline_monitor_reference_vectors")
        self._write(_SECOND)
        self._seen("plumbline_drift_unexplained_ratio")

    def _bad_events(self) -> None:
        """A dead letter, other metadata of a text that stays, and an event that comes too late."""
        self._produce(
            [
                Message(b"doc/0", b"{not json", hostile="not_json"),
                _event({**self._bodies["doc/3"], "metadata": {"lang": "fr"}}),
            ]
        )
        late = _event({"id": "doc/1", "title": "document 1", "text": "of long ago."})
        self.it.topic.produce([late], [round((time.time() - 3600) * 1000)])
        self.it.wait_caught_up(self.job, _PATIENCE_SECONDS)
        self._seen('plumbline_dead_letters_total{reason="not_json"}')
        self._seen('plumbline_events_total{outcome="stale"}')
        self._seen('plumbline_events_total{outcome="payload_only"} > 0')

    def _outage(self) -> None:
        """Qdrant answers 503 until the job has tried again and a probe has given up."""
        self.store.faults("/points", status=503, times=None)
        self._produce([_event({"id": "doc/2", "title": "document 2", "text": "once more."})])
        self._seen('plumbline_retries_total{service="qdrant"}')
        self._seen("sum by (index) (plumbline_probe_failures_total) > 0")
        self.store.clear_faults()
        self.it.wait_caught_up(self.job, _PATIENCE_SECONDS)
        self._seen("sum by (index) (plumbline_probe_failing) == 0")

    def _rollout(self) -> None:
        """From the plan to the rollback, with a step that is left half done."""
        self.at = RolloutScenario(self.it, self._directory, chunk={"size": 24, "overlap": 4})
        self._stack.callback(self.at.close)
        self.at.plan()
        # Slow enough that its time left is on record more than once.
        self.store.faults(
            f"{self.at.rollout.candidate.name}/points$", delay_seconds=0.8, times=None
        )
        self._run("build", 0, 2 * _PATIENCE_SECONDS)
        self.store.clear_faults()
        # The set is too small to prove anything; so promotion needs force.
        golden = self.it.values["monitor"]["golden"]["file"]
        self._run("verify", 1, 2 * _PATIENCE_SECONDS, "--golden", golden)
        force = ("--force", "--reason", "to see what it leaves")
        self._run("promote", -9, _PATIENCE_SECONDS, *force, fault="rollout.promote.after_intent")
        self._seen('plumbline_rollout_intent{action="promote"} == 1')
        self._run("promote", 0, _PATIENCE_SECONDS, *force)
        self._seen('plumbline_rollout_state{state="soaking"} == 1')
        self._seen('ALERTS{alertname="PlumblinePromotionForced"}')
        self._run("rollback", 0, _PATIENCE_SECONDS, "--wait", "--reason", "to see the way back")
        self._seen('plumbline_rollout_state{state="rolled_back"} == 1')
        first = self.at.live.name
        self._seen(f'plumbline:live_version{{version="{first}"}}')
        # Events again, so that what counts a second is not nought at the end.
        self._write(_FIRST)
        self._seen("plumbline:events:rate5m > 0")

    def _damage(self) -> None:
        """Somebody deletes documents behind Plumbline's back: an alert that stays."""
        lost = [f"doc/{number}" for number in range(40, 65)]
        condition = models.FieldCondition(
            key=f"{OURS}.document_id", match=models.MatchAny(any=lost)
        )
        self.it.qdrant.call(
            "delete",
            self.at.live.name,
            points_selector=models.FilterSelector(filter=models.Filter(must=[condition])),
        )
        self._seen('ALERTS{alertname="PlumblineIntegrityBroken"}')

    def _run(
        self, command: str, status: int, seconds: float, *arguments: str, fault: str = ""
    ) -> ForkedProcess:
        environment: Mapping[str, str] = {VARIABLE: fault} if fault else {}
        process = self.at.command(command, *arguments, environment=environment)
        wait_until(lambda: not process.running, seconds, what=f"{command} has ended")
        assert process.returncode == status, process.log_tail()
        return process

    def _seen(self, expression: str, timeout_seconds: float = _PATIENCE_SECONDS) -> None:
        """Waits until Prometheus has it of this index, and the processes are alive."""

        def there() -> bool:
            self.job.require_running()
            self.monitor.process.require_running()
            found = self.prometheus.query(expression)
            return any(one.labels.get("index") == self.name for one in found)

        wait_until(there, timeout_seconds, what=expression, interval_seconds=0.3)


def _event(body: Mapping[str, Any]) -> Message:
    return Message(str(body["id"]).encode(), json.dumps(body).encode())
