from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from pipelines.core.encoder.load import _read
from pipelines.core.encoder.source import PACKAGED_MODEL, find_model
from pipelines.core.model_hash import canonical_tokenizer, model_hash
from tests.support.tiny_model import make_tiny_model


def _load(folder: str | Path) -> SentenceTransformer:
    return _read(find_model(str(folder)), trust_remote_code=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_hash(tiny) -> str:
    return model_hash(_load(tiny))


@pytest.fixture
def changed(tiny, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def _edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_real_model_saved_again_has_the_same_hash(tmp_path) -> None:
    """A wheel's copy written years ago and today's save of it are one model, also as .bin."""
    model = _load(PACKAGED_MODEL)
    expected = model_hash(model)
    again = tmp_path / "again"
    model.save_pretrained(str(again))
    assert expected == model_hash(_load(again))

    from safetensors.torch import load_file

    torch.save(load_file(again / "model.safetensors"), again / "pytorch_model.bin")
    (again / "model.safetensors").unlink()
    assert expected == model_hash(_load(again))


def test_use_leaves_the_hash_alone(tiny, tiny_hash) -> None:
    """A call leaves truncation and padding in the tokenizer; they are no part of the model."""
    model = _load(tiny)
    model.encode(["some words"] * 3, show_progress_bar=False)
    model.max_seq_length = 17
    model.prompts = {"query": "q: "}
    assert tiny_hash == model_hash(model)


def test_a_normalize_module_at_the_end_is_the_contracts_matter(tiny, tiny_hash) -> None:
    """With and without it, the same model; the contract says whether vectors have unit length."""
    model = _load(tiny)
    del model._modules["2"]
    assert tiny_hash == model_hash(model)


def test_a_changed_weight_changes_it(tiny, tiny_hash) -> None:
    """One bit in one tensor is another model."""
    model = _load(tiny)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-7
    assert tiny_hash != model_hash(model)


def test_another_dtype_changes_it(changed, tiny_hash) -> None:
    """A checkpoint in half precision is another checkpoint."""
    model = _load(changed)
    model.half().save_pretrained(str(changed))
    again = _load(changed)
    assert next(again.parameters()).dtype == torch.float16
    assert tiny_hash != model_hash(again)


def test_another_pooling_changes_it(changed, tiny_hash) -> None:
    """Same tensors, other vectors."""
    _edit(changed / "1_Pooling" / "config.json", pooling_mode="cls")
    assert tiny_hash != model_hash(_load(changed))


def test_another_tokenizer_changes_it(changed, tiny_hash) -> None:
    """Lower-casing is decided by the tokenizer alone."""
    file = changed / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["normalizer"]["lowercase"] = False
    file.write_text(json.dumps(tokenizer))
    _edit(changed / "tokenizer_config.json", do_lower_case=False)
    assert tiny_hash != model_hash(_load(changed))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"hidden_act": "relu"}, False),
        ({"num_attention_heads": 4}, False),
        ({"layer_norm_eps": 1e-6}, False),
        ({"transformers_version": "9.9", "_name_or_path": "elsewhere"}, True),
        ({"hidden_dropout_prob": 0.5, "use_cache": True, "architectures": ["Other"]}, True),
    ],
)
def test_only_configuration_that_decides_vectors_counts(changed, tiny_hash, change, same) -> None:
    """Names, versions and training settings may differ between two saves of one model."""
    _edit(changed / "config.json", **change)
    assert same == (tiny_hash == model_hash(_load(changed)))


def test_tensors_missing_in_the_checkpoint_are_drawn_alike(changed) -> None:
    """A checkpoint without its pooler has the same hash in every process."""
    from safetensors.torch import load_file, save_file

    file = changed / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if not k.startswith("pooler.")}
    save_file(kept, file, metadata={"format": "pt"})
    torch.manual_seed(1)
    first = model_hash(_load(changed))
    torch.manual_seed(2)
    assert first == model_hash(_load(changed))


def test_canonical_tokenizer_ignores_state(tiny) -> None:
    """Truncation and padding are calls' leftovers."""
    tokenizer = _load(tiny).tokenizer
    before = copy.deepcopy(canonical_tokenizer(tokenizer))
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    assert before == canonical_tokenizer(tokenizer)
