"""What `make up` is told beside Plumbline's own settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEFAULT_CONFIG", "DEFAULT_STATE", "Options"]

REPOSITORY = Path(__file__).resolve().parents[3]
DEFAULT_CONFIG = REPOSITORY / "deploy" / "local" / "plumbline.yaml"
DEFAULT_STATE = Path("plumbline-up")


@dataclass(frozen=True)
class Options:
    """Where things go, and the ports that Plumbline's settings do not name.

    Parameters
    ----------
    state
        The folder of all that is left behind: data, logs, settings, records of processes.
    config
        Plumbline's settings file.
    objectives
        Error budgets and thresholds of the alerts (`python -m deploy.alerting`); `None` for the
        defaults.
    kafka_controller_port, qdrant_port, prometheus_port, alertmanager_port
        On loopback.
    timeout_seconds
        How long each service may take until it answers.
    """

    state: Path = DEFAULT_STATE
    config: Path = DEFAULT_CONFIG
    objectives: Path | None = None
    kafka_controller_port: int = 9091
    qdrant_port: int = 6333
    prometheus_port: int = 9090
    alertmanager_port: int = 9093
    timeout_seconds: float = 180.0

    @property
    def records(self) -> Path:
        """Folder that says which processes run."""
        return self.state / "run"

    @property
    def settings(self) -> Path:
        """The settings that the services run with."""
        return self.state / "plumbline.yaml"

    def data(self, service: str) -> Path:
        """Folder of a service's data; made when it is not there."""
        folder = self.state / service
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self, service: str) -> Path:
        """File of a service's output."""
        return self.state / "logs" / f"{service}.log"
