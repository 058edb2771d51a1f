"""What the golden probe costs those who search: p99 latency with and without it, in turns."""

from __future__ import annotations

import csv
import json
import os
import tempfile
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monitors.background import stand_back
from monitors.golden.files import read_golden
from monitors.golden.run import Pace, VersionStore, encode_golden, unhurried
from monitors.probes.base import ProbeContext
from monitors.probes.golden import GoldenProbe
from tests.benchmarks.bench import CONTRACT, Store, stores
from tests.benchmarks.table import Table
from tests.support.corpora import DATA, Corpus, Document
from tests.support.probing import Watched
from tests.support.search_load import searcher

NEEDS = ("scifact",)
BY_NAME_ONLY = True
"""A round takes 23 minutes, as paced: `python -m tests.benchmarks golden_latency`."""

ROUNDS = int(os.environ.get("GOLDEN_ROUNDS", "1"))
"""Runs of the probe."""

STORES = os.environ.get("GOLDEN_STORES", "")
"""Part of a store's name; empty for all."""

_QUERIES = 1000
_UTILISATION = 0.25
"""Share of the time for which searches keep a store busy that answers one at a time."""
_MOST_PER_SECOND = 50.0
_WINDOW_SECONDS = 10.0
"""The probe is held up, and goes on, for so long: what else happens on the machine meets both."""
_RESAMPLES = 2000

Floats = npt.NDArray[Any]


def run() -> Table:
    """p99 latency of searches, in milliseconds, and the ratio with its spread."""
    table = Table(
        f"Search beside the golden probe ({_QUERIES} queries, default pace): p99, ms",
        [
            "store",
            "searches/s",
            "probe s",
            "searches",
            "p50",
            "p99 without",
            "p99 with",
            "ratio",
            "95 %",
        ],
        notes=[
            f"{ROUNDS} runs of the probe, held up and going on in turns of",
            f"{_WINDOW_SECONDS:.0f} s; in a pair of turns the same searches at the same moments.",
            "They arrive by a Poisson process, whether earlier ones have been answered or not,",
            "from a process of their own (embedded engine: from threads beside the probe, since",
            "it belongs to one process); latency counts from the arrival. The index holds",
            "scifact's documents under the vectors of their titles. Probe, searchers and store",
            f"share {os.cpu_count()} cores; the queries were encoded by the probe's first run.",
            "Probe s: what a run takes that is not held up. Interval: pairs of turns resampled.",
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
            alone = float(np.median(search(200.0, 3.0, 0, alone=True)))
            rate = min(_MOST_PER_SECOND, _UTILISATION / alone)
            probe.start(quickly=True).join()  # takes the baseline
            pairs = []
            for number in range(ROUNDS):
                running = probe.start()
                while running.is_alive():
                    seed = number * 1000 + len(pairs)
                    found: dict[bool, Floats] = {}
                    for probing in (seed % 2 == 1, seed % 2 == 0):
                        probe.go_on(probing)
                        found[probing] = search(rate, _WINDOW_SECONDS, seed)
                    if running.is_alive():
                        pairs.append((found[False], found[True]))
                    probe.go_on(True)
                running.join()
            assert pairs, "the probe ended before it was measured"
        watched.qdrant.call("delete_collection", watched.version.name)
    without, beside = (np.concatenate([pair[which] for pair in pairs]) for which in (0, 1))
    low, high = _interval(pairs)
    return [
        place.name,
        f"{rate:.0f}",
        f"{len(pairs) * _WINDOW_SECONDS / ROUNDS:.0f}",
        f"{len(without)}",
        f"{np.median(without) * 1000:.1f}",
        f"{_p99(without) * 1000:.1f}",
        f"{_p99(beside) * 1000:.1f}",
        f"{_p99(beside) / _p99(without):.3f}",
        f"{low:.3f}-{high:.3f}",
    ]


def _p99(seconds: Floats) -> float:
    return float(np.quantile(seconds, 0.99))


def _interval(pairs: list[tuple[Floats, Floats]]) -> tuple[float, float]:
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(_RESAMPLES):
        rows = random.integers(len(pairs), size=len(pairs))
        before, after = (np.concatenate([pairs[row][which] for row in rows]) for which in (0, 1))
        ratios.append(_p99(after) / _p99(before))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


class _Hold:
    """Lets the probe's queries go out while it may go on, and holds them up otherwise."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()

    def check(self) -> None:
        self.may.wait()


class _Probe:
    """Runs of the golden probe on one index, as the service makes them."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._hold = _Hold()
        self._probe = GoldenProbe(self._version)
        self._state: Any = None
        self._baseline: Any = None
        self._rate: float | None = None

    def go_on(self, probing: bool) -> None:
        """Whether the run may ask."""
        (self._hold.may.set if probing else self._hold.may.clear)()

    def start(self, *, quickly: bool = False) -> threading.Thread:
        """Begins a run on a thread of its own, as the service does."""
        settings = self._watched.settings.monitor.golden
        # As the probe does when it is given the time of the settings, which being held up is not.
        self._rate = None if quickly else unhurried(_QUERIES, settings.timeout_seconds)
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        return thread

    def _version(self, context: ProbeContext) -> VersionStore:
        return VersionStore(context.qdrant, context.version, Pace(self._rate, self._hold))

    def _run(self) -> None:
        stand_back()
        encoder = self._watched.encoder
        context = replace(
            self._watched.context(seconds=7200.0),
            # The service checks the canaries when it loads the encoder, not at every run.
            encoder=lambda: encoder,
            state=self._state,
            baseline=self._baseline,
        )
        result = self._probe.run(context)
        self._state, self._baseline = result.state, result.baseline or self._baseline


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
