"""Golden sets: what one is, and reading it from whichever form people keep it in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from pipelines.core.errors import SettingsError

__all__ = ["MAXIMUM_GRADE", "GoldenQuery", "GoldenSet", "Problem", "inspect_golden", "read_golden"]

MAXIMUM_GRADE = 100
"""Of a judgement, whatever form it was read from."""

_SHOWN = 5
"""Problems that one error names; `plumbline golden check` lists them all."""


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


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a file.

    Parameters
    ----------
    kind
        `duplicate`: well formed but there twice; everything else is `malformed`.
    line
        From 1.
    field
        Which one: `text`, `judged.kb/42`, `score`.
    message
        What came, what is valid. Never a query's text.
    """

    kind: Literal["malformed", "duplicate"]
    path: Path
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.field}: {self.message}"


def inspect_golden(path: Path) -> tuple[GoldenSet, list[Problem]]:
    """What can be read of a golden set, and everything that is wrong with it.

    Parameters
    ----------
    path
        A file of ours (`.yaml`), or a folder in the manner of BEIR or TREC: `queries.jsonl` or
        `queries.tsv`, and `qrels.tsv`, `qrels/test.tsv` or `qrels.txt`.

    Raises
    ------
    SettingsError
        There is nothing of that name, or nothing that could be a golden set.
    """
    from monitors.golden.native import read_native
    from monitors.golden.trec import read_folder

    if path.is_dir():
        queries, problems = read_folder(path)
    elif path.suffix in (".yaml", ".yml"):
        queries, problems = read_native(path)
    elif path.exists():
        raise SettingsError(
            f"{path}: a golden set is a `.yaml` file, or a folder with queries.jsonl and "
            "qrels.tsv. `plumbline golden convert` makes the one from the other."
        )
    else:
        raise SettingsError(f"no golden set at {path}: there is no such file or folder")
    return GoldenSet(tuple(queries), path), problems


def read_golden(path: Path) -> GoldenSet:
    """The golden set at a path; see `inspect_golden`.

    Raises
    ------
    SettingsError
        It cannot be read, or something is wrong with it: names file, line and field.
    """
    golden, problems = inspect_golden(path)
    if problems:
        raise SettingsError(describe(problems))
    return golden


def describe(problems: Sequence[Problem]) -> str:
    """The first problems in words, and how many more there are."""
    lines = "; ".join(str(problem) for problem in problems[:_SHOWN])
    more = len(problems) - _SHOWN
    if more <= 0:
        return lines
    return f"{lines}; and {more} more: `plumbline golden check` lists them"


def read_text(path: Path) -> str:
    """A whole file of UTF-8, with or without a byte order mark.

    Raises
    ------
    SettingsError
        It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}:{line}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
