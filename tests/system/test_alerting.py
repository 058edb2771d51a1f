"""From a damage to a message: the job, the monitor, Prometheus, Alertmanager and a webhook.

The rules are generated from objectives of a fire drill, `time_scale: 0.05`, which shortens every
`for`, every window and every wait to a twentieth; scraped and evaluated every two seconds. The
probes' intervals are settings of the monitor, and are seconds here.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from deploy.alerting import load_objectives, write
from deploy.alerting.objectives import Objectives
from tests.conftest import require
from tests.support.alertmanager_server import (
    INSTALL_HINT,
    AlertmanagerServer,
    WebhookReceiver,
    alertmanager_available,
)
from tests.support.alertmanager_server import Message as Told
from tests.support.jobs import IngestProcess
from tests.support.kafka_server import INSTALL_HINT as KAFKA_HINT
from tests.support.kafka_server import KafkaServer, kafka_available
from tests.support.monitor_process import MonitorProcess
from tests.support.processes import free_port, wait_until
from tests.support.prometheus_server import PrometheusServer, Scrape
from tests.support.prometheus_tools import INSTALL_HINT as PROMETHEUS_HINT
from tests.support.prometheus_tools import prometheus_available
from tests.support.qdrant_server import QdrantServer
from tests.support.scenario import Scenario, merged
from tests.support.stream import Message

pytestmark = [pytest.mark.timeout(900), pytest.mark.alone]

SCRAPE = EVALUATION = 2.0
DRILL: dict[str, Any] = {
    "time_scale": 0.05,
    "scraping": {"scrape_interval": SCRAPE, "evaluation_interval": EVALUATION},
    "alerts": {
        # Thresholds that are no durations of ours: seconds of silence here, and more of a probe's
        # short intervals, since these processes share two processors.
        "PlumblineBrokerSilent": {"silence_seconds": 3},
        "PlumblineProbeSilent": {"intervals": 30},
        "PlumblineProbeFailing": {"intervals": 10},
        # A minute here. The canary alert must be there first, and a probe among processes that
        # share two processors can take half of one.
        "PlumblineIngestDown": {"for": "20m"},
    },
}

THREE = 3 * (SCRAPE + EVALUATION)
"""Seconds that a message may take, beside the alert's `for`."""

SEED = 20_261_127


