"""What a benchmark gives back, and how it is printed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Table", "machine"]


@dataclass
class Table:
    """Figures in rows.

    Parameters
    ----------
    title
        What was measured.
    columns
        Of each row.
    notes
        How it was measured: what a reader must know to compare.
    """

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(row[column]) for row in lines) for column in range(len(self.columns))]

        def line(row: Sequence[str]) -> str:
            first, *others = zip(row, widths, strict=True)
            cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
            return "  " + "  ".join(cells)

        rule = "  " + "  ".join("-" * width for width in widths)
        body = [line(self.columns), rule, *map(line, self.rows)]
        return "\n".join([self.title, *body, *(f"  {note}" for note in self.notes)])


def machine() -> str:
    """The machine by its cores, and how busy others keep it."""
    busy = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, load {busy:.1f} before the first measurement"
