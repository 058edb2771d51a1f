"""`python -m deploy.kubernetes`: writes what is generated; `--objectives` takes your own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.alerting.generate import check
from deploy.alerting.load import load_objectives
from deploy.kubernetes.generate import GENERATED, generated


def main() -> int:
    """Writes the PrometheusRule."""
    parser = argparse.ArgumentParser(prog="python -m deploy.kubernetes", description=__doc__)
    parser.add_argument("--objectives", type=Path, help="YAML file of your own objectives.")
    parser.add_argument("--out", type=Path, default=GENERATED)
    given = parser.parse_args()
    objectives = load_objectives(given.objectives)
    check(objectives)
    given.out.write_text(generated(objectives), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
