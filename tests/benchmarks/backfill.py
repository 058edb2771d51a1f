"""The backfill against the bare encoder, its ETA, and what it costs live events."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.backfill import run_backfill
from pipelines.core.chunker import chunker_for
from pipelines.core.encoder import load_encoder
from pipelines.core.job import forget_jobs
from pipelines.core.planning import Planner
from pipelines.core.points import point_id
from pipelines.core.position import Position
from pipelines.core.qdrant import connect
from pipelines.core.records import Event
from pipelines.core.settings import Settings
from pipelines.core.throttle import Freshness
from pipelines.core.versions import Version, create_version
from pipelines.core.writing import DocumentWriter
from tests.benchmarks.bench import CONTRACT, Store, corpus_documents, stores
from tests.benchmarks.table import Table
from tests.benchmarks.throughput import bare_and_ours
from tests.support.brokers import Broker, Message, any_broker
from tests.support.corpora import Document
from tests.support.jobs import COMMAND, ENVIRONMENT, write_config
from tests.support.probing import Seeded
from tests.support.processes import ServerProcess, free_port, wait_until

NEEDS = ("banking77", "scifact", "arxiv-2025")

_SIZES = {"banking77": 4096, "mix": 768}
_ROUNDS = 3
_ETA_BATCH = 32

_PHASE_SECONDS = 40.0
_EVENTS_PER_SECOND = 8.0
_TURNS = 2
_BOUND_RATIO = 1.2
"""Of the p99 without a backfill: the bound that its throttle is given."""


def run() -> Table:
    """Rates and ratios, medians over rounds in which all take their turn; p99 by turns."""
    table = Table(
        "Backfill (documents/s against encoders on the same texts; live's p99 with and without)",
        ["what", "on", "figure", "ratio", "to"],
        notes=[
            "bare: SentenceTransformer.encode of all texts at once, sorted by length. ours: the",
            "job's encoder on batches of 256. Load of the model is in none of the figures. The",
            "source is read from the store, the target written and its ranges put on record.",
            "ETA: what was told each second, against what it took; median over the second half.",
            f"p99: {_EVENTS_PER_SECOND:g} events/s for {_PHASE_SECONDS:g} s a turn, polled in the",
            "store until they show; job and backfill in processes of their own, a thread each.",
        ],
    )
    bare, ours = bare_and_ours()
    with stores() as places:
        for name, size in _SIZES.items():
            _throughput(table, name, corpus_documents(name, size), places, bare, ours)
    with any_broker() as broker, stores() as places:
        server = next(place for place in places if "url" in place.qdrant)
        _freshness(table, broker, server)
    return table


def _throughput(
    table: Table,
    name: str,
    documents: Sequence[Document],
    places: Sequence[Store],
    bare: Callable[[list[str]], object],
    ours: Callable[[list[str]], object],
) -> None:
    texts = [document.rendered for document in documents]
    measures: dict[str, Callable[[], float]] = {
        "bare encoder": lambda: _rate(bare, texts),
        "our encoder": lambda: _rate(ours, texts),
    }
    for place in places:
        measures[f"backfill, {place.name}"] = lambda place=place: _filled(place, documents)[0]
    taken: dict[str, list[float]] = {what: [] for what in measures}
    for _ in range(_ROUNDS):
        for what, measure in measures.items():
            taken[what].append(measure())
    for what, rates in taken.items():
        ratio = statistics.median(a / b for a, b in zip(rates, taken["bare encoder"], strict=True))
        figure = f"{statistics.median(rates):.0f}/s"
        table.rows.append([what, name, figure, f"{ratio:.2f}", "bare encoder"])
    errors = _filled(places[-1], documents, batch_documents=_ETA_BATCH)[1]
    table.rows.append(
        ["median error of the ETA", name, f"{100 * statistics.median(errors):.1f} %", "", ""]
    )


def _rate(encode: Callable[[list[str]], object], texts: list[str]) -> float:
    started = time.perf_counter()
    encode(texts)
    return len(texts) / (time.perf_counter() - started)


def _filled(
    place: Store, documents: Sequence[Document], batch_documents: int = 256
) -> tuple[float, list[float]]:
    """Documents per second of one backfill, and the ETA's relative errors in its second half."""
    settings = Settings(
        index=f"bench-{uuid.uuid4().hex[:8]}",
        kafka={"topics": ["none"]},
        qdrant=place.qdrant,
        contract=CONTRACT,
        runtime={"device": "cpu"},
        metrics={"port": None},
        rollout={"batch_documents": batch_documents, "range_documents": 512},
    )
    qdrant = connect(settings)
    source = _source(settings, documents)
    target = create_version(qdrant, settings, load_encoder(settings.contract, settings.runtime))
    told: list[tuple[float, float | None]] = []
    started = time.monotonic()
    report = run_backfill(
        settings,
        source,
        target,
        backfill_id=settings.index,
        freshness=lambda: Freshness(0, 0.0),
        tell=lambda at: told.append((time.monotonic(), at["eta_seconds"])),
    )
    end = time.monotonic()
    assert report.complete
    for version in (source, target):
        qdrant.call("delete_collection", version.name)
    forget_jobs()
    half = started + (end - started) / 2
    errors = [
        abs(eta - (end - at)) / (end - at)
        for at, eta in told
        if at >= half and end - at >= 1 and eta is not None
    ]
    return report.counts.documents / report.seconds, errors or [0.0]


