"""`make up` and `make down` as tests type them, in a state folder and on ports of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.jobs import COMMAND, ENVIRONMENT, write_config
from tests.support.processes import REPOSITORY, free_ports, stamped

__all__ = ["Stack", "stack_available"]

INSTALL_HINT = (
    "the servers are not installed: python deploy/local/install.py kafka prometheus alertmanager"
)

_PROGRAM = (sys.executable, "-m", "deploy.local.stack")


def stack_available() -> bool:
    """Whether install.py has put all of its servers there."""
    names = ("kafka", "prometheus", "alertmanager")
    return all(stamped(name) for name in names)


class Stack:
    """One stack; `down` in the end is the caller's.

    Parameters
    ----------
    folder
        For its state and its settings.
    model
        Path of the model.
    settings
        Added to the settings file.
    """

    def __init__(
        self, folder: Path, model: Path, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.state = folder / "up"
        names = ("kafka", "controller", "qdrant", "prometheus", "alertmanager", "ingest", "monitor")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.values: dict[str, Any] = {
            "index": "docs",
            "kafka": {
                "bootstrap_servers": f"127.0.0.1:{self.ports['kafka']}",
                "topics": ["documents"],
            },
            "contract": {"model": str(model)},
            "metrics": {"port": self.ports["ingest"]},
            "monitor": {"port": self.ports["monitor"]},
            **(settings or {}),
        }
        self.config = folder / "mine.yaml"

    def run(self, do: str, *arguments: str, timeout_seconds: float = 800.0) -> Any:
        """One command of the stack; gives the finished process."""
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "deploy.local.stack",
                do,
                "--state",
                str(self.state),
                *arguments,
            ],
            cwd=REPOSITORY,
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    def up(self, *arguments: str) -> Any:
        """`make up` with this stack's settings and ports."""
        write_config(self.config, self.values)
        return self.run(
            "up",
            *("--config", str(self.config)),
            *("--kafka-controller-port", str(self.ports["controller"])),
            *("--qdrant-port", str(self.ports["qdrant"])),
            *("--prometheus-port", str(self.ports["prometheus"])),
            *("--alertmanager-port", str(self.ports["alertmanager"])),
            *arguments,
        )

    def down(self) -> Any:
        """`make down`."""
        return self.run("down")

    def pids(self) -> dict[str, int]:
        """Process number of every service that the state folder knows of."""
        return {
            path.stem: int(json.loads(path.read_text())["process"]["pid"])
            for path in (self.state / "run").glob("*.json")
        }

    def send(self, *events: Mapping[str, Any]) -> None:
        """Events to the topic, by the stack's own command."""
        lines = "".join(json.dumps(event) + "\n" for event in events)
        done = subprocess.run(
            [*_PROGRAM, "send", "--state", str(self.state)],
            cwd=REPOSITORY,
            input=lines,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def search(self, query: str) -> list[dict[str, Any]]:
        """What `plumbline search` finds with the settings that `up` has written."""
        done = subprocess.run(
            [*COMMAND, "search", "--json", "--config", str(self.state / "plumbline.yaml"), query],
            cwd=self.folder,
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found
