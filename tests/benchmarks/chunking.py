"""What search finds with chunking on, beside the reference without: figures for a note."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.benchmarks.table import Table
from tests.support.corpora import Corpus
from tests.support.retrieval import ingested_and_searched

NEEDS = ("cranfield", "scifact")
BY_NAME_ONLY = True
"""It encodes two corpora three times over: `python -m tests.benchmarks chunking`."""

_CHUNKS = (None, {"size": 128, "overlap": 16}, {"size": 200, "overlap": 20})


def run() -> Table:
    """nDCG@10 and recall@100 of documents found by their best chunk."""
    table = Table(
        "Retrieval with chunking, through the whole pipeline",
        ["corpus", "chunks", "nDCG@10", "recall@100"],
    )
    for name in NEEDS:
        corpus = Corpus(name)
        reference = corpus.reference()
        figures = [f"{reference[measure]:.5f}" for measure in ("ndcg@10", "recall@100")]
        table.rows.append([name, "reference", *figures])
        for chunk in _CHUNKS:
            with tempfile.TemporaryDirectory() as folder:
                _, scores = ingested_and_searched(corpus, Path(folder), chunk)
            shown = "none" if chunk is None else f"{chunk['size']}, overlap {chunk['overlap']}"
            table.rows.append([name, shown, *(f"{score:.5f}" for score in scores.values())])
    return table
