"""A process as a command finds it: a folder and an environment without anybody else's settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

__all__ = ["own_folder"]


@contextmanager
def own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Works there, with no variable of ours; what commands do to logging is put back."""
    for name in list(os.environ):
        if name.upper().startswith("PLUMBLINE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(folder)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        structlog.reset_defaults()
