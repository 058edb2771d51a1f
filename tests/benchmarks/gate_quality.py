"""How often the golden gate passes, refuses or stays undecided, for candidates of known quality."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from pipelines.rollout.non_inferiority import NonInferiority
from tests.benchmarks.gate_vectors import CANDIDATES, SMALLER, pool
from tests.benchmarks.table import Table

NEEDS = ("scifact", "cranfield")
BY_NAME_ONLY = True
"""It encodes thousands of documents three times: `python -m tests.benchmarks gate_quality`."""

POOLS = (
    ("scifact", "max_tokens"),
    ("scifact", "truncate_dim"),
    ("scifact", "fine_tuned"),
    ("cranfield", "truncate_dim"),
)
MARGINS = (0.02, 0.03, 0.05)
SIZES = (200, 300, 1000)
WAYS = ("mixed", "swapped")
LEVEL = 0.05

DRAWS = int(os.environ.get("GATE_DRAWS", "2000"))
"""Golden sets of each cell."""

Values = npt.NDArray[np.float64]


def run() -> Table:
    """A row for each candidate, way of making one of known quality, margin and size."""
    table = Table(
        f"Golden gate: share of {DRAWS:,} golden sets that pass / stay undecided / are refused, by "
        f"the candidate's true loss of recall@10 (level {LEVEL})",
        [
            *("candidate", "made", "margin", "queries"),
            *("equal", "at the margin", "99 % bounds of a wrong pass", "twice the margin"),
        ],
    )
    exceeded: list[str] = []
    worst: dict[tuple[float, int], float] = {}
    for name, candidate in POOLS:
        found = pool(name, candidate)
        loss = -float(found.differences.mean())
        table.notes.append(
            f"{name}, {candidate}: {CANDIDATES[candidate]}; recall@10 {found.candidate.mean():.3f} "
            f"against live's {found.live.mean():.3f} on {len(found.live):,} judged queries"
            + (
                f" among {SMALLER[name, candidate]:,} documents"
                if (name, candidate) in SMALLER
                else ""
            )
        )
        for way in WAYS:
            for margin in MARGINS:
                if 2 * margin > loss:
                    continue  # no share of this candidate loses so much
                for size in SIZES:
                    row = _row(found.differences, name, candidate, way, margin, size, worst)
                    if binomtest(row[1], DRAWS).proportion_ci(0.99).low > LEVEL:
                        exceeded.append(" ".join(row[0][:4]))
                    # It takes long: whoever waits sees each row at once.
                    print(" | ".join(row[0]), file=sys.stderr, flush=True)
                    table.rows.append(row[0])
    table.notes += [
        (
            "A golden set is drawn with replacement from the judged queries: without, sets of "
            "1,000 of 1,109 would hardly differ, and the rates would look better than they are."
        ),
        (
            "mixed: a query takes the candidate's ranking with probability (loss / the candidate's "
            "own), else live's. Most queries then do not differ, and hardly any gains."
        ),
        (
            "swapped: candidate and live change places in a query with probability (1 - loss / the "
            "candidate's own) / 2. As many queries differ as do between the two. An equal "
            "candidate is made so in either row."
        ),
        "Rows are left out where twice the margin is more than the candidate loses by itself.",
        f"Wrong passes at the margin, worst of the rows: {_worst(worst)}.",
        "Cells whose 99 % interval lies above the level: "
        + (", ".join(exceeded) if exceeded else "none")
        + ".",
    ]
    return table


def _row(
    differences: Values,
    name: str,
    candidate: str,
    way: str,
    margin: float,
    size: int,
    worst: dict[tuple[float, int], float],
) -> tuple[list[str], int]:
    """The row, and how many sets passed at the margin."""
    cells = []
    for times in (0, 1, 2):
        seed = [
            POOLS.index((name, candidate)),
            WAYS.index(way),
            round(1000 * margin),
            size,
            times,
        ]
        # Nothing mixed in would be live itself.
        values, shares = _made(differences, "swapped" if times == 0 else way, times * margin)
        cells.append(_outcomes(values, shares, margin, size, seed))
    passed = cells[1][0]
    interval = binomtest(passed, DRAWS).proportion_ci(0.99)
    key = (margin, size)
    worst[key] = max(worst.get(key, 0.0), passed / DRAWS)
    texts = [" / ".join(_share(count) for count in cell) for cell in cells]
    bounds = f"{interval.low:.3f}-{interval.high:.3f}"
    label = f"{name}, {candidate}"
    return [label, way, f"{margin:g}", f"{size:,}", *texts[:2], bounds, texts[2]], passed


def _made(differences: Values, way: str, loss: float) -> tuple[Values, Values]:
    """Differences of one query and their probabilities, with a mean of exactly -loss."""
    own = -float(differences.mean())
    values, counts = np.unique(np.round(differences, 9), return_counts=True)
    shares = counts / len(differences)
    part = loss / own
    if way == "mixed":
        return np.append(values, 0.0), np.append(part * shares, 1 - part)
    return (
        np.concatenate([values, -values]),
        np.concatenate([(1 + part) / 2 * shares, (1 - part) / 2 * shares]),
    )


def _outcomes(
    values: Values, shares: Values, margin: float, size: int, seed: Sequence[int]
) -> tuple[int, int, int]:
    """Golden sets that pass, stay undecided, are refused."""
    random = np.random.default_rng(seed)
    distinct, where = np.unique(values, return_inverse=True)
    together = np.bincount(where, weights=shares)
    counted = {"pass": 0, "undecided": 0, "refuse": 0}
    known: dict[tuple[int, ...], str] = {}
    for counts in random.multinomial(size, together / together.sum(), size=DRAWS):
        key = tuple(counts)
        if key not in known:
            known[key] = NonInferiority(np.repeat(distinct, counts), margin, LEVEL).outcome
        counted[known[key]] += 1
    return counted["pass"], counted["undecided"], counted["refuse"]


def _share(count: int) -> str:
    return f"{count / DRAWS:.3f}".removeprefix("0") if count < DRAWS else "1"


def _worst(worst: dict[tuple[float, int], float]) -> str:
    return ", ".join(
        f"{share:.3f} at {margin:g} with {size:,}"
        for (margin, size), share in sorted(worst.items())
    )
