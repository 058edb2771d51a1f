"""What changed, in ids and words."""

from __future__ import annotations

import numpy as np
import pytest

from monitors.drift.base import SampleError
from monitors.drift.explain import explain


def around(random, axis, rows, dimension=16):
    """Rows around one axis, of length one."""
    vectors = 0.12 * random.normal(size=(rows, dimension))
    vectors[:, axis] += 1
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def topics(random, *counts):
    """So many rows around each axis in turn."""
    return np.concatenate([around(random, axis, rows) for axis, rows in enumerate(counts) if rows])


def named(prefix, vectors):
    return [f"{prefix}{row}" for row in range(len(vectors))]


def explained(old, new, seed=0):
    return explain(old, named("old", old), new, named("new", new), np.random.default_rng(seed))


def test_names_documents_that_the_reference_does_not_explain():
    """Every exemplar is of the new topic, and the words name its share and its documents."""
    random = np.random.default_rng(1)
    old = topics(random, 200, 200, 0)
    new = topics(random, 90, 90, 20)
    found = explained(old, new)
    strangers = {f"new{row}" for row in range(180, 200)}
    assert {exemplar.document_id for exemplar in found.exemplars} <= strangers
    assert found.unexplained == pytest.approx(0.1, abs=0.03)
    assert all(exemplar.similarity < exemplar.typical for exemplar in found.exemplars)
    assert found.exemplars[0].document_id in found.words


def test_names_the_topic_that_grew_and_the_one_that_shrank():
    """With shares before and after, around a document of it."""
    random = np.random.default_rng(2)
    old = topics(random, 300, 300, 300)
    new = topics(random, 100, 100, 400)
    found = explained(old, new)
    assert sum(change.after - change.before for change in found.grew) > 0.1
    assert all(int(change.medoid_id.removeprefix("new")) >= 200 for change in found.grew)
    assert all(int(change.medoid_id.removeprefix("old")) < 600 for change in found.shrank)
    assert "grew" in found.words
    assert "shrank" in found.words


def test_says_so_when_nothing_stands_out():
    """Two samples of the same topics."""
    random = np.random.default_rng(3)
    found = explained(topics(random, 300, 300), topics(random, 150, 150))
    assert (found.grew, found.shrank) == ([], [])
    assert "No group" in found.words


def test_one_seed_gives_one_explanation():
    """The same input and state give the same words."""
    random = np.random.default_rng(4)
    old, new = topics(random, 100, 100), topics(random, 20, 100)
    assert explained(old, new, seed=5) == explained(old, new, seed=5)


def test_a_document_is_an_exemplar_once():
    """Its chunks share its id."""
    random = np.random.default_rng(5)
    old, new = topics(random, 100, 0), topics(random, 0, 30)
    found = explain(old, named("old", old), new, ["a", "b", "c"] * 10, np.random.default_rng(0))
    assert sorted(exemplar.document_id for exemplar in found.exemplars) == ["a", "b", "c"]


def test_refuses_samples_without_one_id_a_row():
    """And vectors of different models."""
    random = np.random.default_rng(6)
    old, new = topics(random, 30), topics(random, 30)
    with pytest.raises(SampleError, match="30 rows and 29 ids"):
        explain(old, named("o", old), new, named("n", new)[1:], random)
    with pytest.raises(SampleError, match="16 components"):
        explain(old, named("o", old), new[:, :-1], named("n", new), random)
