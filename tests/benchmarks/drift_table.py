"""The table of drift figures: how often the combined test alarms, scenario by scenario."""

from __future__ import annotations

import os
import sys

import numpy as np
from scipy.stats import binomtest

from monitors.drift.combined import all_values, combine, p_value
from monitors.drift.permutations import labellings
from monitors.drift.prepare import prepare
from tests.benchmarks.drift_scenarios import SCENARIOS, Population
from tests.benchmarks.drift_streams import stream_rows
from tests.benchmarks.table import Table

NEEDS = ("banking77", "arxiv-2025", "scifact", "cranfield")
BY_NAME_ONLY = True
"""It takes an hour or more: `python -m tests.benchmarks drift_table`."""

POPULATIONS = (Population("arxiv-2025", "banking77"), Population("banking77", "stsb"))

NULL_DRAWS = int(os.environ.get("DRIFT_NULL_DRAWS", "5000"))
"""Pairs of samples without drift, for each size and set."""

DRAWS = int(os.environ.get("DRIFT_DRAWS", "400"))
"""Pairs for each other row."""

SETS = os.environ.get("DRIFT_SETS", "arxiv-2025,banking77").split(",")

ROWS = os.environ.get("DRIFT_ROWS", "")
"""Rows to run alone, as `mix20:500,no drift:1000,streams`; all of them when it is empty."""

_PROGRESS = 500
_LEVEL = 0.05
_PERMUTATIONS = 199

_ROWS = (
    # Scenario, n, what is to be reached.
    ("mix20", 500, ".94"),
    ("mix10", 500, ".42"),
    ("new10", 500, ".88"),
    ("far05", 500, ".60"),
    ("far05", 1000, ".88"),
    ("boilerplate_10", 1000, ".62"),
    ("int8 weights", 250, ".95"),
    ("wrong pooling", 250, ".95"),
    ("not normalised", 250, ".95"),
    ("padded", 250, ".95"),
    ("float16 storage", 500, "nominal"),
    ("duplicates", 500, "nominal"),
    ("20 % churn", 500, "nominal"),
    ("no drift", 250, "nominal"),
    ("no drift", 500, "nominal"),
    ("no drift", 1000, "nominal"),
)


def run() -> Table:
    """Every row for every set, then the streams."""
    table = Table(
        f"Drift: share of windows with p <= {_LEVEL} (combined test, {_PERMUTATIONS} permutations, "
        "n against n)",
        ["scenario", "n", "set", "draws", "rate", "99 % bounds", "to reach", "single detectors"],
    )
    for population in POPULATIONS:
        if population.name not in SETS:
            continue
        for scenario, n, target in _ROWS:
            if not _wanted(f"{scenario}:{n}"):
                continue
            draws = NULL_DRAWS if scenario == "no drift" else DRAWS
            row = _row(population, scenario, n, target, draws)
            # It takes long: whoever waits sees each row at once.
            print(" | ".join(row), file=sys.stderr, flush=True)
            table.rows.append(row)
        if _wanted("streams"):
            table.rows.extend(stream_rows(population))
    table.notes.append(
        "Bounds: Clopper-Pearson. Samples of a pair share no document, and none is there twice "
        "(duplicates and churn: see their scenarios)."
    )
    table.notes.append(
        "Foreign domain of arxiv-2025 is banking77, of banking77 stsb. Topics: categories; six "
        "groups of intents."
    )
    table.notes.append(
        "Streams: real window scores against 2,000 documents, topic shares moved by a log-normal "
        "factor (.15) each day; hourly and correlated ones draw from those scores by rank."
    )
    return table


def _wanted(row: str) -> bool:
    return not ROWS or row in ROWS.split(",")


def _row(population: Population, scenario: str, n: int, target: str, draws: int) -> list[str]:
    random = np.random.default_rng([n, sorted(SCENARIOS).index(scenario)])
    alarms: dict[str, int] = {}
    for done in range(draws):
        if done and done % _PROGRESS == 0:
            print(f"{scenario} {n}: {alarms['combined']} of {done}", file=sys.stderr, flush=True)
        reference, current = SCENARIOS[scenario](population, n, random)
        pooled = prepare(reference, current, random).pooled
        labels = labellings(pooled.reference, pooled.current, _PERMUTATIONS, random)
        values = all_values(pooled, labels, lambda: None)
        for name, found in {**values, "combined": combine(values)}.items():
            alarms[name] = alarms.get(name, 0) + (p_value(found) <= _LEVEL)
    combined = alarms.pop("combined")
    interval = binomtest(combined, draws).proportion_ci(0.99)
    return [
        scenario,
        str(n),
        population.name,
        str(draws),
        f"{combined / draws:.3f}",
        f"{interval.low:.3f}-{interval.high:.3f}",
        target,
        " ".join(f"{name} {count / draws:.2f}" for name, count in alarms.items()),
    ]
