from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from pipelines.core.canaries import (
    REFUSE_DISTANCE,
    WARN_DISTANCE,
    Canaries,
    CanaryReport,
    check,
    compare,
    compute,
    distances,
)
from pipelines.core.canary_texts import CANARIES, CANARY_TEXTS
from pipelines.core.encoder import PACKAGED_MODEL, Encoded, load_encoder
from pipelines.core.errors import CanaryMismatchError, ModelError, StoreConflictError
from pipelines.core.settings import ContractSettings, RuntimeSettings


class Turned:
    """An encoder whose vectors of one text are turned to a given cosine distance."""

    symmetric = False

    def __init__(self, stored: Canaries, distance: float, row: int = 7, role: str = "query"):
        self._stored, self._distance, self._row, self._role = stored, distance, row, role

    def encode_documents(self, texts) -> Encoded:
        return self._encode(self._stored.document, texts, "document")

    def encode_queries(self, texts) -> Encoded:
        return self._encode(self._stored.query, texts, "query")

    def _encode(self, vectors, texts, role) -> Encoded:
        found = vectors[: len(texts)].copy()
        if role == self._role:
            one = found[self._row].astype(np.float64)
            other = np.roll(one, 1)
            other -= (other @ one) * one
            other /= np.linalg.norm(other)
            cosine = 1 - self._distance
            found[self._row] = cosine * one + np.sqrt(1 - cosine**2) * other
        return Encoded(found)


@pytest.fixture(scope="module")
def stored() -> Canaries:
    generator = np.random.default_rng(5)

    def unit():
        drawn = generator.normal(size=(len(CANARY_TEXTS), 24))
        return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)

    value = json.loads(json.dumps(Canaries(unit(), unit(), _texts_hash()).to_json()))
    return Canaries.from_json(value)


def _texts_hash(count: int = len(CANARY_TEXTS)) -> str:
    from pipelines.core.canaries import _hash_of_texts

    return _hash_of_texts(count)


def test_the_texts_are_of_many_kinds() -> None:
    """At least 36, no two alike, and the kinds that have caught real changes are among them."""
    assert len(CANARY_TEXTS) >= 36
    assert len(set(CANARY_TEXTS)) == len(CANARY_TEXTS)
    kinds = {canary.kind for canary in CANARIES}
    assert {"short", "long", "code", "numbers", "emoji", "combining", "blank"} <= kinds


def test_the_texts_never_change() -> None:
    """Versions keep their vectors: texts may be appended, never edited."""
    assert _texts_hash(56) == "5835c97f260237c8"


def test_the_real_model_reproduces_its_canaries_and_reads_past_their_limit() -> None:
    """Stored as JSON and read back, the distance is noise; some texts are past max tokens."""
    encoder = load_encoder(
        ContractSettings(model=PACKAGED_MODEL), RuntimeSettings(device="cpu", tokens_per_batch=2048)
    )
    kept = Canaries.from_json(json.loads(json.dumps(compute(encoder).to_json())))
    report = check(kept, encoder)
    assert report.level == "ok"
    assert report.distance < 1e-6
    encoded = encoder.encode_documents(CANARY_TEXTS)
    assert encoded.refused == {}
    assert sum(encoded.truncated) >= 3
    half = load_encoder(
        ContractSettings(model=PACKAGED_MODEL, document_prompt="passage: "),
        RuntimeSettings(device="cpu", tokens_per_batch=2048),
    )
    with pytest.raises(CanaryMismatchError):
        check(kept, half)


def test_json_round_trip(stored) -> None:
    """Bit by bit; equal vectors of documents and queries are kept once."""
    again = Canaries.from_json(json.loads(json.dumps(stored.to_json())))
    assert np.array_equal(stored.document, again.document)
    assert np.array_equal(stored.query, again.query)
    once = Canaries(stored.document, stored.document, stored.texts).to_json()
    assert "query" not in once
    assert np.array_equal(stored.document, Canaries.from_json(once).query)


