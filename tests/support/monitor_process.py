"""`plumbline monitor run` as processes that tests start, scrape, end and kill."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.jobs import COMMAND, ENVIRONMENT, write_config
from tests.support.processes import ServerProcess, free_port
from tests.support.scraping import samples_of

__all__ = ["MonitorProcess"]


class MonitorProcess:
    """One replica; use it as a context manager.

    Parameters
    ----------
    folder
        Where its settings and its log go.
    values
        Its settings, as in the file.
    secrets
        Settings from the environment.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        values: Mapping[str, Any],
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        config = write_config(folder / f"{name}.yaml", values)
        self.process = ServerProcess(
            [*COMMAND, "monitor", "run", "--config", str(config), "--port", str(self.port)],
            folder / f"{name}.log",
            environment={**ENVIRONMENT, **(secrets or {})},
            working_directory=folder,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()

    def wait_ready(self, timeout_seconds: float = 90.0) -> Self:
        """Waits until `/readyz` says yes."""
        self.process.wait_ready(lambda: self.page("/readyz")[0] == 200, timeout_seconds)
        return self

    def page(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=10
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def checks(self) -> dict[str, str]:
        """What `/readyz` says of its parts."""
        return dict(json.loads(self.page("/readyz")[1])["checks"])

    def value(self, name: str, **labels: str) -> float | None:
        """The first sample of this name with these labels."""
        return next(iter(samples_of(self.page("/metrics")[1], name, **labels)), None)
