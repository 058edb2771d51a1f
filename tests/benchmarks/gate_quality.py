"""How often the golden gate passes, refuses or stays undecided, for candidates of known quality."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, t

from pipelines.rollout.non_inferiority import NonInferiority
from tests.benchmarks.gate_vectors import CANDIDATES, SMALLER, Pool, pool
from tests.benchmarks.table import Table

NEEDS = ("scifact", "cranfield")
BY_NAME_ONLY = True
"""It encodes thousands of documents three times: `python -m tests.benchmarks gate_quality`."""

POOLS = (
    ("scifact", "max_tokens"),
    ("scifact", "truncate_dim"),
    ("scifact", "fine_tuned"),
    ("scifact", "tuned_too_fast"),
    ("scifact", "truncate_little"),
    ("cranfield", "truncate_dim"),
)
MARGINS = (0.02, 0.03, 0.05)
SIZES = (200, 300, 1000)
WAYS = ("mixed", "swapped")
LEVEL = 0.05

DRAWS = int(os.environ.get("GATE_DRAWS", "2000"))
"""Golden sets of each cell. GATE_CANDIDATE names a candidate that is measured alone."""

Values = npt.NDArray[np.float64]


def run() -> Table:
    """A row for each candidate, way of making one of known quality, margin and size."""
    table = Table(
        f"Golden gate: share of {DRAWS:,} golden sets that pass / stay undecided / are refused, by "
        f"the candidate's true loss of recall@10 (level {LEVEL})",
        [
            *("candidate", "made", "margin", "queries"),
            *("equal", "at the margin", "99 % bounds of a wrong pass", "twice the margin"),
            "wrong pass by t",
        ],
    )
    exceeded: list[str] = []
    worst: dict[tuple[float, int], float] = {}
    only = os.environ.get("GATE_CANDIDATE")
    for name, candidate in POOLS:
        if only not in (None, candidate):
            continue
        found = pool(name, candidate)
        table.notes.append(_about(name, candidate, found))
        for way, margin, size in itertools.product(WAYS, MARGINS, SIZES):
            seed = [NEEDS.index(name), sorted(CANDIDATES).index(candidate), WAYS.index(way)]
            seed += [round(1000 * margin), size]
            cell = _cell(found.differences, way, margin, size, seed)
            if cell is None:
                continue
            passed, texts = cell
            row = [f"{name}, {candidate}", way, f"{margin:g}", f"{size:,}", *texts]
            if passed is not None:
                if binomtest(passed, DRAWS).proportion_ci(0.99).low > LEVEL:
                    exceeded.append(" ".join(row[:4]))
                worst[margin, size] = max(worst.get((margin, size), 0.0), passed / DRAWS)
            # It takes long: whoever waits sees each row at once.
            print(" | ".join(row), file=sys.stderr, flush=True)
            table.rows.append(row)
    table.notes += [*_NOTES, f"Wrong passes at the margin, worst of the rows: {_worst(worst)}."]
    cells = ", ".join(exceeded) or "none"
    table.notes.append(f"Rows whose 99 % interval of wrong passes lies above the level: {cells}.")
    return table


_NOTES = (
    (
        "A golden set is drawn with replacement from the judged queries: without, sets of 1,000 of "
        "1,109 would hardly differ, and the rates would look better than they are."
    ),
    (
        "mixed: a query takes the candidate's ranking with probability loss / (the candidate's own "
        "loss), else live's. Most queries then do not differ, and hardly any gains."
    ),
    (
        "swapped: candidate and live change places in a query with probability (1 - loss / (the "
        "candidate's own loss)) / 2. As many queries differ as do between the two; an equal "
        "candidate is made in this way alone."
    ),
    "wrong pass by t: what a t test of the same differences would pass at the margin.",
)


def _about(name: str, candidate: str, found: Pool) -> str:
    words = (
        f"{name}, {candidate}: {CANDIDATES[candidate]}; recall@10 {found.candidate.mean():.3f} "
        f"against live's {found.live.mean():.3f} on {len(found.live):,} judged queries"
    )
    if (name, candidate) in SMALLER:
        words += f" among {SMALLER[name, candidate]:,} documents"
    return words


def _cell(
    differences: Values, way: str, margin: float, size: int, seed: Sequence[int]
) -> tuple[int | None, list[str]] | None:
    """Sets that passed at the margin, and the row's figures.

    The margin, and twice the margin, may be more than the candidate loses by itself: these figures
    are then left out. `None` where none is left.
    """
    outcomes = {}
    by_t = bounds = ""
    passed = None
    for times in (0, 1, 2):
        made = _made(differences, way, times * margin)
        if made is None:
            continue
        distinct, drawn = _draws(*made, size, [*seed, times])
        outcomes[times] = _outcomes(distinct, drawn, margin)
        if times == 1:
            passed = outcomes[1][0]
            by_t = _share(_passed_by_t(distinct, drawn, margin))
            interval = binomtest(passed, DRAWS).proportion_ci(0.99)
            bounds = f"{interval.low:.3f}-{interval.high:.3f}"
    if not outcomes:
        return None
    texts = [
        " / ".join(_share(count) for count in outcomes[times]) if times in outcomes else ""
        for times in (0, 1, 2)
    ]
    return passed, [*texts[:2], bounds, texts[2], by_t]


def _made(differences: Values, way: str, loss: float) -> tuple[Values, Values] | None:
    """Differences of one query and their probabilities, with a mean of exactly -loss.

    `None` where that is more than the candidate loses, and where it would be live itself.
    """
    own = -float(differences.mean())
    if loss > own or (way == "mixed" and loss == 0):
        return None
    values, counts = np.unique(np.round(differences, 9), return_counts=True)
    shares = counts / len(differences)
    part = loss / own
    if way == "mixed":
        return np.append(values, 0.0), np.append(part * shares, 1 - part)
    return (
        np.concatenate([values, -values]),
        np.concatenate([(1 + part) / 2 * shares, (1 - part) / 2 * shares]),
    )


def _draws(
    values: Values, shares: Values, size: int, seed: Sequence[int]
) -> tuple[Values, npt.NDArray[np.int64]]:
    """Distinct differences, and how many queries of each golden set have each."""
    random = np.random.default_rng(seed)
    distinct, where = np.unique(values, return_inverse=True)
    together = np.bincount(where, weights=shares)
    return distinct, random.multinomial(size, together / together.sum(), size=DRAWS)


def _outcomes(
    distinct: Values, drawn: npt.NDArray[np.int64], margin: float
) -> tuple[int, int, int]:
    """Golden sets that pass, stay undecided, are refused."""
    counted = {"pass": 0, "undecided": 0, "refuse": 0}
    known: dict[tuple[int, ...], str] = {}
    for counts in drawn:
        key = tuple(counts)
        if key not in known:
            known[key] = NonInferiority(np.repeat(distinct, counts), margin, LEVEL).outcome
        counted[known[key]] += 1
    return counted["pass"], counted["undecided"], counted["refuse"]


def _passed_by_t(distinct: Values, drawn: npt.NDArray[np.int64], margin: float) -> int:
    """Golden sets that a one-sided t test of the mean difference would pass."""
    size = drawn[0].sum()
    mean = drawn @ distinct / size
    variance = (drawn @ distinct**2 / size - mean**2) * size / (size - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = (mean + margin) / np.sqrt(variance / size)
    statistic[variance <= 1e-15] = np.inf  # every query is the same: nothing holds it back
    return int((t.sf(statistic, size - 1) <= LEVEL).sum())


def _share(count: int) -> str:
    return f"{count / DRAWS:.3f}".removeprefix("0") if count < DRAWS else "1"


def _worst(worst: dict[tuple[float, int], float]) -> str:
    return ", ".join(
        f"{share:.3f} at {margin:g} with {size:,}"
        for (margin, size), share in sorted(worst.items())
    )
