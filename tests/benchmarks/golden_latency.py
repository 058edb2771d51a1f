"""What the golden probe costs those who search: p99 latency with and without it, in turns."""

from __future__ import annotations

import csv
import json
import os
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from monitors.background import stand_back
from monitors.golden.files import read_golden
from monitors.golden.run import encode_golden
from monitors.probes.golden import GoldenProbe
from tests.benchmarks.bench import CONTRACT, Store, stores
from tests.benchmarks.table import Table
from tests.support.corpora import DATA, Corpus, Document
from tests.support.probing import Watched
from tests.support.search_load import BLOCK_SECONDS, Latencies, searcher

NEEDS = ("scifact",)
BY_NAME_ONLY = True
"""Each probe run takes its 50 seconds, as paced: `python -m tests.benchmarks golden_latency`."""

ROUNDS = int(os.environ.get("GOLDEN_ROUNDS", "4"))
"""Times with and without the probe, each as long as a run of the probe."""

STORES = os.environ.get("GOLDEN_STORES", "")
"""Part of a store's name; empty for all."""

_QUERIES = 1000
_UTILISATION = 0.25
"""Share of the time for which searches keep a store busy that answers one at a time."""
_MOST_PER_SECOND = 50.0
_RESAMPLES = 2000


def run() -> Table:
    """p99 latency of searches, in milliseconds, and the ratio with its spread."""
    table = Table(
        f"Search beside the golden probe ({_QUERIES} queries, default pace): p99, ms",
        ["store", "searches/s", "probe s", "median", "p99 without", "p99 with", "ratio", "95 %"],
        notes=[
            f"{ROUNDS} times without and with in turn, each as long as the probe's run. Searches",
            "arrive by a Poisson process, whether earlier ones have been answered or not, from a",
            "process of their own (embedded engine: from threads beside the probe, since it",
            "belongs to one process); latency counts from the arrival. The index holds scifact's",
            "documents under the vectors of their titles. Probe, searchers and store share",
            f"{os.cpu_count()} cores; the queries were encoded by the probe's first run. Interval:",
            f"blocks of {BLOCK_SECONDS:.0f} s resampled.",
        ],
    )
    golden = _golden_set()
    with tempfile.TemporaryDirectory(prefix="plumbline-golden-") as folder, stores() as places:
        _write_golden(Path(folder), golden)
        for place in places:
            if STORES in place.name:
                table.rows.append(_measure(place, Path(folder)))
                print(" | ".join(table.rows[-1]), flush=True)
    return table


def _measure(place: Store, folder: Path) -> list[str]:
    settings = {
        "qdrant": place.qdrant,
        "contract": CONTRACT,
        "runtime": {"threads": None},
        "monitor": {"golden": {"file": str(folder)}},
    }
    index = f"bench-{uuid.uuid4().hex[:8]}"
    where: dict[str, Any] = (
        {"url": place.qdrant["url"]}
        if "url" in place.qdrant
        else {"directory": place.qdrant["path"]}
    )
    with Watched(**where, index=index, settings=settings) as watched:
        watched.write(Corpus("scifact").documents(), encoder=_Titles(watched.encoder))
        queries = read_golden(folder).scored
        vectors = np.stack(list(encode_golden(watched.encoder, queries[::5]).values()))
        probe = _Probe(watched)
        with searcher(watched.settings, vectors, shared="url" not in place.qdrant) as search:
            rate = min(_MOST_PER_SECOND, _UTILISATION / search(200.0, 3.0, alone=True).median)
            for _ in range(2):  # the first run takes the baseline
                probe.start().join()
            seconds = probe.seconds
            found: dict[bool, list[Latencies]] = {False: [], True: []}
            for number in range(ROUNDS):
                for probing in (number % 2 == 1, number % 2 == 0):
                    running = probe.start() if probing else None
                    found[probing].append(search(rate, seconds))
                    if running is not None:
                        running.join()
        watched.qdrant.call("delete_collection", watched.version.name)
    without, beside = (_joined(found[probing]) for probing in (False, True))
    low, high = _interval(without, beside)
    return [
        place.name,
        f"{rate:.0f}",
        f"{seconds:.0f}",
        f"{without.median * 1000:.1f}",
        f"{without.p99 * 1000:.1f}",
        f"{beside.p99 * 1000:.1f}",
        f"{beside.p99 / without.p99:.3f}",
        f"{low:.3f}-{high:.3f}",
    ]


def _joined(parts: list[Latencies]) -> Latencies:
    offsets = np.cumsum([0.0, *(part.arrivals[-1] + 2 * BLOCK_SECONDS for part in parts[:-1])])
    arrivals = [part.arrivals + at for part, at in zip(parts, offsets, strict=True)]
    return Latencies(np.concatenate(arrivals), np.concatenate([part.seconds for part in parts]))


def _interval(without: Latencies, beside: Latencies) -> tuple[float, float]:
    random = np.random.default_rng(0)

    def drawn(blocks: list[Any]) -> float:
        rows = random.integers(len(blocks), size=len(blocks))
        return float(np.quantile(np.concatenate([blocks[row] for row in rows]), 0.99))

    before, after = without.blocks(), beside.blocks()
    ratios = [drawn(after) / drawn(before) for _ in range(_RESAMPLES)]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


@dataclass
class _Probe:
    """Runs of the golden probe on one index, as the service makes them."""

    watched: Watched
    state: Any = None
    baseline: Any = None
    probe: GoldenProbe = field(default_factory=GoldenProbe)
    seconds: float = 0.0

    def start(self) -> threading.Thread:
        """Begins a run on a thread of its own, as the service does."""
        thread = threading.Thread(target=self._run)
        thread.start()
        return thread

    def _run(self) -> None:
        stand_back()
        encoder = self.watched.encoder
        context = replace(
            self.watched.context(seconds=600.0),
            # The service checks the canaries when it loads the encoder, not at every run.
            encoder=lambda: encoder,
            state=self.state,
            baseline=self.baseline,
        )
        started = time.perf_counter()
        result = self.probe.run(context)
        self.state, self.baseline = result.state, result.baseline or self.baseline
        self.seconds = time.perf_counter() - started


class _Titles:
    """The encoder, given titles alone: the vectors of a corpus in a tenth of the time."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._titles = {document.rendered: document for document in Corpus("scifact").documents()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: list[str]) -> Any:
        return self._encoder.encode_documents([self._title(text) for text in texts])

    def _title(self, text: str) -> str:
        known: Document | None = self._titles.get(text)
        return text if known is None else known.title


def _golden_set() -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """The first thousand judged queries, those for training too, and their judgements."""
    queries: dict[str, str] = {}
    judged: list[tuple[str, str, str]] = []
    folder = DATA / "scifact"
    for part in ("", "_train"):
        texts = {}
        for line in (folder / f"queries{part}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            texts[row["_id"]] = row["text"]
        with (folder / f"qrels{part}.tsv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                query = row["query-id"]
                if query not in queries and len(queries) == _QUERIES:
                    continue
                queries[query] = texts[query]
                judged.append((query, row["corpus-id"], row["score"]))
    return queries, judged


def _write_golden(folder: Path, golden: tuple[dict[str, str], list[tuple[str, str, str]]]) -> None:
    queries, judged = golden
    lines = [json.dumps({"_id": query, "text": text}) for query, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(row) for row in judged)]
    (folder / "qrels.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
