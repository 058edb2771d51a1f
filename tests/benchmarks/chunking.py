"""What search finds with chunking on, beside the reference without: figures for a note."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.table import Table
from tests.support.corpora import Corpus
from tests.support.qdrant_server import REAL_SERVER
from tests.support.retrieval import ingested_and_searched

NEEDS = ("cranfield", "scifact")
BY_NAME_ONLY = True
"""It encodes two corpora, two million tokens: `python -m tests.benchmarks chunking`."""

_CHUNK = {"size": 200, "overlap": 20}


def run() -> Table:
    """nDCG@10 and recall@100 of documents found by their best chunk."""
    real = os.environ.get(REAL_SERVER)
    table = Table(
        "Retrieval with chunking, through the whole pipeline",
        ["corpus", "chunks", "nDCG@10", "recall@100", "points", "ingest s", "search ms"],
        notes=[
            "Reference: one vector a document, exact search; tests/integration/test_quality.py",
            "holds the pipeline to it. Search: one query at a time, with its encoding.",
            f"Store: {'Qdrant server' if real else 'embedded engine'}.",
        ],
    )
    for name in NEEDS:
        corpus = Corpus(name)
        reference = corpus.reference()
        figures = [f"{reference[measure]:.5f}" for measure in ("ndcg@10", "recall@100")]
        table.rows.append([name, "reference", *figures, "", "", ""])
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = ingested_and_searched(corpus, Path(folder), _CHUNK, url=real)
        table.rows.append(
            [
                name,
                f"{_CHUNK['size']}, overlap {_CHUNK['overlap']}",
                *(f"{score:.5f}" for score in found.scores.values()),
                str(found.points),
                f"{time.perf_counter() - started - found.search_seconds:.0f}",
                f"{found.search_seconds / len(corpus.qrels()) * 1000:.0f}",
            ]
        )
        print(" | ".join(table.rows[-1]), file=sys.stderr, flush=True)
    return table
