"""The monitor's part of the demo: a healthy index, and what each probe notices of damage."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from monitors.golden.golden_set import GoldenQuery
from monitors.once import run_once
from monitors.probes.base import Level
from pipelines.core.points import OURS
from pipelines.core.qdrant import connect
from pipelines.demo.corpus import Document

if TYPE_CHECKING:
    from monitors.encoders import Encoders
    from monitors.probes.base import LagReader
    from monitors.runner import Finished
    from pipelines.core.settings import Settings

__all__ = ["Finding", "golden_queries", "lose", "probe"]

GOLDEN_QUERIES = 200

_SEED = 22
_SHORTEST_WORDS = 4


@dataclass(frozen=True)
class Finding:
    """What one probe said.

    Parameters
    ----------
    failure
        Why the run failed, in words; empty when it did not.
    """

    probe: str
    level: Level | None
    words: str
    failure: str = ""

    @classmethod
    def of(cls, finished: Finished) -> Finding:
        """Of one run."""
        if finished.result is None:
            return cls(finished.probe, None, "", finished.message or finished.failure)
        return cls(finished.probe, finished.result.level, finished.result.words)


def golden_queries(documents: Sequence[Document]) -> list[GoldenQuery]:
    """Known-item queries: the first sentence of a docstring must find its document.

    Parameters
    ----------
    documents
        Those that are in the index.
    """
    dice = random.Random(_SEED)  # noqa: S311 - the same queries every time
    firsts: dict[str, list[Document]] = {}
    for document in documents:
        firsts.setdefault(_first_sentence(document), []).append(document)
    # A sentence that two docstrings begin with has no one right answer.
    usable = [
        (sentence, found[0])
        for sentence, found in sorted(firsts.items())
        if len(found) == 1 and len(sentence.split()) >= _SHORTEST_WORDS
    ]
    chosen = dice.sample(usable, min(GOLDEN_QUERIES, len(usable)))
    return [
        GoldenQuery(document.id, sentence, {document.id: 1}, line)
        for line, (sentence, document) in enumerate(chosen, start=1)
    ]


def probe(
    settings: Settings,
    names: Sequence[str] = (),
    *,
    encoders: Encoders | None = None,
    lag: LagReader | None = None,
) -> Mapping[str, Finding]:
    """Runs probes on the live version, all of them by default."""
    found = run_once(settings, names, lag=lag, encoders=encoders)
    return {finished.probe: Finding.of(finished) for finished in found.runs}


def lose(settings: Settings, version: str, document_ids: Sequence[str]) -> None:
    """Takes documents out of the store behind everybody's back: no event, no tombstone."""
    from qdrant_client import models

    condition = models.FieldCondition(
        key=f"{OURS}.document_id", match=models.MatchAny(any=list(document_ids))
    )
    selector = models.FilterSelector(filter=models.Filter(must=[condition]))
    connect(settings).call("delete", version, points_selector=selector, wait=True)


def _first_sentence(document: Document) -> str:
    return " ".join(document.text.split("\n\n", 1)[0].split())[:200]
