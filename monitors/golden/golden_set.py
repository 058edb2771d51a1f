"""What a golden set is: queries, and the documents that people have judged for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

__all__ = ["MAXIMUM_GRADE", "GoldenQuery", "GoldenSet"]

MAXIMUM_GRADE = 100
"""Of a judgement, whatever form it was read from."""


@dataclass(frozen=True, slots=True)
class GoldenQuery:
    """One question and what is known of its answers.

    Parameters
    ----------
    judged
        Document id to grade; 0 means judged and not relevant. Empty: nobody has judged it.
    line
        Where it stands in its file, from 1.
    """

    id: str
    text: str = field(repr=False)
    judged: Mapping[str, int] = field(repr=False)
    line: int

    @property
    def relevant(self) -> list[str]:
        """Documents with a grade of at least 1."""
        return [document_id for document_id, grade in self.judged.items() if grade >= 1]


@dataclass(frozen=True)
class GoldenSet:
    """Queries with judged documents.

    Parameters
    ----------
    source
        File or folder that it was read from.
    """

    queries: tuple[GoldenQuery, ...] = field(repr=False)
    source: Path

    @cached_property
    def scored(self) -> tuple[GoldenQuery, ...]:
        """Queries with at least one relevant document: no measure is defined on the others."""
        return tuple(query for query in self.queries if query.relevant)

    @cached_property
    def qrels(self) -> dict[str, dict[str, int]]:
        """Query to document to grade, of the scored queries."""
        return {query.id: dict(query.judged) for query in self.scored}

    @cached_property
    def judged(self) -> list[str]:
        """Ids of all judged documents, sorted."""
        return sorted({document for query in self.queries for document in query.judged})

    @cached_property
    def relevant(self) -> list[str]:
        """Ids of the documents that are relevant to some query, sorted."""
        return sorted({document for query in self.scored for document in query.relevant})

    @cached_property
    def digest(self) -> str:
        """16 hex digits of what is scored: comments and the order of entries do not change it."""
        content = sorted(
            (query.id, query.text, sorted(query.judged.items())) for query in self.scored
        )
        text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
