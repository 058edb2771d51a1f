"""Runs benchmarks by their names; without names, all that are not asked for by name only."""

from __future__ import annotations

import importlib
import sys
import time

from tests.benchmarks.bench import quiet
from tests.benchmarks.table import machine
from tests.support.corpora import missing

NAMES = (
    "throughput",
    "redelivery",
    "backfill",
    "conditional",
    "memory",
    "scaling",
    "chunking",
    "drift_cost",
    "drift_table",
    "gate_quality",
    "golden_latency",
    "gpu",
    "auto_rollback",
)


def main(names: list[str]) -> int:
    """Prints a table for each; 2 for a name that there is not."""
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    quiet()
    print(f"Machine: {machine()}\n", flush=True)
    for name in names or NAMES:
        module = importlib.import_module(f"tests.benchmarks.{name}")
        if not names and getattr(module, "BY_NAME_ONLY", False):
            continue
        reason = missing(*module.NEEDS)
        if reason is not None:
            print(f"{name}: skipped, {reason}\n", flush=True)
            continue
        started = time.perf_counter()
        print(f"{module.run()}\n  ({name}: {time.perf_counter() - started:.0f} s)\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
