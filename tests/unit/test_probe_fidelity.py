"""The fidelity probe: stored vectors against their own texts, whatever else goes on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from monitors.probes import fidelity
from monitors.probes.base import Level, ProbeTimeoutError
from monitors.probes.fidelity import FidelityProbe
from pipelines.core.points import DENSE, point_id
from pipelines.core.qdrant import Qdrant
from tests.support.corpora import Document
from tests.support.probing import Seeded, Watched, values_of


def _documents(count: int, prefix: str = "d") -> list[Document]:
    return [Document(f"{prefix}/{n}", f"title {n}", f"{prefix} number {n}") for n in range(count)]


def _watched(tmp_path, encoder=None, **ingest) -> Watched:
    return Watched(
        tmp_path,
        encoder=encoder or Seeded(),
        settings={"monitor": {"fidelity": {"sample": 100}}, "ingest": ingest},
    )


def test_documents_as_they_were_written_are_faithful(tmp_path) -> None:
    with _watched(tmp_path) as index:
        index.write(_documents(150))
        index.delete(["d/0"])
        result = index.run(FidelityProbe())
    assert (result.level, result.reason) == (Level.OK, "faithful")
    assert values_of(result, "plumbline_fidelity_mismatch_ratio") == {(): 0.0}
    assert values_of(result, "plumbline_fidelity_sampled_documents") == {(): 100.0}
    assert values_of(result, "plumbline_fidelity_distance")[("100",)] < 1e-6
    assert "3.0%" in result.words  # the rule of three at n = 100


def test_documents_of_another_model_are_named(tmp_path) -> None:
    """At most twenty, farthest first."""
    with _watched(tmp_path) as index:
        index.write(_documents(70))
        index.write(_documents(30, "other"), encoder=Seeded(noise=0.5))
        result = index.run(FidelityProbe())
    assert (result.level, result.reason) == (Level.ALARM, "mismatch")
    assert values_of(result, "plumbline_fidelity_mismatch_ratio") == {(): 0.3}
    named = [entry["document_id"] for entry in result.details["documents"]]
    assert len(named) == 20
    assert all(document_id.startswith("other/") for document_id in named)
    assert result.evidence is not None
    assert result.evidence.effect == 0.3


def test_a_tolerated_share_warns(tmp_path) -> None:
    with _watched(tmp_path) as index:
        index.write(_documents(95))
        index.write(_documents(5, "other"), encoder=Seeded(noise=0.5))
        index.set_settings(fidelity={"maximum_mismatch_ratio": 0.05})
        assert index.run(FidelityProbe()).reason == "tolerated"
        index.set_settings(fidelity={"maximum_mismatch_ratio": 0.04})
        assert index.run(FidelityProbe()).reason == "mismatch"


@pytest.mark.parametrize(
    ("contract", "length", "reason"),
    [
        ({"distance": "cosine"}, 3.0, "faithful"),
        ({"distance": "dot"}, 3.0, "mismatch"),
        ({"distance": "euclid"}, 3.0, "mismatch"),
    ],
)
def test_lengths_count_where_the_store_keeps_them(tmp_path, contract, length, reason) -> None:
    """A cosine collection scales what it is given: there the length is not to be seen."""
    with _watched(tmp_path, Seeded(**contract)) as index:
        index.write(_documents(40))
        assert index.run(FidelityProbe()).reason == "faithful"
        index.write(_documents(40, "long"), encoder=Seeded(length=length, **contract))
        assert index.run(FidelityProbe()).reason == reason


def test_vectors_that_are_not_normalized_by_contract_are_faithful(tmp_path) -> None:
    """The encoder gives length 3 and the cosine collection holds 1."""
    with _watched(tmp_path, Seeded(length=3.0, normalize=False)) as index:
        index.write(_documents(40))
        assert index.run(FidelityProbe()).reason == "faithful"


def test_an_empty_index_is_undecided(tmp_path) -> None:
    with _watched(tmp_path) as index:
        result = index.run(FidelityProbe())
        assert (result.level, result.reason) == (Level.UNDECIDED, "empty_index")
        index.write(_documents(3))
        index.delete(["d/0", "d/1", "d/2"])
        assert index.run(FidelityProbe()).reason == "empty_index"


def test_a_version_without_texts_is_undecided(tmp_path) -> None:
    with _watched(tmp_path, store_text=False) as index:
        index.write(_documents(20))
        result = index.run(FidelityProbe())
    assert (result.level, result.reason) == (Level.UNDECIDED, "no_stored_text")


def test_an_encoder_that_fails_its_canaries_judges_nobody(tmp_path) -> None:
    with _watched(tmp_path) as index:
        index.write(_documents(20))
        result = index.run(FidelityProbe(), encoder=Seeded(noise=0.5))
    assert (result.level, result.reason) == (Level.UNDECIDED, "encoder_not_trusted")


def test_a_changed_document_prompt_or_template_shows(tmp_path) -> None:
    """Texts go through the contract's own rendering."""
    with _watched(tmp_path) as index:
        index.write(_documents(20))
        context = replace(index.context(), version=index.with_contract(template="{text} {title}"))
        assert FidelityProbe().run(context).reason == "mismatch"


