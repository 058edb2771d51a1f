"""`python -m dashboards`: writes the dashboards."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dashboards.generate import GENERATED, write
from deploy.alerting.load import load_objectives
from pipelines.core.errors import SettingsError

__all__ = ["main"]


def main() -> None:
    """Writes them, and says where."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboards", description="Write the Grafana dashboards as JSON."
    )
    parser.add_argument(
        "--output", type=Path, default=GENERATED, help="folder; default: dashboards/generated"
    )
    parser.add_argument(
        "--objectives",
        type=Path,
        help="the file that your alert rules are made from; default: the built-in objectives",
    )
    given = parser.parse_args()
    try:
        objectives = load_objectives(given.objectives)
    except SettingsError as error:
        parser.exit(2, f"{error}\n")
    for path in write(given.output, objectives):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
