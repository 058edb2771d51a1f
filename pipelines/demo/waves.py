"""What happens to the demo's topic, and what must come of it, known beforehand."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.core.errors import Reason
from pipelines.core.plans import Outcome
from pipelines.demo.broker import Message
from pipelines.demo.corpus import Document
from pipelines.demo.hostile import hostile_events

__all__ = [
    "DELETED",
    "REPLACED",
    "REPLACEMENT",
    "Changes",
    "Wave",
    "all_documents",
    "changes",
    "comeback",
]

DELETED = "tempfile.TemporaryDirectory"
"""A document that the searches show before its deletion and after."""

REPLACED = "configparser"
"""A long document, of several chunks, that gets a new and short text."""

REPLACEMENT = "The office cat is fed at eight in the morning and at six in the evening."

_SEED = 20
_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Wave:
    """Events to send and what they must come to.

    Parameters
    ----------
    messages
        In the order of sending.
    outcomes
        Events by outcome, exact.
    reasons
        Dead letters by reason, exact.
    parts
        What the wave is made of, for the reader: (what, how many, what must come of it).
    """

    messages: list[Message]
    outcomes: dict[Outcome, int]
    parts: list[tuple[str, int, str]]
    reasons: dict[Reason, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Changes:
    """The second wave, with the documents it deletes and changes."""

    wave: Wave
    deleted: list[Document]
    relabelled: list[Document]
    updated: list[Document]


def all_documents(documents: Sequence[Document], now_ms: int) -> Wave:
    """Every document once."""
    messages = [_state(document, now_ms) for document in documents]
    count = len(messages)
    return Wave(messages, {Outcome.EMBEDDED: count}, [("new documents", count, "embedded")])


def changes(documents: Sequence[Document], now_ms: int) -> Changes:
    """Updates, metadata changes, deletes, duplicates, late and hostile events, mixed.

    No document has two of them, so that the outcomes do not depend on how the job batches.

    Parameters
    ----------
    now_ms
        Later than the first wave's.
    """
    dice = random.Random(_SEED)  # noqa: S311 - the same changes every time
    others = [document for document in documents if document.id not in (DELETED, REPLACED)]
    dice.shuffle(others)
    stars = {document.id: document for document in documents}

    def take(share: float) -> list[Document]:
        count = max(2, round(len(documents) * share))
        taken = others[:count]
        del others[:count]
        return taken

    updated = take(0.05)
    messages = [
        _state(document, now_ms, text=f"{document.text}\n\nSee also {other.id}.")
        for document, other in zip(updated, reversed(updated), strict=True)
    ]
    if REPLACED in stars:
        updated.append(stars[REPLACED])
        messages.append(_state(stars[REPLACED], now_ms, text=REPLACEMENT))
    relabelled = take(0.10)
    messages += [
        _state(document, now_ms, metadata=document.metadata | {"reviewed": True})
        for document in relabelled
    ]
    deleted = take(0.03)
    if DELETED in stars:
        deleted.append(stars[DELETED])
    messages += [
        Message(document.id.encode(), None if number % 2 else _deletion(document.id), now_ms)
        for number, document in enumerate(deleted)
    ]
    repeated = take(0.05)
    messages += [_state(document, now_ms) for document in repeated]
    late = take(0.02)
    messages += [
        _state(document, now_ms - _HOUR_MS, text="What this document said an hour ago.")
        for document in late
    ]
    hostile = hostile_events()
    messages += [Message(key, value, now_ms) for _, key, value in hostile]
    dice.shuffle(messages)
    wave = Wave(
        messages,
        {
            Outcome.EMBEDDED: len(updated),
            Outcome.PAYLOAD_ONLY: len(relabelled),
            Outcome.DELETED: len(deleted),
            Outcome.UNCHANGED: len(repeated),
            Outcome.STALE: len(late),
            Outcome.DEAD_LETTERED: len(hostile),
        },
        [
            ("texts change", len(updated), "embedded"),
            ("metadata changes", len(relabelled), "payload only: no embedding"),
            ("documents are deleted", len(deleted), "deleted"),
            ("events are sent twice", len(repeated), "unchanged"),
            ("events arrive an hour late", len(late), "stale"),
            ("events are broken or hostile", len(hostile), "dead letters"),
        ],
        dict(Counter(reason for reason, _, _ in hostile)),
    )
    return Changes(wave, deleted, relabelled, updated)


def comeback(deleted: Sequence[Document], now_ms: int) -> Wave:
    """A third of the deleted documents comes back; of the others, events from before arrive.

    Parameters
    ----------
    now_ms
        Later than the deletion.
    """
    back = [document for document in deleted if document.id == DELETED]
    back += [document for document in deleted if document.id != DELETED][: len(deleted) // 3]
    late = [document for document in deleted if document not in back]
    messages = [_state(document, now_ms) for document in back]
    messages += [_state(document, now_ms - _HOUR_MS) for document in late]
    return Wave(
        messages,
        {Outcome.EMBEDDED: len(back), Outcome.STALE: len(late)},
        [
            ("deleted documents come back", len(back), "embedded"),
            ("old events of deleted documents arrive", len(late), "stale: they stay deleted"),
        ],
    )


def _state(document: Document, timestamp: int, **changed: Any) -> Message:
    body = {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": document.metadata,
    } | changed
    return Message(document.id.encode(), json.dumps(body).encode(), timestamp)


def _deletion(document_id: str) -> bytes:
    return json.dumps({"id": document_id, "deleted": True}).encode()
