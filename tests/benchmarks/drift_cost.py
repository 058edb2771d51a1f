"""What a drift test costs beside one MMD test done the usual way: time in one run, and memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from monitors.drift import two_sample_test
from tests.benchmarks.table import Table
from tests.support.processes import REPOSITORY

NEEDS: tuple[str, ...] = ()

_ROWS = 1000
_DIMENSION = 384
_PERMUTATIONS = 199
_ROUNDS = 9
_LARGE = 5000


def run() -> Table:
    """Time of both at n = 1,000, in turns, and the peak memory of ours at 5,000 by 5,000."""
    random = np.random.default_rng(0)
    reference, current = _sample(random, _ROWS), _sample(random, _ROWS)
    methods: dict[str, Callable[[], object]] = {
        "precomputed kernel, permutations by indexing": lambda: _indexing(reference, current),
        "precomputed kernel, permutations as products": lambda: _products(reference, current),
        "two_sample_test, all its statistics": lambda: two_sample_test(
            reference, current, permutations=_PERMUTATIONS, random=np.random.default_rng(1)
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(_ROUNDS):
        for name, method in methods.items():
            started = time.process_time()
            method()
            times[name].append(time.process_time() - started)
    indexing, products, _ = (median(taken) for taken in times.values())
    table = Table(
        f"Cost of a drift test: {_ROWS} by {_ROWS}, {_DIMENSION} components, "
        f"{_PERMUTATIONS} permutations",
        ["method", "CPU seconds", "of indexing", "of products"],
    )
    for name, taken in times.items():
        spent = median(taken)
        shares = [f"{spent / usual:.2f}" for usual in (indexing, products)]
        table.rows.append([name, f"{spent:.3f}", *shares])
    table.notes.append(f"Medians of {_ROUNDS} rounds in turns; processor time of the process.")
    table.notes.append(
        "Both others have one float32 Gaussian kernel matrix (median heuristic) and MMD² alone: "
        "each permutation indexes the matrix and sums, or all are one product."
    )
    table.notes.append(
        f"{_LARGE} by {_LARGE}: peak memory of a process that does nothing else "
        f"{_peak_mebibytes():.0f} MiB."
    )
    return table


def _sample(random: np.random.Generator, rows: int) -> np.ndarray:
    vectors = random.normal(size=(rows, _DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _kernel(pooled: np.ndarray) -> np.ndarray:
    squared = np.einsum("ij,ij->i", pooled, pooled)
    distances = squared[:, None] + squared[None, :] - 2 * (pooled @ pooled.T)
    return np.exp(-distances / np.median(distances)).astype(np.float32)


def _indexing(reference: np.ndarray, current: np.ndarray) -> float:
    """MMD as libraries test it: for each permutation the matrix is reordered and summed."""
    random = np.random.default_rng(1)
    pooled = np.concatenate([reference, current])
    rows, first = len(pooled), len(reference)
    kernel = _kernel(pooled)
    np.fill_diagonal(kernel, 0.0)

    def statistic(order: np.ndarray) -> float:
        shuffled = kernel[order][:, order]
        return float(
            shuffled[:first, :first].sum() / (first * (first - 1))
            + shuffled[first:, first:].sum() / ((rows - first) * (rows - first - 1))
            - 2 * shuffled[:first, first:].mean()
        )

    observed = statistic(np.arange(rows))
    permuted = [statistic(random.permutation(rows)) for _ in range(_PERMUTATIONS)]
    return (1 + sum(value >= observed for value in permuted)) / (1 + _PERMUTATIONS)


def _products(reference: np.ndarray, current: np.ndarray) -> float:
    """The same with all permutations in one matrix product; the statistic alone."""
    random = np.random.default_rng(1)
    pooled = np.concatenate([reference, current])
    kernel = _kernel(pooled)
    weights = np.repeat(
        [-1 / len(reference), 1 / len(current)], [len(reference), len(current)]
    ).astype(np.float32)
    table = np.stack([weights, *(random.permutation(weights) for _ in range(_PERMUTATIONS))], 1)
    values = np.einsum("ij,ij->j", table, kernel @ table)
    return float((1 + (values[1:] >= values[0]).sum()) / (1 + _PERMUTATIONS))


def _peak_mebibytes() -> float:
    """Resident peak of a fresh process that tests 5,000 by 5,000 rows."""
    code = "from tests.benchmarks.drift_cost import large_test; large_test()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def large_test() -> None:
    """Runs the test once and prints the peak of this process in MiB."""
    random = np.random.default_rng(0)
    two_sample_test(_sample(random, _LARGE), _sample(random, _LARGE), random=random)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
