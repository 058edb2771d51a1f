"""Real queries find through the whole pipeline what the model finds without it."""

from __future__ import annotations

import pytest

from tests.support.corpora import Corpus, missing
from tests.support.retrieval import ingested_and_searched

TOLERANCE = 0.002
"""The figures come from float32 sums in another order; ties at the cut may fall either way."""


# Some five million tokens have to be encoded on whatever processor there is.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "without_text"), [("cranfield", 2), ("scifact", 0)])
def test_search_finds_what_the_model_can(name, without_text, tmp_path):
    """nDCG@10 and recall@100 after Kafka, Beam and Qdrant are those of exact search beside them."""
    reason = missing(name)
    if reason is not None:
        pytest.skip(reason)
    corpus = Corpus(name)

    found = ingested_and_searched(corpus, tmp_path)

    assert len(corpus.documents()) == found.result.counts.consumed
    assert found.result.counts.balanced
    assert without_text == found.result.counts.outcomes["dead_lettered"]
    reference = corpus.reference()
    for measure, score in found.scores.items():
        assert abs(reference[measure] - score) <= TOLERANCE, (measure, reference[measure], score)
