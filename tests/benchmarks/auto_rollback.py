"""How often a soak of seven days rolls back, and when, on streams of real scores.

A stream is a soak: a golden set drawn from the judged queries, two systems whose vectors really
differ, and an index whose documents come and go every hour. What is drawn anew for each stream is
what is random in life: the queries, and the documents.

- Equal quality: for each query a coin decides which of the two systems is the new one, so that the
  mean difference of the population is 0 at every hour, and each query's difference is a real one.
- A loss of L points: a share of the queries, L over the loss of the worse system, gets the worse
  one as the new one, from the start or from the 48th hour on; the others are as above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipelines.core.rollout_settings import RolloutSettings
from pipelines.rollout.auto_rollback import is_worse
from pipelines.rollout.evidence import SoakTest, pattern_statistics
from tests.benchmarks.gate_vectors import judged, vectors
from tests.benchmarks.table import Table
from tests.support.corpora import Corpus

__all__ = ["NEEDS", "Systems", "run", "soak_stream"]

NEEDS = ("scifact", "cranfield")
BY_NAME_ONLY = True
"""It encodes two corpora twice, and simulates for forty minutes."""

HOURS = 168
LATE = 48
SEED = 20_260_707
_DEPTH = 150
"""Documents ranked beforehand: with seven of ten alive, the first ten are among them."""
_ALIVE = 0.7
_CHURN = 0.002
"""Of the documents, those that come or go in an hour: a third within the soak."""
_K = 10

_EQUAL_STREAMS = 400
_LOSS_STREAMS = 50
_LOSSES = (0.02, 0.03, 0.05, 0.10)

CASES = (
    ("scifact", "max_tokens", 300),
    ("scifact", "truncate_dim", 300),
    ("scifact", "truncate_dim", 1000),
    ("cranfield", "truncate_dim", 200),
)
"""Data set, the worse system beside the packaged model, queries of a golden set."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Systems:
    """Rankings of every judged query by two systems, and which ranks are relevant.

    Parameters
    ----------
    ranked, relevant
        Of the better and the worse system, shape (2, queries, depth): rows of documents.
    judged
        Relevant documents of each query, shape (queries,).
    """

    ranked: npt.NDArray[np.int64] = field(repr=False)
    relevant: Bools = field(repr=False)
    judged: npt.NDArray[np.int64] = field(repr=False)
    documents: int

    @classmethod
    def of(cls, name: str, worse: str) -> Systems:
        """From a data set; encodes what is not kept yet."""
        qrels = judged(name)
        row = {document.id: number for number, document in enumerate(Corpus(name).documents())}
        wanted = np.zeros((len(qrels), len(row)), bool)
        for query, grades in enumerate(qrels.values()):
            for document, grade in grades.items():
                if grade >= 1 and document in row:
                    wanted[query, row[document]] = True
        kept = wanted.any(axis=1)
        ranked, relevant = [], []
        for system in ("live", worse):
            stored, asked = vectors(name, system)
            scores = asked[kept] @ stored.T
            best = np.argsort(-scores, axis=1, kind="stable")[:, :_DEPTH]
            ranked.append(best)
            relevant.append(np.take_along_axis(wanted[kept], best, axis=1))
        return cls(np.stack(ranked), np.stack(relevant), wanted[kept].sum(axis=1), len(row))

    def recall(self, system: int, queries: npt.NDArray[np.int64], alive: Bools) -> Floats:
        """Recall at 10 of some queries over the documents that are alive."""
        there = alive[self.ranked[system][queries]]
        first = there & (np.cumsum(there, axis=1) <= _K)
        hits = (first & self.relevant[system][queries]).sum(axis=1)
        return np.asarray(hits / self.judged[queries])

    @property
    def loss(self) -> float:
        """What the worse system loses, points of recall over 100."""
        every = np.arange(len(self.judged))
        alive = np.ones(self.documents, bool)
        return float((self.recall(0, every, alive) - self.recall(1, every, alive)).mean())


def soak_stream(
    systems: Systems, size: int, seed: int, *, loss: float = 0.0, onset: int = 0
) -> Iterator[Floats]:
    """Differences, new minus old, of each query, hour by hour; shape (size,)."""
    random = np.random.default_rng(seed)
    queries = random.integers(0, len(systems.judged), size)
    alive = random.random(systems.documents) < _ALIVE
    # +1: the worse system is the new one.
    sides = random.choice([-1.0, 1.0], size)
    damaged = random.random(size) < loss / systems.loss
    for hour in range(HOURS):
        better, worse = (systems.recall(system, queries, alive) for system in (0, 1))
        now = np.where(damaged & (hour >= onset), 1.0, sides)
        yield now * (worse - better)
        flipped = random.random(systems.documents) < _CHURN
        gone = flipped & alive
        # As many come as go.
        born = np.flatnonzero(~alive)
        alive = alive & ~gone
        alive[random.choice(born, min(int(gone.sum()), len(born)), replace=False)] = True


def detected(
    systems: Systems, size: int, seed: int, *, loss: float = 0.0, onset: int = 0
) -> int | None:
    """The run, from 1, that rolls back; `None` where none does."""
    settings = RolloutSettings()
    test = SoakTest(HOURS, settings.false_rollback)
    # A query drawn twice is two queries: what they have in common is the population's.
    names = [f"{seed}/{number}" for number in range(size)]
    stream = np.stack(list(soak_stream(systems, size, seed, loss=loss, onset=onset)))
    for differences, statistics in zip(
        stream, pattern_statistics(names, stream, stream[0]), strict=True
    ):
        test = test.take(statistics)
        lost, fallen = -float(differences.mean()), -float((differences - stream[0]).mean())
        if is_worse(test, lost, fallen, settings):
            return test.run
    return None


def run() -> Table:
    """False rollbacks within a soak, and the power."""
    table = Table(
        "Auto-rollback: soaks of 168 hourly looks, level .01, margin .02",
        ("set, worse system, queries", "loss", "from hour", "soaks", "rolled back", "run, median"),
        notes=[
            f"seed {SEED} + number of the soak; documents: {100 * _CHURN:g} % come or go an hour",
            "rolled back: with the 95 % Clopper-Pearson interval",
            "run: looks from the onset to the rollback",
        ],
    )
    for name, worse, size in CASES:
        systems = Systems.of(name, worse)
        label = f"{name}, {worse}, {size:,}"
        for loss, onset in [(0.0, 0), *((loss, at) for at in (0, LATE) for loss in _LOSSES)]:
            if loss > systems.loss:
                continue  # the worse system is not as bad as that
            soaks = _LOSS_STREAMS if loss else _EQUAL_STREAMS
            runs = [
                detected(systems, size, SEED + number, loss=loss, onset=onset)
                for number in range(soaks)
            ]
            late = [found - onset for found in runs if found is not None]
            table.rows.append(
                (
                    label,
                    f"{100 * loss:g} points" if loss else "none",
                    str(onset) if loss else "",
                    f"{soaks:,}",
                    _share(len(late), soaks),
                    f"{np.median(late):.0f}" if late and loss else "",
                )
            )
            print("  ".join(table.rows[-1]), flush=True)
    return table


def _share(count: int, of: int) -> str:
    from scipy.stats import binomtest

    interval = binomtest(count, of).proportion_ci(0.95)
    return f"{count / of:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
