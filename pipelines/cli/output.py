"""How commands speak: tables or JSON on standard output, errors on standard error."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import ExitCode, PlumblineError, ServiceUnavailableError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "print_json", "print_table", "report_error", "say", "warn"]

_MESSAGE_LENGTH = 2000


def console(*, stderr: bool = False) -> Console:
    """A console of standard output or standard error; plain where that is no terminal."""
    from rich.console import Console

    # 100 columns where nobody can say: rich would cut tables in a pipe at 80.
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if terminal else 160)


def say(text: str) -> None:
    """One line of a command's answer, as it is."""
    sys.stdout.write(f"{text}\n")


def warn(text: str) -> None:
    """One line beside the answer, on standard error, without secrets."""
    from pipelines.core.redact import redact_text

    sys.stderr.write(f"{redact_text(text)}\n")
    sys.stderr.flush()


def print_json(value: Any) -> None:
    """The value as JSON, indented on a terminal and one line elsewhere."""
    import json

    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=indent, default=str) + "\n")


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
) -> None:
    """A table without decoration.

    Parameters
    ----------
    right
        Columns of numbers.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    console().print(table)


def report_error(error: Exception) -> int:
    """Says what went wrong, on standard error, and returns the exit code.

    One of our own errors is its message. Anything else is a fault of Plumbline's: its kind and
    the place are shown, its message is not, since it may quote a document. With
    `PLUMBLINE_LOG_LEVEL=debug` both come with their traceback.
    """
    from pipelines.core.redact import redact_text

    debug = os.environ.get("PLUMBLINE_LOG_LEVEL", "").lower() == "debug"
    if debug:
        lines = traceback.format_exception(error)
        sys.stderr.write(redact_text("".join(lines)))
    if isinstance(error, PlumblineError):
        # Libraries' messages come along in ours, sometimes at length.
        message = redact_text(str(error))[:_MESSAGE_LENGTH]
        sys.stderr.write(f"{_label(error)}: {message}\n")
        sys.stderr.flush()
        return error.exit_code
    hint = "" if debug else " PLUMBLINE_LOG_LEVEL=debug shows the traceback."
    sys.stderr.write(
        f"error: {type(error).__name__} in {_place(error)}. This is a fault of Plumbline's: please "
        f"report it.{hint}\n"
    )
    sys.stderr.flush()
    return ExitCode.NO


def _label(error: PlumblineError) -> str:
    if error.exit_code == ExitCode.USAGE:
        return "settings"
    if isinstance(error, ServiceUnavailableError) or error.exit_code == ExitCode.UNAVAILABLE:
        return "out of reach"
    return "error"


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}pipelines{os.sep}" in frame.filename] or frames
    if not ours:
        return "an unknown place"
    frame = ours[-1]
    name = frame.filename.rpartition(f"{os.sep}pipelines{os.sep}")[2]
    return f"pipelines/{name}:{frame.lineno}"
