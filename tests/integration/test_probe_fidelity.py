"""The fidelity probe on real texts: mixed models in the first run, and no alarm over nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from monitors.probes.base import Level
from monitors.probes.fidelity import FidelityProbe
from tests.support.corpora import DATA, Corpus, Document, missing
from tests.support.damage import damaged, fine_tuned
from tests.support.probing import Remembering, Watched, values_of

SAMPLE = 100
SEEDS = 5
ACCEPTANCE_SEEDS = 20

pytestmark = [
    pytest.mark.skipif(
        missing("banking77", "cranfield") is not None,
        reason=str(missing("banking77", "cranfield")),
    ),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def texts() -> list[Document]:
    """Short and long ones."""
    short = Corpus("banking77").documents(300)
    return [*short, *(d for d in Corpus("cranfield").documents(62) if d.text)]


def _settings(chunk=None) -> dict:
    return {
        "monitor": {"fidelity": {"sample": SAMPLE}},
        "contract": {"max_tokens": 256, "chunk": chunk},
    }


@pytest.fixture(scope="module")
def watched(tmp_path_factory, texts) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("store"), settings=_settings()) as index:
        index.encoder = Remembering(index.encoder)
        index.write(texts)
        yield index


def _encoder(kind: str):
    if kind == "fine_tuned":
        return fine_tuned(DATA / "stsb" / "en-train.csv")
    return damaged(kind)


@pytest.fixture(scope="module")
def encoders():
    """Each damaged encoder once, and each text once by each."""
    known: dict = {}

    def get(kind):
        if kind not in known:
            known[kind] = Remembering(_encoder(kind))
        return known[kind]

    return get


@pytest.mark.parametrize(
    "kind", ["fine_tuned", "wrong_pooling", "int8_weights", "truncated_tokens"]
)
def test_a_tenth_of_documents_of_another_encoder_is_found_at_once(
    watched: Watched, texts, encoders, acceptance, kind
) -> None:
    """In the first run, in 19 of 20 seeds; each draws other documents to be damaged."""
    found = 0
    seeds = ACCEPTANCE_SEEDS if acceptance else SEEDS
    # A limit of tokens does nothing to short texts, and rounding little to some.
    pool = texts[300:] if kind == "truncated_tokens" else texts
    for seed in range(seeds):
        chosen = random.Random(seed).sample(pool, 40)
        damages = [Document(f"{kind}/{seed}/{d.id}", d.title, d.text) for d in chosen]
        watched.write(damages, encoder=encoders(kind))
        result = watched.run(FidelityProbe(), seed=seed)
        named = [entry["document_id"] for entry in result.details.get("documents", ())]
        assert all(document_id.startswith(f"{kind}/{seed}/") for document_id in named)
        found += result.level is Level.ALARM
        watched.delete([document.id for document in damages])
    print(f"{kind}: {found} of {seeds}")
    assert found >= 0.95 * seeds


def test_rounding_to_float16_and_churn_and_duplicates_are_faithful(
    watched: Watched, texts, encoders, acceptance
) -> None:
    """Half of the documents by a worker on float16, a fifth written anew, a fifth copied."""
    seeds = ACCEPTANCE_SEEDS if acceptance else SEEDS
    for seed in range(seeds):
        chance = random.Random(seed)
        names = []
        for name, encoder, share in (
            ("float16", encoders("float16"), 2),
            ("churn", None, 5),
            ("copy", None, 5),
        ):
            chosen = chance.sample(texts[:300], 300 // share)
            written = [Document(f"{name}/{seed}/{d.id}", d.title, d.text) for d in chosen]
            watched.write(written, encoder=encoder)
            names.extend(document.id for document in written)
        result = watched.run(FidelityProbe(), seed=seed)
        assert result.reason == "faithful", result.words
        assert values_of(result, "plumbline_fidelity_distance")[("100",)] < 1e-5
        watched.delete(names)


def test_chunked_documents_compare_chunk_by_chunk(tmp_path, texts, encoders) -> None:
    """Each piece with its own text; one wrong piece is enough, and another cut is a mismatch."""
    long = texts[300:340]
    with Watched(tmp_path, settings=_settings({"size": 64, "overlap": 8})) as index:
        index.write(long)
        assert len(index.points()) > 2 * len(long)
        result = index.run(FidelityProbe())
        assert result.reason == "faithful", result.words
        from qdrant_client import models

        from pipelines.core.points import DENSE, point_id

        document_id = next(
            key
            for key, point in index.documents().items()
            if point.payload["_plumbline"]["chunks"] >= 3
        )
        ids = [point_id(index.version.index, document_id, number) for number in (1, 2)]
        first, second = index.qdrant.call(
            "retrieve", index.version.name, ids=ids, with_vectors=True
        )
        index.qdrant.call(
            "update_vectors",
            index.version.name,
            points=[models.PointVectors(id=first.id, vector={DENSE: second.vector[DENSE]})],
        )
        result = index.run(FidelityProbe())
        assert [entry["document_id"] for entry in result.details["documents"]] == [document_id]