def _source(settings: Settings, documents: Sequence[Document]) -> Version:
    """A version of the documents; its vectors cost nothing, and nobody looks at them."""
    qdrant, encoder = connect(settings), Seeded(8)
    version = create_version(qdrant, settings, encoder)
    planner = Planner(qdrant, version, encoder, chunker_for(version.contract, encoder))
    writer = DocumentWriter(
        qdrant,
        version.name,
        index=version.index,
        fingerprint=version.fingerprint,
        order_by=version.order_by,
        chunked=False,
    )
    events = [
        Event(one.id, Position("none", 0, number, number), one.title, one.text)
        for number, one in enumerate(documents)
    ]
    for start in range(0, len(events), 256):
        plans, _ = planner.reconcile(events[start : start + 256])
        planner.cut(plans)
        planner.encode(plans)
        writer.write(plans)
    return version


def _freshness(table: Table, broker: Broker, place: Store) -> None:
    """Live's p99 without a backfill, beside a throttled one, and beside one that knows no bound."""
    documents = corpus_documents("mix", 6000)
    topic = f"fresh-{uuid.uuid4().hex[:8]}"
    broker.create_topic(topic)
    with tempfile.TemporaryDirectory(prefix="plumbline-bench-") as folder:
        values: dict[str, Any] = {
            "index": topic,
            "kafka": {**broker.kafka, "topics": [topic]},
            "qdrant": place.qdrant,
            "contract": {**CONTRACT, "chunk": {"size": 128, "overlap": 16}},
            "runtime": {"device": "cpu", "threads": 1},
            "metrics": {"port": free_port()},
            "ingest": {"bundle_seconds": 0.5},
            "rollout": {"range_documents": 256},
            "log_format": "json",
            "log_level": "warning",
        }
        settings = Settings(**values)
        qdrant = connect(settings)
        encoder = load_encoder(settings.contract, settings.runtime)
        live = create_version(qdrant, settings, encoder)
        whole = settings.model_copy(
            update={"contract": settings.contract.model_copy(update={"chunk": None})}
        )
        target = create_version(qdrant, whole, load_encoder(whole.contract, whole.runtime))
        source = _source(settings, documents)
        config = write_config(Path(folder, "live.yaml"), values)
        log = Path(folder, "live.log")
        job = ServerProcess([*COMMAND, "ingest", "--config", str(config)], log, environment=ENV)
        try:
            measure = _Live(broker, topic, qdrant, live)
            wait_until(lambda: measure.turn(1.0), 180, what="the live job writes")
            measure.turn(5.0)
            taken: dict[str, list[float]] = {"alone": [], "throttled": [], "unthrottled": []}
            for _ in range(_TURNS):
                taken["alone"] += measure.turn(_PHASE_SECONDS)
                bound = _BOUND_RATIO * _p99(taken["alone"])
                for name, seconds in (("throttled", bound), ("unthrottled", 3600.0)):
                    limits = {**values["rollout"], "freshness_bound_seconds": seconds}
                    if name == "unthrottled":
                        limits["lag_bound_records"] = 10**9
                    config = write_config(
                        Path(folder, f"{name}.yaml"), {**values, "rollout": limits}
                    )
                    with _backfilling(config, source, target, Path(folder, f"{name}.log")):
                        taken[name] += measure.turn(_PHASE_SECONDS)
        finally:
            job.stop()
        for version in (live, source, target):
            qdrant.call("delete_collection", version.name)
    alone = _p99(taken["alone"])
    for name, seconds in taken.items():
        table.rows.append(
            [
                f"live's p99, {'without a backfill' if name == 'alone' else f'{name} backfill'}",
                f"{len(seconds)} events",
                f"{_p99(seconds):.2f} s",
                f"{_p99(seconds) / alone:.2f}",
                "without",
            ]
        )