@pytest.mark.parametrize(
    "change",
    [
        {"document": "AAAA"},
        {"document": "not base64!"},
        {"document": None},
        {"query": 5},
        {"shape": [3]},
        {"shape": [0, 24]},
        {"shape": None},
        {"texts": None},
        {"texts": "0" * 16},
        {"shape": [10_000, 24]},
    ],
)
def test_damaged_canaries_are_refused(stored, change) -> None:
    """Without a proof nothing is written: it fails closed."""
    with pytest.raises(StoreConflictError):
        Canaries.from_json({**stored.to_json(), **change})


@pytest.mark.parametrize("value", [None, {}, [], "x"])
def test_missing_canaries_are_refused(value) -> None:
    """A version without canaries proves nothing."""
    with pytest.raises(StoreConflictError, match="no canaries"):
        Canaries.from_json(value)


def test_canaries_of_an_earlier_release_are_compared_as_far_as_they_go(stored) -> None:
    """Texts appended since are not held against the version."""
    few = Canaries(stored.document[:40], stored.query[:40], _texts_hash(40))
    again = Canaries.from_json(few.to_json())
    assert compare(again, Turned(stored, 0.0)).level == "ok"


@pytest.mark.parametrize(
    ("distance", "level"),
    [
        (0.0, "ok"),
        (WARN_DISTANCE * 0.9, "ok"),
        (WARN_DISTANCE * 1.1, "warning"),
        (REFUSE_DISTANCE * 0.9, "warning"),
        (REFUSE_DISTANCE * 1.1, "refusal"),
        (0.5, "refusal"),
    ],
)
@pytest.mark.parametrize("role", ["document", "query"])
def test_bounds(stored, distance, level, role) -> None:
    """A warning above 1e-4, a refusal above 1e-3, of documents and of queries alike."""
    encoder = Turned(stored, distance, role=role)
    report = compare(stored, encoder)
    assert report.level == level
    assert report.distance == pytest.approx(distance, rel=1e-3, abs=1e-7)
    if level == "refusal":
        with pytest.raises(CanaryMismatchError, match=rf"text 7 \({CANARIES[7].kind}\) as {role}"):
            check(stored, encoder)
    else:
        assert check(stored, encoder) == report


def test_a_vector_that_is_missing_on_one_side_is_a_refusal(stored) -> None:
    """Refused now, kept then: not the same encoder. On both sides: the same."""
    changed = copy.deepcopy(stored)
    changed.document[3] = 0
    assert compare(stored, Turned(changed, 0.0)).document_distance == np.inf
    assert compare(changed, Turned(changed, 0.0)).level == "ok"


def test_distances_see_length_and_shape() -> None:
    """Unnormalised vectors that shrink are no longer the same; nor is another dimension."""
    one = np.array([[3, 4], [1, 0]], np.float32)
    assert distances(one, one).tolist() == [0, 0]
    assert distances(one, one * np.float32(2)).min() == pytest.approx(0.25)
    assert np.isinf(distances(one, one[:, :1])).all()
    nan = np.array([[np.nan, 1], [1, 0]], np.float32)
    assert distances(one, nan).tolist() == [np.inf, 0]
    opposite = distances(one[1:], -one[1:])
    assert opposite.tolist() == [2]


def test_a_model_without_vectors_makes_no_version() -> None:
    """Canaries of a broken model would bless it."""

    class Broken:
        symmetric = False

        def encode_documents(self, texts) -> Encoded:
            return Encoded(
                np.zeros((len(texts), 4), np.float32),
                refused=dict.fromkeys(range(len(texts)), "the model's vector contains NaN"),
            )

        encode_queries = encode_documents

    with pytest.raises(ModelError, match="contains NaN"):
        compute(Broken())


def test_level_of_a_report() -> None:
    """The worse of the two decides."""
    assert CanaryReport(0.0, 5e-4, 0, "query").level == "warning"
