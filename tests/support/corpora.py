"""Real documents, queries and judgements, from the folder that lies beside the repository."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.brokers import Message
from tests.support.processes import REPOSITORY

__all__ = ["Corpus", "Document", "messages", "missing"]

DATA = REPOSITORY.parent / "shared" / "data"

_FIRST_TIMESTAMP = 1_750_000_000_000
"""Of the first document's event; each next one is a millisecond later."""


@dataclass(frozen=True)
class Document:
    """One document of a corpus."""

    id: str
    title: str
    text: str

    @property
    def rendered(self) -> str:
        """Title and text as the contract's default template joins them."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class Corpus:
    """One data set by its name: `cranfield`, `scifact`, `banking77`, `arxiv-2025`."""

    name: str

    def documents(self, limit: int | None = None) -> list[Document]:
        """The first `limit` documents, or all."""
        found = []
        for number, row in enumerate(self._rows("corpus.jsonl")):
            if number == limit:
                break
            found.append(Document(row["_id"], row["title"], row["text"]))
        return found

    def queries(self) -> dict[str, str]:
        """Id to text."""
        return {row["_id"]: row["text"] for row in self._rows("queries.jsonl")}

    def qrels(self) -> dict[str, dict[str, int]]:
        """Query to document to grade."""
        judged: dict[str, dict[str, int]] = {}
        with (DATA / self.name / "qrels.tsv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                judged.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
        return judged

    def reference(self) -> dict[str, float]:
        """What exact search with all-MiniLM-L6-v2 reaches, by measure: `ndcg@10`, `recall@100`."""
        path = DATA / self.name / "reference_minilm.json"
        found: dict[str, float] = json.loads(path.read_text())["results"][self.name]
        return found

    def _rows(self, file_name: str) -> Iterator[dict[str, Any]]:
        with (DATA / self.name / file_name).open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def missing(*names: str) -> str | None:
    """Why these data sets cannot be used; `None` when they are there."""
    absent = [name for name in names if not (DATA / name / "corpus.jsonl").exists()]
    if not absent:
        return None
    return f"no {', '.join(absent)} in {Path('..', *DATA.parts[-2:])} beside the repository"


def messages(
    documents: list[Document], metadata: dict[str, Any] | None = None, *, later_by: int = 0
) -> list[Message]:
    """One event a document, in their order.

    Parameters
    ----------
    metadata
        Of every document.
    later_by
        Milliseconds between these events and those of a call without it.
    """
    return [
        Message(
            document.id.encode(),
            json.dumps(
                {
                    "id": document.id,
                    "title": document.title,
                    "text": document.text,
                    "metadata": metadata or {},
                },
                ensure_ascii=False,
            ).encode(),
            _FIRST_TIMESTAMP + number + later_by,
        )
        for number, document in enumerate(documents)
    ]
