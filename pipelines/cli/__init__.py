"""The `plumbline` command: one file per group of commands, each a thin layer over the library.

Nothing heavy is imported until a command needs it, so that `plumbline --help` is instant.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Runs the command line and leaves with its exit code; the entry point of the package."""
    from pipelines.cli.app import run

    raise SystemExit(run())
