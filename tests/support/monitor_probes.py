"""Probes that do as they are told, and an index to point them at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monitors.probes.base import (
    Evidence,
    Figure,
    FigureFamily,
    Level,
    ProbeContext,
    ProbeResult,
)
from pipelines.core.chunker import chunker_for
from pipelines.core.encoder import load_encoder
from pipelines.core.planning import Planner
from pipelines.core.position import Position
from pipelines.core.qdrant import Qdrant, connect
from pipelines.core.records import Event
from pipelines.core.settings import Settings, load_settings
from pipelines.core.versions import Version, create_version
from pipelines.core.writing import DocumentWriter

__all__ = ["SIZE", "FakeProbe", "fill_version", "make_settings", "make_version", "result"]

SIZE = FigureFamily("plumbline_fake_size_items", "Size of something.", ("k",), "items")


def result(level: Level = Level.OK, **changes: Any) -> ProbeResult:
    values: dict[str, Any] = {
        "level": level,
        "reason": "as_told",
        "words": "As it was told.",
        "figures": [Figure(SIZE, 3.0, ("10",))],
        "evidence": Evidence(statistic=1.5, p_value=0.5, samples={"current": 7}, baseline=4),
    }
    return ProbeResult(**{**values, **changes})


class FakeProbe:
    """A probe that does what `act` says; the default is to be content.

    Parameters
    ----------
    act
        Gets the context and answers, or raises.
    """

    QUESTION = "Is all well?"
    FAMILIES = (SIZE,)
    REASONS: Mapping[str, str] = {"as_told": "It was told so."}

    def __init__(self, name: str, act: Callable[[ProbeContext], ProbeResult] | None = None) -> None:
        self.NAME: Any = name
        self.act = act or (lambda _context: result())
        self.runs = 0
        self.running = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def run(self, context: ProbeContext) -> ProbeResult:
        with self._lock:
            self.runs += 1
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        try:
            return self.act(context)
        finally:
            with self._lock:
                self.running -= 1


def make_settings(folder: Path, model: Path | str, **more: Any) -> Settings:
    """Of an embedded Qdrant and a SQLite store in a folder."""
    monitor = {
        "database_url": f"sqlite:///{folder / 'monitor.db'}",
        "port": 0,
        "lease_seconds": 1,
        **more.pop("monitor", {}),
    }
    values: dict[str, Any] = {
        "index": "docs",
        "qdrant": {"path": str(folder / "store"), "outage_timeout_seconds": 1.0},
        "contract": {"model": str(model)},
        "monitor": monitor,
        **more,
    }
    return load_settings(None, values)


def make_version(settings: Settings, **contract: Any) -> tuple[Qdrant, Version]:
    """The version of the settings' contract, changed by the keywords."""
    changed = settings.model_copy(
        update={"contract": settings.contract.model_copy(update=contract)}
    )
    qdrant = connect(settings)
    return qdrant, create_version(qdrant, changed, load_encoder(changed.contract, changed.runtime))


def fill_version(settings: Settings, version: Version, count: int) -> None:
    """Writes this many documents as the job does, with event times of now."""
    qdrant, encoder = connect(settings), load_encoder(settings.contract, settings.runtime)
    planner = Planner(qdrant, version, encoder, chunker_for(version.contract, encoder))
    writer = DocumentWriter(
        qdrant,
        version.name,
        index=version.index,
        fingerprint=version.fingerprint,
        order_by=version.order_by,
        chunked=version.contract.chunk is not None,
        store_text=True,
    )
    now = round(time.time() * 1000) - count
    plans, _ = planner.reconcile(
        [
            Event(
                f"d{number}",
                Position("documents", 0, number, now + number),
                title="",
                text=f"document {number} of many",
                metadata={},
            )
            for number in range(count)
        ]
    )
    planner.cut(plans)
    planner.encode(plans)
    writer.write(plans)
