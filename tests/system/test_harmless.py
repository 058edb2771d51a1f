"""Sixty windows of an index that lives and is not harmed: no probe may cry.

The whole way of test_damages: documents come, change and go day by day, the probes look and keep
what they have learnt. A stream counts as a false alarm when any probe alarmed on any day.
One stream of all harmless changes at once by default, over fewer days; `make acceptance` does
PLUMBLINE_TEST_SEEDS (20) of sixty windows and prints the table. Which changes, one at a time:
PLUMBLINE_TEST_KINDS=churn,duplicates,float16,growth,wobble. PLUMBLINE_TEST_QDRANT_URL names a
server to use; the embedded engine filters in Python, where sixty windows take three times as long.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from monitors.probes.base import Level, Probe
from monitors.probes.canary import CanaryProbe
from monitors.probes.drift import DriftProbe
from monitors.probes.fidelity import FidelityProbe
from monitors.probes.freshness import FreshnessProbe
from monitors.probes.golden import GoldenProbe
from monitors.probes.integrity import IntegrityProbe
from pipelines.core.encoder import Encoded
from pipelines.core.lag import PartitionLag
from tests.support.corpora import missing
from tests.support.world import NEEDS, World, living, real_encoder

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(14_400)]
REASON = missing(*NEEDS)
if REASON is not None:
    pytestmark.append(pytest.mark.skip(reason=REASON))

ACCEPTANCE = os.environ.get("PLUMBLINE_TEST_ACCEPTANCE") == "1"
SEEDS = int(os.environ.get("PLUMBLINE_TEST_SEEDS", "20" if ACCEPTANCE else "1"))
MOST = 0.05
"""Share of the streams in which some probe may alarm."""
GOOD_DAYS, WINDOWS = (21, 60) if ACCEPTANCE else (21, 4)
"""Ordinary days that the control learns from, and the days that are counted; the harmless change
begins with the latter where it is one that begins."""
PER_DAY, OLD, JUDGED, QUERIES = (200, 1000, 400, 100) if ACCEPTANCE else (60, 400, 300, 100)
POOL = 31_000 if ACCEPTANCE else 3_000
"""A fifth of the stream's documents is another every day."""
SETTINGS = (
    {"minimum_window": 150, "minimum_reference": 800}
    if ACCEPTANCE
    else {"minimum_window": 50, "minimum_reference": 300}
)


@dataclass(frozen=True)
class Kind:
    """A harmless change.

    Parameters
    ----------
    life
        What the index is like from the first day on: arguments of `World`.
    half
        Whether vectors are stored as float16 from the first counted day on.
    """

    life: dict[str, float]
    half: bool = False


KINDS = {
    "churn": Kind({}),
    "duplicates": Kind({"duplicates": 0.2}),
    "float16": Kind({}, half=True),
    "growth": Kind({"growth": 1.0}),
    "wobble": Kind({"wobble": 0.15}),
    "all": Kind({"duplicates": 0.2, "growth": 0.25, "wobble": 0.15}, half=True),
}
CHOSEN = os.environ.get("PLUMBLINE_TEST_KINDS", "all").split(",")


class HalfStored:
    """The version's encoder; what is stored of its vectors is float16."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        encoded = self._encoder.encode_documents(texts)
        return replace(encoded, vectors=encoded.vectors.astype(np.float16).astype(np.float32))


def looked(world: World) -> list[str]:
    """Probes that learn from windows, and every fourth day all others; the alarms, in words."""
    caught = {"lag": lambda _: [PartitionLag("documents", 0, 0, None)]}
    found = []
    looking: list[tuple[Probe, dict[str, Any]]] = [(DriftProbe(), {}), (GoldenProbe(), {})]
    if world.day % 4 == 0:
        looking += [(IntegrityProbe(), {}), (CanaryProbe(), {}), (FidelityProbe(), {})]
        looking += [(FreshnessProbe(), caught)]
    for probe, told in looking:
        result = world.look(probe, **told)
        if result.level is Level.ALARM:
            found.append(f"day {world.day}, {probe.NAME}: {result.words}")
    return found


def alarms(world: World, kind: Kind) -> list[str]:
    """One stream: what alarmed on the counted days."""
    for _ in range(GOOD_DAYS):
        world.live()
        before = looked(world)
        assert not before, f"an alarm before the stream begins: {before}"
    more = {"encoder": HalfStored(real_encoder())} if kind.half else {}
    found = []
    for _ in range(WINDOWS):
        world.live(**more)
        found += looked(world)
    return found


def test_no_probe_alarms_while_nothing_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In more than one of twenty streams of sixty windows."""
    streams: dict[str, list[list[str]]] = {name: [] for name in CHOSEN}
    for seed in range(SEEDS):
        for name in CHOSEN:
            begun = time.monotonic()
            directory = tmp_path / f"{name}-{seed}"
            directory.mkdir()
            with living(
                directory,
                seed,
                drift=SETTINGS,
                queries=QUERIES,
                per_day=PER_DAY,
                old=OLD,
                judged_documents=JUDGED,
                pool=POOL,
                **KINDS[name].life,
            ) as world:
                found = alarms(world, KINDS[name])
            streams[name].append(found)
            with capsys.disabled():
                took = time.monotonic() - begun
                print(f"  {name}, seed {seed}, {took:.0f} s: {found or 'silent'}", flush=True)
    cried = {name: sum(map(bool, found)) for name, found in streams.items()}
    with capsys.disabled():
        print(_table(cried))
    assert sum(cried.values()) <= MOST * SEEDS * len(CHOSEN), streams


def _table(cried: dict[str, int]) -> str:
    lines = ["", f"harmless, {WINDOWS} windows | streams | alarmed | rate | 95 % bounds"]
    for name, count in cried.items():
        low, high = binomtest(count, SEEDS).proportion_ci(0.95, "exact")
        lines.append(f"{name} | {SEEDS} | {count} | {count / SEEDS:.2f} | {low:.3f}-{high:.3f}")
    return "\n".join(lines)