class Watch:
    """One index with its job, its monitor, and everything between them and a person.

    Parameters
    ----------
    settings
        Nested, beside those that the test has.
    """

    def __init__(
        self,
        folder: Path,
        kafka: KafkaServer,
        qdrant_url: str,
        model: Path,
        name: str,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.metrics_port = free_port()
        every = {"interval_seconds": 2, "timeout_seconds": 30}
        probes = ("canary", "integrity", "fidelity", "freshness")
        values = {
            "metrics": {"port": self.metrics_port},
            "ingest": {"canary_interval_seconds": 1},
            "monitor": {
                "database_url": f"sqlite:///{folder / 'monitor.db'}",
                **dict.fromkeys(probes, every),
                "drift": {"enabled": False},
                "geometry": {"enabled": False},
            },
        }
        self.scenario = Scenario(
            kafka, qdrant_url, folder, name, model=model, settings=merged(values, settings)
        )
        self.name = name
        self._settled_at = 0.0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.receiver = self._stack.enter_context(WebhookReceiver())
            self.objectives = self._objectives()
            out = self.folder / "deploy"
            write(self.objectives, out)
            manager = AlertmanagerServer(out / "alertmanager" / "alertmanager.yml")
            self.alertmanager = self._stack.enter_context(manager)
            self.job = self.start_job(mutation="pooling-on-signal")
            monitor = MonitorProcess(self.folder, "monitor", self.scenario.values)
            self.monitor = self._stack.enter_context(monitor)
            self.monitor.wait_ready(240)
            rules = [out / "prometheus" / f"plumbline.{kind}.yml" for kind in ("rules", "alerts")]
            self.prometheus = self._stack.enter_context(
                PrometheusServer(
                    [
                        Scrape("plumbline-ingest", self.metrics_port, {"index": self.name}),
                        Scrape("plumbline-monitor", self.monitor.port),
                    ],
                    rules,
                    scrape_seconds=SCRAPE,
                    evaluation_seconds=EVALUATION,
                    alertmanagers=[self.alertmanager.address],
                )
            )
            self.prometheus.wait_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _objectives(self) -> Objectives:
        path = self.folder / "drill.yaml"
        notifications = {"webhook_url": self.receiver.url}
        path.write_text(yaml.safe_dump({**DRILL, "notifications": notifications}), "utf-8")
        return load_objectives(path)

    def start_job(self, **arguments: Any) -> IngestProcess:
        """A process of the job that reads."""
        job = self._stack.enter_context(self.scenario.job(**arguments))
        job.wait_for("metrics_serving", 180)
        return job

    def wait(self, alert: str) -> float:
        """The `for` of an alert, seconds, as this drill has it."""
        return self.objectives.wait(self.objectives.alerts.of(alert).wait)

    def expression(self, text: str) -> bool:
        """Whether a query gives a sample."""
        return bool(self.prometheus.query(text))

    def suppressed(self) -> set[str]:
        """Names of the alerts that Alertmanager has and does not tell."""
        return {
            one["labels"]["alertname"]
            for one in self.alertmanager.active()
            if one["status"]["inhibitedBy"]
        }

    def settled(self, seconds: float) -> None:
        """Nothing has fired for so long, and nothing is told as firing; counts from here.

        Processes that load their models side by side take longer than this drill's waits.
        """
        since = time.monotonic()

        def quiet() -> bool:
            nonlocal since
            if self.prometheus.firing() or self.receiver.firing():
                since = time.monotonic()
            return time.monotonic() - since >= seconds

        wait_until(quiet, 180, what="no alert fires", interval_seconds=0.5)
        self._settled_at = time.monotonic()

    @property
    def messages(self) -> list[Told]:
        """Those that came since all was quiet."""
        return [one for one in self.receiver.messages if one.at > self._settled_at]

    def told(self, alert: str, since: float) -> float:
        """Waits for the message that an alert fires, in time; gives the seconds it took."""
        allowed = THREE + self.wait(alert)
        wait_until(lambda: alert in self.receiver.firing(), 60, what=f"{alert} is told")
        took = next(m.at for m in self.messages if m.name == alert and m.firing) - since
        assert took <= allowed, f"{took:.1f} s, allowed are {allowed:.1f}"
        return took

    def resolved(self, alert: str, since: float) -> float:
        """Waits for the message of its end, in time; gives the seconds it took."""
        wait_until(lambda: alert not in self.receiver.firing(), 60, what=f"{alert} is resolved")
        took = (
            next(m.at for m in reversed(self.messages) if m.name == alert and not m.firing) - since
        )
        assert took <= THREE, f"{took:.1f} s, allowed are {THREE:.1f}"
        return took

    def names_told(self) -> set[str]:
        """Alerts of which a message said that they fire.

        Where one ends together with what it inhibited, Alertmanager says of both that they are
        over, in one message; nobody was called for the other.
        """
        return {message.name for message in self.messages if message.firing}


@pytest.fixture(autouse=True)
def servers() -> None:
    """Prometheus, Alertmanager and Kafka are there."""
    require(prometheus_available(), PROMETHEUS_HINT)
    require(alertmanager_available(), INSTALL_HINT)
    require(kafka_available(), KAFKA_HINT)


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[QdrantServer]:
    """A store whose control collection no other test's monitor reads."""
    with QdrantServer(tmp_path / "qdrant") as made:
        yield made


def _events(count: int, first: int = 0) -> list[Message]:
    return [
        Message(f"d{n}".encode(), f'{{"id": "d{n}", "text": "document {n} of many"}}'.encode())
        for n in range(first, first + count)
    ]


def _report(request: pytest.FixtureRequest, words: str) -> None:
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n  {words}", flush=True)


def test_a_worker_with_another_pooling(
    tmp_path: Path,
    kafka_server: KafkaServer,
    own_store: QdrantServer,
    model: Path,
    request: pytest.FixtureRequest,
) -> None:
    """The canary alert comes, alone although the job has ended; with the right encoder it goes."""
    alert = "PlumblineCanaryMismatch"
    name = f"pooling-{os.getpid()}"
    with Watch(tmp_path, kafka_server, own_store.url, model, name) as watch:
        watch.scenario.topic.produce(_events(120), [round(time.time() * 1000)] * 120)
        wait_until(watch.scenario.caught_up, 120, what="the job has caught up")
        watch.settled(5)
        struck = time.monotonic()
        os.kill(watch.job.pid, signal.SIGUSR1)
        wait_until(lambda: watch.monitor.value("plumbline_probe_alarm", probe="canary") == 1, 120)
        seen = time.monotonic()
        told = watch.told(alert, seen)
        watch.job.wait()
        # The job is down for longer than that alert waits: it fires, and is not told.
        wait_until(lambda: "PlumblineIngestDown" in watch.suppressed(), 180)
        assert watch.names_told() == {alert}, watch.messages
        message = watch.messages[0]
        assert message.labels["encoder"] == "worker"
        assert message.labels["index"] == name
        assert message.annotations["description"].startswith("The fixed texts no longer get")
        watch.start_job()
        # Until there is a job again, the alert speaks for its absence.
        wait_until(lambda: watch.monitor.value("plumbline_probe_alarm", probe="canary") == 0, 120)
        mended = time.monotonic()
        ended = watch.resolved(alert, mended)
        wait_until(lambda: not watch.prometheus.firing(), 120)
        assert watch.names_told() == {alert}
        _report(
            request,
            f"another pooling: reported after {seen - struck:.1f} s, told {told:.1f} s later "
            f"(allowed {THREE + watch.wait(alert):.1f}), resolved after {ended:.1f} s "
            f"(allowed {THREE:.1f})",
        )


def test_a_broker_that_stands_still(
    tmp_path: Path, own_store: QdrantServer, model: Path, request: pytest.FixtureRequest
) -> None:
    """SIGSTOP: that alert alone, although the freshness probe fails; SIGCONT: it goes."""
    alert = "PlumblineBrokerSilent"
    settings = {"monitor": {"freshness": {"interval_seconds": 1, "timeout_seconds": 3}}}
    with (
        KafkaServer() as kafka,
        Watch(tmp_path, kafka, own_store.url, model, f"broker-{os.getpid()}", **settings) as watch,
    ):
        watch.scenario.topic.produce(_events(120), [round(time.time() * 1000)] * 120)
        wait_until(watch.scenario.caught_up, 120, what="the job has caught up")
        watch.settled(5)
        kafka.process.pause()
        try:
            silent = "plumbline_kafka_silence_seconds"
            wait_until(lambda: (_value(watch.metrics_port, silent) or 0) > 3, 60)
            told = watch.told(alert, time.monotonic())
            wait_until(
                lambda: "PlumblineProbeFailing" in watch.suppressed(),
                120,
                what="the freshness probe fails and is not told",
            )
        finally:
            kafka.process.resume()
        wait_until(lambda: (_value(watch.metrics_port, silent) or 9) < 3, 60)
        # Until then the alert speaks for that probe's failure.
        wait_until(
            lambda: watch.monitor.value("plumbline_probe_failing", probe="freshness") == 0, 60
        )
        ended = watch.resolved(alert, time.monotonic())
        wait_until(lambda: not watch.prometheus.firing(), 120)
        assert watch.names_told() == {alert}
        _report(
            request,
            f"a stalled broker: told after {told:.1f} s (allowed "
            f"{THREE + watch.wait(alert):.1f}), resolved after {ended:.1f} s (allowed {THREE:.1f})",
        )


def _value(port: int, name: str) -> float | None:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    return None


DAY = 86_400_000
GOOD_DAYS = 22
"""The control wants 20 known-good windows over 13 days. They are days of event time: the stamps of
the events say so, whatever the clock says."""

PER_DAY = 100
WORDS = {
    line.split()[0]: line.split()
    for line in (
        "sea harbour tide sailor anchor lighthouse wave mast coral ferry gull",
        "law court judge verdict appeal witness statute clause trial jury oath",
        "food butter oven garlic soup flour pepper roast basil dough lemon",
        "rail train platform signal track station carriage tunnel freight guard",
    )
}


def _day(dice: random.Random, number: int, flood: float = 0.0) -> list[Message]:
    made = []
    for n in range(PER_DAY):
        topic = "law" if dice.random() < flood else dice.choice(list(WORDS))
        text = " ".join(dice.choices(WORDS[topic], k=12))
        key = f"{number}/{n}"
        made.append(Message(key.encode(), f'{{"id": "{key}", "text": "{text}"}}'.encode()))
    return made


def test_a_flood_of_one_topic(
    tmp_path: Path, own_store: QdrantServer, model: Path, request: pytest.FixtureRequest
) -> None:
    """Weeks of events in a minute: the drift alert comes alone, and goes with the flood.

    Events have stamps of weeks ago, so each is late by its stamp; the monitor knows that none has
    waited, and no freshness alert comes.
    """
    alert = "PlumblineDrift"
    drift = {
        "enabled": True,
        "interval_seconds": 1,
        "timeout_seconds": 60,
        # A whole day, however much of it was there when the probe came by.
        "minimum_window": PER_DAY,
        "window": PER_DAY,
        "minimum_reference": 4 * PER_DAY,
        "reference": 4 * PER_DAY,
        "permutations": 99,
        "average_run_length": 20,
    }
    dice = random.Random(SEED)
    settings = {"monitor": {"drift": drift}, "contract": {"chunk": None}}
    name = f"flood-{os.getpid()}"
    with (
        # Retention goes by the stamps, and would take the events away.
        KafkaServer({"log.retention.ms": -1}) as kafka,
        Watch(tmp_path, kafka, own_store.url, model, name, **settings) as watch,
    ):
        start = round(time.time() * 1000) - 60 * DAY
        success = "plumbline_probe_last_success_timestamp_seconds"

        def live_through(messages: list[Message], day: int) -> bool:
            """A day comes and is tested; whether the probe alarms then."""
            step = DAY // (len(messages) + 1)
            stamps = [start + day * DAY + n * step for n in range(len(messages))]
            watch.scenario.topic.produce(messages, stamps)
            wait_until(watch.scenario.caught_up, 120, what="the job has caught up")
            now = time.time()
            wait_until(lambda: (watch.monitor.value(success, probe="drift") or 0) > now, 60)
            return watch.monitor.value("plumbline_probe_alarm", probe="drift") == 1

        watch.settled(5)
        first = [one for number in range(4) for one in _day(dice, -1 - number)]
        assert not live_through(first, 0)
        for day in range(1, 1 + GOOD_DAYS):
            assert not live_through(_day(dice, day), day)
        assert watch.names_told() == set()
        day = GOOD_DAYS
        flooded = 0
        while not live_through(_day(dice, day + 1, flood=0.8), day + 1):
            day, flooded = day + 1, flooded + 1
            assert flooded < 3, "a flood is caught within three windows"
        told = watch.told(alert, time.monotonic())
        day += 1
        dry = 0
        while live_through(_day(dice, day + 1), day + 1):
            day, dry = day + 1, dry + 1
            assert dry < 20, "the evidence falls when ordinary days come"
        ended = watch.resolved(alert, time.monotonic())
        assert watch.names_told() == {alert}
        _report(
            request,
            f"a flood: seen in window {flooded + 1}, told after {told:.1f} s (allowed "
            f"{THREE + watch.wait(alert):.1f}), over after {dry + 1} ordinary windows, resolved "
            f"after {ended:.1f} s (allowed {THREE:.1f})",
        )
