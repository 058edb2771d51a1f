"""Reads golden sets from whichever form people keep them in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monitors.golden.golden_set import GoldenSet
from monitors.golden.native import read_native
from monitors.golden.source import Problem
from monitors.golden.trec import read_folder
from pipelines.core.errors import SettingsError

__all__ = ["inspect_golden", "read_golden"]

_SHOWN = 5
"""Problems that one error names; `plumbline golden check` lists them all."""


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
