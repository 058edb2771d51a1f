"""One process of the stack, as it is to be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.stack.ports import Port

__all__ = ["Service"]


@dataclass(frozen=True)
class Service:
    """One process of the stack.

    Parameters
    ----------
    name
        As people see it.
    stage
        Those of one stage start together, after all of the stages below answer.
    command
        Program and arguments.
    folder
        Where it starts.
    ports
        That it listens on.
    address
        For people.
    health
        For `health.answers`.
    grace_seconds
        How long it may take to end after SIGTERM.
    configuration
        What its files say, so that a change of it is seen.
    environment
        Added to that of `make up`.
    prepare
        Runs to its end before the first start, as `format_command`; empty for nothing.
    server
        What install.py must have installed for it; `None` for nothing.
    """

    name: str
    stage: int
    command: list[str]
    folder: Path
    ports: list[Port]
    address: str
    health: str
    grace_seconds: float
    configuration: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: list[str] = field(default_factory=list)
    server: str | None = None

    @property
    def inputs(self) -> str:
        """A hash of what it runs with; no secret is in it."""
        content = json.dumps([self.command, str(self.folder), self.configuration])
        return hashlib.sha256(content.encode()).hexdigest()[:16]
