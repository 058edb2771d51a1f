"""What more workers bring, what more partitions cost, and what the engine itself adds."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scipy import stats

from tests.benchmarks.bench import CONTRACT, Bench, Store, corpus_documents
from tests.benchmarks.table import Table
from tests.support.brokers import Message, any_broker, broker_of
from tests.support.cluster_load import ClusterJob, ClusterRun, spread
from tests.support.corpora import Corpus, messages
from tests.support.flink_server import INSTALL_HINT, flink_available
from tests.support.flink_stack import FlinkStack
from tests.support.jobs import ENVIRONMENT
from tests.support.kafka_server import KafkaServer, kafka_available
from tests.support.processes import REPOSITORY, free_port
from tests.support.qdrant_server import QdrantServer
from tests.support.slow_encoder import COMMAND, SECONDS
from tests.support.tiny_model import make_tiny_model
from tests.support.worker_pool import PoolProcess

NEEDS = ("banking77", "scifact", "arxiv-2025")
BY_NAME_ONLY = True
"""Twenty minutes, on a machine that does nothing else."""

_WORDS = 230
"""Documents of at least so many words fill the encoder's 256 tokens: all cost the same."""

_ROUNDS = int(os.environ.get("PLUMBLINE_TEST_ROUNDS") or 5)
_PARTITIONS = 4
_BATCH = 32
_DOCUMENTS = 256
"""Of a measurement; 64 a partition, two batches."""

_SLOW_SECONDS = 0.5
_SLOW_JOBS = ((1, 1), (1, 16), (2, 2), (4, 4), (8, 8), (16, 16))
"""Workers and splits."""
_SLOW_PARTITIONS = 16
_SLOW_LOAD_SECONDS = 20
_SLOW_DIMENSION = 384

_TOPIC_PARTITIONS = (1, 4, 16)
_TOPIC_DOCUMENTS = 2048

# Bundles as they are by default; the lease is not what is measured.
_INGEST = {
    "batch_events": _BATCH,
    "bundle_events": 2048,
    "bundle_seconds": 5.0,
    "lease_seconds": 60,
}

# Flink's own defaults: where all cores are busy, a heartbeat comes late.
_PATIENT = {"heartbeat.interval": 10_000, "heartbeat.timeout": 50_000}

_PARTS = ("workers", "partitions", "slow")

# Encodes the same documents as the workers, without the job around it, whenever it is told to.
_BARE = """
import json, sys
from pipelines.core.encoder import load_encoder
from pipelines.core.settings import ContractSettings, RuntimeSettings
contract, batch, path = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
encoder = load_encoder(ContractSettings(**contract), RuntimeSettings(device="cpu", threads=1))
texts = json.loads(open(path).read())
encoder.encode_documents(texts[:batch])
print("ready", flush=True)
for line in sys.stdin:
    for start in range(0, len(texts), batch):
        encoder.encode_documents(texts[start : start + batch])
    print("done", flush=True)
"""


def run() -> str:
    """The tables that PLUMBLINE_TEST_PARTS names, by default all three."""
    if not (kafka_available() and flink_available()):
        return f"scaling: not measured, {INSTALL_HINT}"
    parts = [part for part in os.environ.get("PLUMBLINE_TEST_PARTS", "").split(",") if part]
    known: dict[str, Callable[[], Table]] = {
        "workers": _workers,
        "partitions": _partitions,
        "slow": _slow,
    }
    return "\n\n".join(str(known[part]()) for part in parts or _PARTS)


