"""An index that lives: real documents come, change and go, day by day, while probes look at it.

The topic is parts of real abstracts, two sentences each, so that sixty days need no document
twice. Beside it lies a corpus with judged queries, which nobody touches but the damages.
"""

from __future__ import annotations

import copy
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

from qdrant_client import models

from monitors.probes.base import Probe, ProbeResult
from pipelines.core.control import Control
from pipelines.core.encoder import PACKAGED_MODEL, load_encoder
from pipelines.core.lag import PartitionLag
from pipelines.core.purge import TopicRetention, purge_tombstones
from pipelines.core.settings import ContractSettings, RuntimeSettings
from pipelines.core.worker_reports import read_reports, remove_report
from tests.support.corpora import Corpus, Document
from tests.support.probing import FIRST_TIMESTAMP, Remembering, Watched
from tests.support.qdrant_server import REAL_SERVER

__all__ = ["DAY_MS", "NEEDS", "World", "judged", "living", "parts", "real_encoder"]

NEEDS = ("arxiv-2025", "scifact", "banking77")

DAY_MS = 86_400_000

_SENTENCES = 2

_BATCH = 500
"""Points read or written at a time."""


@dataclass(frozen=True)
class Part:
    """Some sentences of an abstract, and the category it was filed under."""

    document: Document
    label: str


@cache
def parts() -> tuple[Part, ...]:
    """Every two sentences of every abstract, shuffled: the first ones have all categories."""
    corpus = Corpus("arxiv-2025")
    found = []
    for row in corpus._rows("corpus.jsonl"):
        sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", row["text"])
        for number in range(0, len(sentences), _SENTENCES):
            text = " ".join(sentences[number : number + _SENTENCES])
            if 60 <= len(text) <= 700:
                identity = f"{row['_id']}/{number // _SENTENCES}"
                found.append(Part(Document(identity, "", text), row["label"]))
    random.Random(0).shuffle(found)
    return tuple(found)


@cache
def real_encoder() -> Any:
    """The packaged model, which encodes a text once a process."""
    contract = ContractSettings(model=PACKAGED_MODEL)
    return Remembering(load_encoder(contract, RuntimeSettings(device="cpu", threads=1)))


@cache
def judged(count: int) -> tuple[tuple[Document, ...], dict[str, str], dict[str, dict[str, int]]]:
    """So many documents, all judged ones among them, the queries, and the judgements."""
    corpus = Corpus("scifact")
    qrels = corpus.qrels()
    wanted = {document for grades in qrels.values() for document in grades}
    documents = corpus.documents()
    kept = [document for document in documents if document.id in wanted]
    kept += [d for d in documents if d.id not in wanted][: count - len(kept)]
    queries = {query: text for query, text in corpus.queries().items() if query in qrels}
    return tuple(kept), queries, qrels