ENV = {**ENVIRONMENT, "PLUMBLINE_LOG_LEVEL": "warning"}


@contextlib.contextmanager
def _backfilling(config: Path, source: Version, target: Version, log: Path) -> Iterator[None]:
    """`plumbline backfill` in a process of its own, from its first written batch on."""
    command = ["backfill", "--config", str(config), "--from", source.name, "--to", target.name]
    process = ServerProcess(
        [*COMMAND, *command], log, environment={**ENV, "PLUMBLINE_LOG_LEVEL": "info"}
    )
    try:
        process.wait_ready(lambda: "backfill_starting" in process.log(), 180)
        yield
        process.require_running()
    finally:
        process.stop(30)


class _Live:
    """Sends events with the time of now, and polls until each can be found."""

    def __init__(self, broker: Broker, topic: str, qdrant: Any, version: Version) -> None:
        self._broker = broker
        self._topic = topic
        self._qdrant = qdrant
        self._version = version
        self._number = 0

    def turn(self, seconds: float) -> list[float]:
        """Seconds from event to searchable, of the events of one turn."""
        sent: dict[str, float] = {}
        found: list[float] = []
        lock, done = threading.Lock(), threading.Event()

        def send() -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                self._number += 1
                document_id = f"live/{self._number}"
                body = {
                    "id": document_id,
                    "title": f"Report {self._number}",
                    "text": f"Unit {self._number} says that all is well on its line today.",
                }
                now = time.time()
                with lock:
                    sent[point_id(self._version.index, document_id, 0)] = now
                value = json.dumps(body).encode()
                self._broker.send(
                    self._topic, [Message(document_id.encode(), value, round(now * 1000))]
                )
                done.wait(max(0.0, now + 1 / _EVENTS_PER_SECOND - time.time()))
            done.set()

        sender = threading.Thread(target=send)
        sender.start()
        give_up = time.monotonic() + seconds + 120
        while time.monotonic() < give_up:
            with lock:
                waiting = dict(sent)
            if not waiting and done.is_set():
                break
            if waiting:
                records = self._qdrant.call(
                    "retrieve",
                    self._version.name,
                    ids=list(waiting),
                    with_payload=False,
                    with_vectors=False,
                )
                now = time.time()
                with lock:
                    found += [now - sent.pop(str(record.id)) for record in records]
            done.wait(0.02) if not done.is_set() else time.sleep(0.02)
        sender.join()
        assert not sent, f"{len(sent)} events never showed"
        return found


def _p99(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]


if __name__ == "__main__":
    sys.stdout.write(f"{run()}\n{os.getloadavg()}\n")
