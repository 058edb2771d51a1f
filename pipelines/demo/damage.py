"""What goes wrong in the demo: two encoders that are not what they say, and a flood."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from monitors.encoders import Encoders
from pipelines.core.encoder.base import Encoded, Encoder
from pipelines.core.encoder.source import find_model
from pipelines.core.plans import Outcome
from pipelines.demo.broker import Message
from pipelines.demo.corpus import Document
from pipelines.demo.waves import Wave

if TYPE_CHECKING:
    from pipelines.core.settings import Settings
    from pipelines.core.versions import Version

__all__ = ["DamagedEncoders", "OtherPooling", "OtherQueryPrompt", "flood"]

_SEED = 21


class _Damaged:
    """An encoder under the contract of another one: that is the damage."""

    symmetric = False

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


class OtherPooling(_Damaged):
    """Takes the first token's vector where the model means the mean of all of them."""

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        """Vectors of documents."""
        return self._encode(texts)

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        """Vectors of queries."""
        return self._encode(texts)

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of reading tensors
        place = find_model(self._encoder.contract.model_name).place
        own = SentenceTransformer(place, device="cpu")
        return SentenceTransformer(
            modules=[own[0], Pooling(self._encoder.contract.dimension, "cls")], device="cpu"
        )

    def _encode(self, texts: Sequence[str]) -> Encoded:
        vectors = self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return Encoded(vectors, tokens=[1] * len(texts), truncated=[False] * len(texts))


class OtherQueryPrompt(_Damaged):
    """Puts words before each query that the contract does not know of."""

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        """Vectors of documents, as they should be."""
        return self._encoder.encode_documents(texts)

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        """Vectors of queries that begin with other words."""
        return self._encoder.encode_queries([f"query: {text}" for text in texts])


class DamagedEncoders(Encoders):
    """A monitor whose encoder has changed."""

    def __init__(self, settings: Settings, damage: type[_Damaged]) -> None:
        super().__init__(settings)
        self._damage = damage

    def unchecked(self, version: Version) -> Encoder:
        """The changed one."""
        damaged: Encoder = self._damage(super().unchecked(version))
        return damaged


def flood(documents: Sequence[Document], count: int, now_ms: int) -> Wave:
    """Many new documents that all say nearly the same: a bot's notices.

    Parameters
    ----------
    documents
        Whose names the notices mention.
    """
    dice = random.Random(_SEED)  # noqa: S311 - the same notices every time
    names = [document.id for document in documents]
    messages = []
    for number in range(count):
        name, other = dice.sample(names, 2)
        event = {
            "id": f"notice/{number}",
            "title": f"Build {dice.randrange(10_000)}",
            "text": f"Nightly build finished. Packages touched: {name}, {other}. No tests failed.",
            "metadata": {"module": "builds", "kind": "notice"},
        }
        key = f"notice/{number}".encode()
        messages.append(Message(key, json.dumps(event).encode(), timestamp=now_ms + number))
    parts = [("notices of one build bot", count, "embedded, and the mix of topics is another")]
    return Wave(messages, {Outcome.EMBEDDED: count}, parts)