@dataclass
class World(AbstractContextManager["World"]):
    """One index over some days.

    Parameters
    ----------
    directory
        For the embedded store.
    url
        Of a Qdrant server instead, on which the index has a name of its own until the end.
    seed
        Of the order in which documents come and of what happens to them.
    per_day
        New documents a day; as many old ones of the stream are deleted, so that the index keeps
        its size, unless there is `growth`.
    old
        Documents of the stream before its first day.
    judged_documents
        Documents of the corpus with judged queries; 0 for none.
    wobble
        How much the mix of categories changes from day to day: each category's weight is
        multiplied by a log-normal of this spread.
    pool
        Documents there are, of which a life takes some: few are encoded once for many lives.
    kept_back
        A category and how many of its documents do not come by themselves, for a flood.
    duplicates
        Share of a day's documents that come once more under another id.
    growth
        Share of a day's documents in whose place no old one is deleted.
    """

    directory: Path
    seed: int
    url: str | None = None
    per_day: int = 500
    old: int = 2000
    judged_documents: int = 1200
    wobble: float = 0.0
    duplicates: float = 0.0
    growth: float = 0.0
    pool: int = 16_000
    kept_back: tuple[str, int] | None = None
    encoder: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._points: list[models.PointStruct] | None = None
        self._forked_from: World | None = None
        self.dice = random.Random(self.seed)
        self._fresh = list(parts()[: self.pool])
        self.dice.shuffle(self._fresh)
        self._reserve: list[Part] = []
        if self.kept_back is not None:
            label, count = self.kept_back
            self._reserve = [part for part in self._fresh if part.label == label][:count]
            reserved = {part.document.id for part in self._reserve}
            self._fresh = [part for part in self._fresh if part.document.id not in reserved]
        self.day = 0
        self._alive: list[str] = []
        own = self.encoder or real_encoder()
        self.settings = {"kafka": {"topics": ["documents"]}, **self.settings}
        where: dict[str, Any] = (
            {"directory": self.directory}
            if self.url is None
            else {"url": self.url, "index": f"world-{uuid.uuid4().hex[:12]}"}
        )
        self.watched = Watched(**where, encoder=own, settings=self.settings)
        self.own = own
        if self.judged_documents:
            # Long ago, so that no day's window holds them.
            self.watched.write(judged(self.judged_documents)[0], at=FIRST_TIMESTAMP - 400 * DAY_MS)
        old = self._take(self.old)
        step = 20 * DAY_MS // len(old)
        self.watched.write(old, at=FIRST_TIMESTAMP - 20 * DAY_MS, step_ms=step)
        self._alive.extend(document.id for document in old)
        self.end_day()

    def __exit__(self, *_: object) -> None:
        if self._forked_from is not None:
            self._forked_from._put_back()
            return
        if self.url is not None:
            self.watched.qdrant.call("delete_collection", self.watched.version.name)
        self.watched.__exit__()

    def fork(self, directory: Path) -> Self:
        """The same index once more, at this moment; this one rests from then on.

        On the embedded store another folder has it, and this one is closed. On a server it is the
        same collection, and what a fork does to it is undone when that ends.
        """
        other = copy.copy(self)
        other.dice = copy.deepcopy(self.dice)
        other._fresh = list(self._fresh)
        other._reserve = list(self._reserve)
        other._alive = list(self._alive)
        before = self.watched
        if self.url is None:
            before.__exit__()
            shutil.copytree(self.directory, directory)
            other.directory = directory
            other.watched = Watched(directory, encoder=self.own, settings=self.settings)
            other.watched.now = before.now
            other.watched._offset, other.watched._runs = before._offset, before._runs
        else:
            if self._points is None:
                self._points = _all_points(before)
            other.watched = copy.copy(before)
            other._forked_from = self
        for name in ("references", "state", "baseline"):
            setattr(other.watched, name, copy.deepcopy(getattr(before, name)))
        return other

    def _put_back(self) -> None:
        """What the collection held when it was forked, and no worker's report."""
        qdrant, name = self.watched.qdrant, self.watched.version.name
        everything = models.FilterSelector(filter=models.Filter())
        qdrant.call("delete", name, points_selector=everything, wait=True)
        points = self._points or []
        for start in range(0, len(points), _BATCH):
            qdrant.call("upsert", name, points=points[start : start + _BATCH], wait=True)
        for report in read_reports(Control(qdrant), name):
            remove_report(qdrant, report)

    @property
    def start_ms(self) -> int:
        """When the present day began."""
        return FIRST_TIMESTAMP + self.day * DAY_MS

    def take(self, count: int) -> list[Document]:
        """Documents that have not come yet."""
        return self._take(count)

    def flood(self, count: int) -> list[Document]:
        """Documents of the category that was kept back."""
        chosen, self._reserve = self._reserve[:count], self._reserve[count:]
        assert len(chosen) == count, "too few were kept back"
        return [part.document for part in chosen]

    def live(self, extra: Sequence[Document] = (), *, instead: bool = True, **write: Any) -> None:
        """One day: new documents come, old ones are deleted, metadata changes, some come twice.

        Parameters
        ----------
        extra
            Documents of a damage, among the day's own.
        instead
            Whether they take the place of as many others.
        write
            Further arguments of `Watched.write`: a damaged encoder.
        """
        count = self.per_day - (len(extra) if instead else 0)
        today = self._take(count) + list(extra)
        twice = self.dice.sample(today, round(self.duplicates * len(today)))
        today += [Document(f"{d.id}/again", d.title, d.text) for d in twice]
        self.dice.shuffle(today)
        self.watched.write(today, at=self.start_ms, step_ms=DAY_MS // (len(today) + 1), **write)
        leaving = round((1 - self.growth) * len(today))
        if leaving:
            gone, self._alive = self._alive[:leaving], self._alive[leaving:]
            self.watched.delete(gone, at=self.start_ms + DAY_MS - len(gone) - 1)
        self._alive.extend(document.id for document in today)
        self.end_day()

    def end_day(self) -> None:
        """Midnight: what the probes see is the day that has just ended; tombstones are purged.

        The embedded engine walks past every one of them in each request.
        """
        self.day += 1
        from datetime import UTC, datetime

        self.watched.now = datetime.fromtimestamp(self.start_ms / 1000, UTC)
        purge_tombstones(
            self.watched.qdrant,
            self.watched.settings,
            self.watched.version,
            topics=[TopicRetention("documents", "source", "delete", DAY_MS, DAY_MS)],
            lag=lambda _: [PartitionLag("documents", 0, 0, None, committed=1 << 40)],
            older_than_days=1,
            now=lambda: time.time() + 400 * DAY_MS / 1000,
        )

    def look(self, probe: Probe, **arguments: Any) -> ProbeResult:
        """Runs a probe."""
        return self.watched.run(probe, **arguments)

    def golden_file(self, path: Path, count: int | None = None) -> Path:
        """The judged queries, or the first ones, in BEIR's layout; the folder."""
        import json

        _, queries, qrels = judged(self.judged_documents)
        queries = dict(list(queries.items())[:count])
        path.mkdir(exist_ok=True)
        with (path / "queries.jsonl").open("w", encoding="utf-8") as file:
            for query, text in queries.items():
                file.write(json.dumps({"_id": query, "text": text}) + "\n")
        with (path / "qrels.tsv").open("w", encoding="utf-8") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            for query in queries:
                for document, grade in qrels[query].items():
                    file.write(f"{query}\t{document}\t{grade}\n")
        return path

    def _take(self, count: int) -> list[Document]:
        chosen = self._wobbled(count) if self.wobble else self._fresh[:count]
        used = {part.document.id for part in chosen}
        self._fresh = [part for part in self._fresh if part.document.id not in used]
        assert len(chosen) == count, "the documents have run out"
        return [part.document for part in chosen]

    def _wobbled(self, count: int) -> list[Part]:
        labels = sorted({part.label for part in self._fresh})
        weight = {label: self.dice.lognormvariate(0, self.wobble) for label in labels}
        # The smallest of exponential waiting times: sampling without replacement by weight.
        ranked = sorted(self._fresh, key=lambda p: self.dice.expovariate(1.0) / weight[p.label])
        return ranked[:count]


def _all_points(watched: Watched) -> list[models.PointStruct]:
    found: list[models.PointStruct] = []
    offset = None
    while True:
        points, offset = watched.qdrant.call(
            "scroll",
            watched.version.name,
            limit=_BATCH,
            offset=offset,
            with_vectors=True,
            with_payload=True,
        )
        found += [
            models.PointStruct(id=point.id, vector=point.vector, payload=point.payload)
            for point in points
        ]
        if offset is None:
            return found


@contextmanager
def living(
    directory: Path,
    seed: int,
    *,
    drift: Mapping[str, Any],
    queries: int | None = None,
    **life: Any,
) -> Iterator[World]:
    """A world of this seed with judged documents and their queries, asked as fast as can be.

    On the server that PLUMBLINE_TEST_QDRANT_URL names, else on the embedded engine, which filters
    in Python: the long forms take three times as long there.

    Parameters
    ----------
    drift
        Settings of the drift probe.
    queries
        How many, the first ones; default: all.
    life
        Of `World`.
    """
    golden = directory / "golden"
    settings = {
        "monitor": {"golden": {"file": str(golden), "queries_per_second": 1e6}, "drift": drift}
    }
    url = os.environ.get(REAL_SERVER)
    with World(directory / "store", seed, url=url, settings=settings, **life) as world:
        world.golden_file(golden, queries)
        yield world
