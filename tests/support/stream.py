"""A seeded stream of document events: what a busy topic does to its documents, and then some."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Message", "Stream", "interleaved"]

_SYLLABLES = ("ba", "ke", "li", "mo", "nu", "pra", "sto", "ver", "wi", "zan", "tre", "fo", "gul")


@dataclass(frozen=True)
class Message:
    """One record to be produced. `hostile` is the reason it must become a dead letter."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    hostile: str | None = None


@dataclass
class _Document:
    text: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    alive: bool = False
    version: int = 0


class Stream:
    """Events over a few thousand documents, the same for the same seed.

    Parameters
    ----------
    seed
        Of everything that is random.
    documents
        How many ids there are.
    versioned
        Whether events carry a version, rising per document.
    sentences
        Greatest number of sentences of a document: with small chunks, documents grow and shrink.
    hostile_share
        Share of events that no decoder accepts.
    unchanged_share
        Share of events that say of a living document what was said before; the more of them, the
        less there is to encode.
    """

    def __init__(
        self,
        seed: int,
        documents: int = 2000,
        *,
        versioned: bool = False,
        sentences: int = 6,
        hostile_share: float = 0.02,
        unchanged_share: float = 0.10,
    ) -> None:
        self._random = random.Random(seed)
        self._ids = [f"doc/{number}" for number in range(documents)]
        self._documents = {document_id: _Document() for document_id in self._ids}
        self._versioned = versioned
        self._sentences = sentences
        self._hostile_share = hostile_share
        self._unchanged_below = 0.25 + unchanged_share
        self._words = ["".join(self._random.choices(_SYLLABLES, k=2)) for _ in range(300)]

    def take(self, count: int) -> Iterator[Message]:
        """The next `count` messages."""
        for _ in range(count):
            yield self._next()

    def _next(self) -> Message:
        roll = self._random.random()
        if roll < self._hostile_share:
            return self._hostile()
        document_id = self._random.choice(self._ids)
        document = self._documents[document_id]
        if not document.alive:
            if roll > 0.97:
                return self._delete(document_id, document)  # of what does not exist
            document.alive = True
            document.text = self._text()
            document.metadata = self._metadata()
            return self._upsert(document_id, document)
        if roll < 0.10:
            return self._delete(document_id, document)
        if roll < 0.25:
            document.metadata = self._metadata()
            return self._upsert(document_id, document)
        if roll < self._unchanged_below:
            return self._upsert(document_id, document)  # nothing new
        document.text = self._text()
        return self._upsert(document_id, document)

    def _text(self) -> str:
        count = self._random.randint(1, self._sentences)
        return " ".join(
            " ".join(self._random.choices(self._words, k=self._random.randint(3, 9))) + "."
            for _ in range(count)
        )

    def _metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {"lang": self._random.choice(["en", "de", "fr"])}
        if self._random.random() < 0.5:
            metadata["stars"] = self._random.randint(1, 5)
        if self._random.random() < 0.2:
            metadata["nested"] = {"tags": self._random.sample(self._words, 2), "ratio": 0.25}
        return metadata

    def _upsert(self, document_id: str, document: _Document) -> Message:
        body: dict[str, Any] = {
            "id": document_id,
            "text": document.text,
            "title": "T " + document_id,
        }
        if document.metadata:
            body["metadata"] = document.metadata
        if self._versioned:
            document.version += 1
            body["version"] = document.version
        return Message(document_id.encode(), json.dumps(body).encode())

    def _delete(self, document_id: str, document: _Document) -> Message:
        document.alive = False
        document.version += 1
        key = document_id.encode()
        if self._random.random() < 0.5:
            headers = (
                (("plumbline-version", str(document.version).encode()),) if self._versioned else ()
            )
            return Message(key, None, headers)
        body: dict[str, Any] = {"id": document_id, "deleted": True}
        if self._versioned:
            body["version"] = document.version
        return Message(key, json.dumps(body).encode())

    def _hostile(self) -> Message:
        document_id = self._random.choice(self._ids)
        key = document_id.encode()
        # Where a version decides, its absence must not hide the reason that is meant.
        version = {"version": 1} if self._versioned else {}
        kind = self._random.randrange(7)
        if kind == 0:
            return Message(key, b"{not json", hostile="not_json")
        if kind == 1:
            return Message(key, b"\xff\xfe\x00", hostile="not_utf8")
        if kind == 2:
            return Message(
                key, json.dumps({"id": document_id, **version}).encode(), hostile="missing_text"
            )
        if kind == 3:
            body = {"id": "another", "text": "x", **version}
            return Message(key, json.dumps(body).encode(), hostile="key_mismatch")
        if kind == 4:
            return Message(
                None, json.dumps({"text": "x", **version}).encode(), hostile="missing_id"
            )
        if kind == 5:
            return Message(key, b"[1, 2]", hostile="not_an_object")
        body = {"id": document_id, "text": "", "title": " ", **version}
        return Message(key, json.dumps(body).encode(), hostile="empty_document")


def interleaved(messages: Iterable[Message], seed: int) -> list[Message]:
    """The messages in another order, those of one key in the order they had.

    Messages without a key may come anywhere.
    """
    queues: dict[object, list[Message]] = {}
    for number, message in enumerate(messages):
        queues.setdefault(message.key if message.key is not None else number, []).append(message)
    turns = [key for key, queue in queues.items() for _ in queue]
    random.Random(seed).shuffle(turns)
    iterators = {key: iter(queue) for key, queue in queues.items()}
    return [next(iterators[key]) for key in turns]