def _workers() -> Table:
    """One worker against two, each with one thread, and the same of the bare encoder."""
    table = Table(
        "One worker against two on Flink, one encoder thread each (documents/s)",
        ["round", "1 worker", "2 workers", "ratio", "bare 1", "bare 2", "ratio "],
        notes=[
            f"all-MiniLM-L6-v2, float32, {_DOCUMENTS} documents of 256 tokens a measurement, from",
            f"{_PARTITIONS} partitions; a split a worker; batches of {_BATCH}. Each task manager",
            "has one slot and a pool of its own. Broker, store and Flink's processes share the",
            "cores with the workers. bare: processes that do nothing but encode the same texts.",
        ],
    )
    texts = [
        document.rendered
        for name in ("scifact", "arxiv-2025")
        for document in Corpus(name).documents()
        if len(document.rendered.split()) >= _WORDS
    ]
    settings = {
        "contract": {**CONTRACT, "chunk": None},
        "ingest": _INGEST,
    }
    warm = spread(texts[-_BATCH:], _PARTITIONS, "warm")
    documents = spread(texts[:_DOCUMENTS], _PARTITIONS, "load")
    ratios: dict[str, list[float]] = {"job": [], "bare": []}
    runs: dict[int, list[ClusterRun]] = {1: [], 2: []}
    with (
        tempfile.TemporaryDirectory() as folder,
        KafkaServer() as kafka,
        QdrantServer() as store,
        _bare(texts[: _DOCUMENTS // 2], Path(folder)) as bare,
        FlinkStack(Path(folder), task_managers=2, slots=1, config=_PATIENT) as stack,
    ):
        broker = broker_of(kafka)
        stack.job_server.start()
        for number in range(_ROUNDS):
            rates = {}
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                with ClusterJob(
                    stack,
                    kafka,
                    broker,
                    store.url,
                    store.process.pid,
                    Path(folder),
                    workers=workers,
                    model=CONTRACT["model"],
                    partitions=_PARTITIONS,
                    settings={**settings, "kafka": {"splits": workers}},
                ) as job:
                    job.load(warm)
                    done = job.load(documents)
                runs[workers].append(done)
                rates[workers] = done.rate
                _say(f"{workers}: {done.seconds:.1f} s, {done.each_worker}, {done.others:.1f}")
            alone = bare(1), bare(2)
            ratios["job"].append(rates[2] / rates[1])
            ratios["bare"].append(alone[1] / alone[0])
            table.rows.append(
                [
                    str(number + 1),
                    f"{rates[1]:.2f}",
                    f"{rates[2]:.2f}",
                    f"{ratios['job'][-1]:.3f}",
                    f"{alone[0]:.2f}",
                    f"{alone[1]:.2f}",
                    f"{ratios['bare'][-1]:.3f}",
                ]
            )
            _say(table.rows[-1])
    for what, found in ratios.items():
        table.notes.append(f"Ratio, {what}: {_bounded(found)}.")
    for workers, found_runs in runs.items():
        table.notes.append(f"{workers} at work: {_usage(found_runs)}.")
    return table


def _say(*what: object) -> None:
    """How far it is: the whole takes long."""
    print(*what, file=sys.stderr, flush=True)


def _bounded(ratios: list[float]) -> str:
    """Mean with the bounds of Student's 95 % interval, and the least."""
    mean = statistics.mean(ratios)
    if len(ratios) < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, len(ratios) - 1) * statistics.stdev(ratios) / len(ratios) ** 0.5
    return f"mean {mean:.3f} ({mean - half:.3f} to {mean + half:.3f}), least {min(ratios):.3f}"


def _usage(runs: list[ClusterRun]) -> str:
    """Processor milliseconds a document by what takes them, medians."""
    parts = [
        f"{what} {statistics.median(1000 * run.cpu[what] / run.documents for run in runs):.2f}"
        for what in runs[0].cpu
    ]
    others = statistics.median(run.others / run.seconds for run in runs)
    return f"CPU ms a document: {', '.join(parts)}; all else takes {others:.2f} of a core"


@contextlib.contextmanager
def _bare(texts: list[str], folder: Path) -> Iterator[Callable[[int], float]]:
    """Gives a function: documents/s of so many processes that encode the texts at once."""
    path = folder / "texts.json"
    path.write_text(json.dumps(texts))
    command = [sys.executable, "-c", _BARE, json.dumps(CONTRACT), str(_BATCH), str(path)]
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ENVIRONMENT},
            cwd=REPOSITORY,
            text=True,
        )
        for _ in range(2)
    ]

    def answer(process: Any) -> None:
        while line := process.stdout.readline():
            if line in ("ready\n", "done\n"):  # a line of the log else
                return
        raise RuntimeError("a process that encodes has ended")

    def measure(count: int) -> float:
        began = time.perf_counter()
        for process in processes[:count]:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes[:count]:
            answer(process)
        return count * len(texts) / (time.perf_counter() - began)

    try:
        for process in processes:
            answer(process)
        yield measure
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _partitions() -> Table:
    """What a document costs one process, by the number of partitions that it comes from."""
    table = Table(
        "Cost of a document by partitions, one process, one encoder thread (ms a document)",
        ["partitions", "to embed", "CPU", "ratio to 1", "the same again", "CPU ", "ratio to 1 "],
        notes=[
            f"all-MiniLM-L6-v2, float32; {_TOPIC_DOCUMENTS} questions of banking77, all else at",
            "its default. Medians over rounds in which all take their turn; the ratio is that of a",
            "round, with the least and the greatest. The same again: every event is found as it",
            "stands, which is what the job costs without its encoder.",
        ],
    )
    import torch

    torch.set_num_threads(1)
    documents = messages(corpus_documents("banking77", _TOPIC_DOCUMENTS))
    kinds = ("new", "again")
    wall: dict[tuple[int, str], list[float]] = {}
    cpu: dict[tuple[int, str], list[float]] = {}
    with any_broker() as broker, QdrantServer() as server:
        store = Store("stand-in server", {"url": server.url})
        for number in range(_ROUNDS + 1):
            for count in _TOPIC_PARTITIONS:
                topic = f"partitions-{count}-{number}"
                broker.create_topic(topic, count)
                broker.send(topic, documents)
                bench = Bench(broker, topic, store, runtime={"device": "cpu", "threads": 1})
                try:
                    for kind in kinds:
                        if kind == "again":
                            bench.rewind()
                        began = time.process_time()
                        timed = bench.run()
                        if number:  # the first round warms up
                            used = time.process_time() - began
                            place = (count, kind)
                            wall.setdefault(place, []).append(1000 / timed.rate)
                            cpu.setdefault(place, []).append(1000 * used / len(documents))
                finally:
                    bench.drop()
    for count in _TOPIC_PARTITIONS:
        cells = [str(count)]
        for kind in kinds:
            ratios = [a / b for a, b in zip(wall[count, kind], wall[1, kind], strict=True)]
            cells += [
                f"{statistics.median(wall[count, kind]):.3f}",
                f"{statistics.median(cpu[count, kind]):.3f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        table.rows.append(cells)
    return table


def _slow() -> Table:
    """An encoder that only waits: what is left is the engine's own."""
    ideal = _BATCH / _SLOW_SECONDS
    table = Table(
        "A simulated encoder that takes a fixed time a batch, 1 to 16 workers on Flink",
        ["workers", "splits", "documents/s", "of ideal", "CPU ms", "workers'", "cores busy"],
        notes=[
            f"A batch of {_BATCH} takes {_SLOW_SECONDS * 1000:.0f} ms, in which the worker sleeps:",
            f"{ideal:.0f} documents/s a worker, if the engine took nothing and shared nothing. One",
            "task manager a worker, one pool for all. CPU ms: processor time a document of all",
            "processes (workers, Flink, broker, store), and of the workers alone.",
        ],
    )
    with (
        tempfile.TemporaryDirectory() as name,
        KafkaServer() as kafka,
        QdrantServer() as store,
    ):
        folder = Path(name)
        model = make_tiny_model(folder, dimension=_SLOW_DIMENSION)
        pool = PoolProcess(
            "127.0.0.1",
            free_port(),
            folder / "pool.log",
            command=COMMAND,
            environment={SECONDS: str(_SLOW_SECONDS)},
        )
        broker = broker_of(kafka)
        with FlinkStack(
            folder,
            max(workers for workers, _ in _SLOW_JOBS),
            slots=1,
            pools=[pool],
            config=_PATIENT,
            start_timeout_seconds=300,
        ) as stack:
            stack.job_server.start()
            for workers, splits in _SLOW_JOBS:
                with ClusterJob(
                    stack,
                    kafka,
                    broker,
                    store.url,
                    store.process.pid,
                    folder,
                    workers=workers,
                    model=model,
                    partitions=_SLOW_PARTITIONS,
                    settings={
                        "contract": {"chunk": None},
                        "ingest": _INGEST,
                        "kafka": {"splits": splits},
                    },
                ) as job:
                    job.load(_short(_BATCH * _SLOW_PARTITIONS, "warm"))
                    encoded = job.encoding()
                    count = int(ideal * _SLOW_LOAD_SECONDS) * workers
                    done = job.load(_short(count, "load"))
                    batches, seconds = (
                        late - early for early, late in zip(encoded, job.encoding(), strict=True)
                    )
                    assert seconds >= 0.95 * _SLOW_SECONDS * batches, "the encoder is not slow"
                total = sum(done.cpu.values())
                table.rows.append(
                    [
                        str(workers),
                        str(splits),
                        f"{done.rate:.0f}",
                        f"{done.rate / (ideal * workers):.2f}",
                        f"{1000 * total / done.documents:.2f}",
                        f"{1000 * done.cpu['workers'] / done.documents:.2f}",
                        f"{total / done.seconds:.2f} of {os.cpu_count()}",
                    ]
                )
                table.notes.append(
                    f"{workers}, {splits}: {done.seconds:.1f} s, batches of "
                    f"{done.documents / max(batches, 1):.1f}; {_usage([done])}."
                )
                _say(table.rows[-1], table.notes[-1])
    return table


def _short(count: int, what: str) -> list[Message]:
    texts = (f"{what}, short text number {number}" for number in range(count))
    return spread(texts, _SLOW_PARTITIONS, what)
