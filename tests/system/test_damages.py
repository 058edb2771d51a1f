"""Damages, one at a time, to an index that lives: the probe that must notice does.

Every damage comes after days of ordinary life, and ordinary life goes on while it does its harm.
One seed by default; `make acceptance` does twenty and prints the table. Which damages, by the names
of their probes: PLUMBLINE_TEST_DAMAGES=canary,fidelity. PLUMBLINE_TEST_QDRANT_URL names a server
to use instead of the embedded engine, on which the long form takes three times as long.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from monitors.probes.base import Level, Probe, ProbeResult
from monitors.probes.canary import CanaryProbe
from monitors.probes.drift import DriftProbe
from monitors.probes.fidelity import FidelityProbe
from monitors.probes.freshness import FreshnessProbe
from monitors.probes.golden import GoldenProbe
from monitors.probes.integrity import IntegrityProbe
from pipelines.core.canaries import compare
from pipelines.core.lag import PartitionLag
from pipelines.core.points import point_id
from pipelines.core.worker_reports import WorkerReporter
from tests.support.corpora import DATA, Corpus, Document, missing
from tests.support.damage import damaged, fine_tuned
from tests.support.world import DAY_MS, NEEDS, World, judged, living

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(14_400)]
PAIRS = DATA / "stsb" / "en-train.csv"
REASON = missing(*NEEDS) or (None if PAIRS.is_file() else f"there is no {PAIRS}")
if REASON is not None:
    pytestmark.append(pytest.mark.skip(reason=REASON))

ACCEPTANCE = os.environ.get("PLUMBLINE_TEST_ACCEPTANCE") == "1"
SEEDS = int(os.environ.get("PLUMBLINE_TEST_SEEDS", "20" if ACCEPTANCE else "1"))
CHOSEN = frozenset(filter(None, os.environ.get("PLUMBLINE_TEST_DAMAGES", "").split(",")))
WITH_DRIFT = not CHOSEN or "drift" in CHOSEN
LEAST = 0.95
"""Share of the seeds in which the probe must notice."""
GOOD_DAYS = (31 if ACCEPTANCE else 21) if WITH_DRIFT else 5
"""Of ordinary life before a damage. One that shows over days needs what its control trusts."""
WINDOWS = 3
POOL = 20_000 if ACCEPTANCE else 16_000
# The short seed encodes a third of the texts, so its days are smaller and its floods larger. What
# harms single documents or an encoder shows the same in an index of any size.
PER_DAY, OLD, JUDGED = (500, 2000, 1200) if ACCEPTANCE and WITH_DRIFT else (200, 1000, 400)
FLOOD, NEW, REPEATED = (0.20, 0.05, 0.10) if ACCEPTANCE else (0.50, 0.20, 0.40)
DRIFT = {} if ACCEPTANCE else {"minimum_window": 150, "minimum_reference": 800}

BOILERPLATE = (
    "This record was exported automatically by the document service. It may contain confidential "
    "information, is meant for the addressee alone and must not be passed on without consent. "
)


@dataclass(frozen=True)
class Damage:
    """One thing that goes wrong.

    Parameters
    ----------
    probe
        Which must notice.
    strike
        One day of the damage: it lives that day and gives what else the probe is told.
    days
        Within how many it must be noticed.
    """

    name: str
    probe: type[Probe]
    strike: Callable[[World], dict[str, object]]
    days: int = 1


def _changed_worker(kind: str) -> Callable[[World], dict[str, object]]:
    """A worker whose encoder has changed reports it; it refuses to write by itself."""

    def strike(world: World) -> dict[str, object]:
        world.live()
        watched = world.watched
        world.look(CanaryProbe())  # minutes ago: this day was one jump of the probes' clock
        report = compare(watched.version.canaries, damaged(kind))
        WorkerReporter(watched.qdrant, watched.version.name, 1.0).report(report)
        return {}

    return strike


def _changed_monitor(kind: str) -> Callable[[World], dict[str, object]]:
    """The process that encodes the queries has changed."""

    def strike(world: World) -> dict[str, object]:
        world.live()
        return {"encoder": damaged(kind)}

    return strike


def _mixed_models(world: World) -> dict[str, object]:
    """A second model, close to the first, writes 60 documents past every check."""
    world.live()
    other = fine_tuned(PAIRS)
    documents = world.take(60)
    world.watched.write(documents, at=world.start_ms - DAY_MS // 2, encoder=other)
    return {}


def _topic_flood(world: World) -> dict[str, object]:
    """Much of the day is of one category."""
    world.live(world.flood(round(world.per_day * FLOOD)))
    return {}


def _new_domain(world: World) -> dict[str, object]:
    """Some of the day is what customers ask a bank."""
    rows = Corpus("banking77").documents()
    chosen = world.dice.sample(rows, round(world.per_day * NEW))
    day = [Document(f"bank/{world.day}/{d.id}", d.title, d.text) for d in chosen]
    world.live(day)
    return {}


def _boilerplate(world: World) -> dict[str, object]:
    """Some of the day begins with the same words."""
    chosen = world.take(round(world.per_day * REPEATED))
    world.live([Document(d.id, d.title, BOILERPLATE + d.text) for d in chosen])
    return {}


def _lost_documents(world: World) -> dict[str, object]:
    """Two in a hundred documents are gone, without a tombstone."""
    world.live()
    watched = world.watched
    ids = sorted(watched.documents())
    lost = world.dice.sample(ids, len(ids) // 50)
    points = [point_id(watched.version.index, document, 0) for document in lost]
    watched.qdrant.call("delete", watched.version.name, points_selector=points, wait=True)
    return {}


def _lost_golden_documents(world: World) -> dict[str, object]:
    """A tenth of the judged documents is gone."""
    world.live()
    watched = world.watched
    ids = sorted(
        {document for grades in judged(world.judged_documents)[2].values() for document in grades}
    )
    points = [
        point_id(watched.version.index, document, 0)
        for document in world.dice.sample(ids, len(ids) // 10)
    ]
    watched.qdrant.call("delete", watched.version.name, points_selector=points, wait=True)
    return {}


def _half_migrated(world: World) -> dict[str, object]:
    """A third of the judged documents is written anew with another pooling."""
    world.live()
    documents = list(judged(world.judged_documents)[0])
    world.dice.shuffle(documents)
    some = [Document(d.id, d.title, d.text + " ") for d in documents[: len(documents) // 3]]
    world.watched.write(some, at=world.start_ms - 400, encoder=damaged("wrong_pooling"))
    return {}


def _stalled(world: World) -> dict[str, object]:
    """The job hangs: events come, nothing is committed."""
    first = world.watched.now_ms
    world.end_day()
    return {"lag": lambda _: [PartitionLag("documents", 0, world.per_day, first)]}


DAMAGES = (
    Damage("wrong pooling in a worker", CanaryProbe, _changed_worker("wrong_pooling")),
    Damage(
        "missing normalisation in a worker", CanaryProbe, _changed_worker("missing_normalization")
    ),
    Damage("wrong query prompt", CanaryProbe, _changed_monitor("wrong_query_prompt")),
    Damage("int8 weights in a worker", CanaryProbe, _changed_worker("int8_weights")),
    Damage("texts cut at 32 tokens in a worker", CanaryProbe, _changed_worker("truncated_tokens")),
    Damage("mixed models", FidelityProbe, _mixed_models),
    Damage("lost documents", IntegrityProbe, _lost_documents),
    Damage("stalled ingest", FreshnessProbe, _stalled),
    Damage(f"topic flood, {FLOOD:.0%}", DriftProbe, _topic_flood, WINDOWS),
    Damage(f"new domain, {NEW:.0%}", DriftProbe, _new_domain, WINDOWS),
    Damage(f"boilerplate on {REPEATED:.0%}", DriftProbe, _boilerplate, WINDOWS),
    Damage("lost golden documents", GoldenProbe, _lost_golden_documents, WINDOWS),
    Damage("another pooling in a third of the golden", GoldenProbe, _half_migrated, WINDOWS),
)


DAMAGES = tuple(damage for damage in DAMAGES if not CHOSEN or damage.probe.NAME in CHOSEN)
DAILY = tuple(dict.fromkeys(damage.probe for damage in DAMAGES if damage.days > 1))
"""Those that learn from ordinary days, and look on each."""


def _noticed(world: World, damage: Damage) -> tuple[int, ProbeResult]:
    """The day on which the probe alarmed, from 1, or 0, and its last answer."""
    probe = damage.probe()
    for day in range(1, damage.days + 1):
        more = damage.strike(world)
        result = world.look(probe, **more)
        if result.level is Level.ALARM:
            return day, result
    return 0, result


def test_every_damage_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the probe that is made for it, in the first run or within three windows."""
    days: dict[str, list[int]] = {damage.name: [] for damage in DAMAGES}
    false: dict[str, int] = {}
    answers: dict[str, str] = {}
    floods = ("eess.SP", "cs.IR", "math.NA", "cs.RO")
    for seed in range(SEEDS):
        begun = time.monotonic()
        flooded = floods[seed % len(floods)]
        directory = tmp_path / str(seed)
        directory.mkdir()
        with living(
            directory,
            seed,
            drift=DRIFT,
            per_day=PER_DAY,
            old=OLD,
            judged_documents=JUDGED,
            pool=POOL,
            kept_back=(flooded, round(WINDOWS * PER_DAY * FLOOD)),
        ) as world:
            for _ in range(GOOD_DAYS):
                world.live()
                for probe in (kind() for kind in DAILY):
                    _count(false, probe, world.look(probe))
            for probe in (IntegrityProbe(), FidelityProbe(), CanaryProbe()):
                _count(false, probe, world.look(probe))
            caught = lambda _: [PartitionLag("documents", 0, 0, None)]  # noqa: E731
            _count(false, FreshnessProbe(), world.look(FreshnessProbe(), lag=caught))
            for number, damage in enumerate(DAMAGES):
                with world.fork(directory / f"damage-{number}") as fork:
                    day, result = _noticed(fork, damage)
                days[damage.name].append(day)
                if day == 0:
                    answers[damage.name] = f"{result.level}: {result.words}"
        # Hours: whoever waits, or is cut off, has what was found.
        noticed = ", ".join(f"{name} {found[-1] or 'MISSED'}" for name, found in days.items())
        with capsys.disabled():
            print(
                f"  seed {seed}, {time.monotonic() - begun:.0f} s: noticed in run: {noticed}; "
                f"alarms before: {false}",
                flush=True,
            )
    with capsys.disabled():
        print(_table(days, answers, false))
    late = {
        name: found for name, found in days.items() if sum(map(bool, found)) < LEAST * len(found)
    }
    assert not late, {name: (found, answers.get(name)) for name, found in late.items()}
    assert sum(false.values()) == 0, false


def _count(false: dict[str, int], probe: Probe, result: ProbeResult) -> None:
    false[probe.NAME] = false.get(probe.NAME, 0) + (result.level is Level.ALARM)


def _table(days: dict[str, list[int]], answers: dict[str, str], false: dict[str, int]) -> str:
    lines = ["", "damage | probe | noticed in run | seeds | rate"]
    for damage in DAMAGES:
        found = days[damage.name]
        hits = [day for day in found if day]
        runs = f"{min(hits)} to {max(hits)}" if hits else "-"
        lines.append(
            f"{damage.name} | {damage.probe.NAME} | {runs} of {damage.days} | {len(found)} | "
            f"{len(hits) / len(found):.2f}"
        )
    lines.extend(f"  {name} was missed once: {words}" for name, words in answers.items())
    lines.append(f"alarms before the damage, over {GOOD_DAYS} days of each seed: {false}")
    return "\n".join(lines)