class _Between:
    """A store in which something happens after the probe's first reading."""

    def __init__(self, qdrant: Qdrant, act) -> None:
        self._qdrant, self._act = qdrant, act

    def __getattr__(self, name):
        return getattr(self._qdrant, name)

    def call(self, method, *args, **kwargs):
        act = self._act
        if method == "retrieve" and act is not None:
            self._act = None
            act()
        return self._qdrant.call(method, *args, **kwargs)


def _run_with(index: Watched, act):
    context = replace(index.context(), qdrant=_Between(index.qdrant, act))
    result = FidelityProbe().run(context)
    Watched.check(FidelityProbe(), result)
    return result


def test_a_mismatch_that_is_mended_before_the_second_look_is_none(tmp_path) -> None:
    """The worker that wrote it is replaced, and its documents are written again."""
    with _watched(tmp_path) as index:
        index.write(_documents(5), encoder=Seeded(noise=0.5))
        texts = [Document(f"d/{n}", "", f"new text {n}") for n in range(5)]
        result = _run_with(index, lambda: index.write(texts))
    assert result.reason == "faithful"
    assert result.details["moving"] == 0


def test_a_document_deleted_meanwhile_is_left_for_another_run(tmp_path) -> None:
    with _watched(tmp_path) as index:
        index.write(_documents(5), encoder=Seeded(noise=0.5))
        result = _run_with(index, lambda: index.delete([f"d/{n}" for n in range(5)]))
    assert result.level is Level.OK
    assert result.details["moving"] == 5


def test_a_document_that_is_being_rewritten_is_no_alarm(tmp_path) -> None:
    """Another event, and still not what the text gives: its chunks are on their way."""
    with _watched(tmp_path) as index:
        index.write(_documents(5), encoder=Seeded(noise=0.5))
        texts = [Document(f"d/{n}", "", f"new text {n}") for n in range(5)]
        result = _run_with(index, lambda: index.write(texts, encoder=Seeded(noise=0.7)))
    assert result.level is Level.OK
    assert result.details["moving"] == 5


def test_a_vector_changed_in_place_is_a_mismatch(tmp_path) -> None:
    """By hand, or by a fault of the store: nobody wrote an event."""
    with _watched(tmp_path) as index:
        index.write(_documents(30))
        from qdrant_client import models

        point = point_id(index.version.index, "d/7", 0)
        vector = np.roll(np.eye(16, dtype=np.float32)[0], 3).tolist()
        index.qdrant.call(
            "update_vectors",
            index.version.name,
            points=[models.PointVectors(id=point, vector={DENSE: vector})],
        )
        result = index.run(FidelityProbe())
    assert [entry["document_id"] for entry in result.details["documents"]] == ["d/7"]


def test_the_clock_is_looked_at_between_batches(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fidelity, "_BATCH_DOCUMENTS", 4)
    with _watched(tmp_path) as index:
        index.write(_documents(20))

        class Slow(Seeded):
            calls = 0

            def encode_documents(self, texts):
                Slow.calls += 1
                return super().encode_documents(texts)

        context = index.context(encoder=Slow())
        checks = iter([None] * 6)

        class Ticking:
            def check(self):
                if next(checks, "late") == "late":
                    raise ProbeTimeoutError("late")

        with pytest.raises(ProbeTimeoutError):
            FidelityProbe().run(replace(context, deadline=Ticking()))
        assert 0 < Slow.calls < 8
