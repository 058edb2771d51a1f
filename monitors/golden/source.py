"""A file that a golden set is read from: its text, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.core.errors import SettingsError

__all__ = ["Problem", "read_text"]


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
