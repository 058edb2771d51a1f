"""python -m deploy.alerting [--objectives my.yaml] [--out folder]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.alerting.generate import write
from deploy.alerting.load import load_objectives
from pipelines.core.errors import ExitCode, SettingsError

_DEPLOY = Path(__file__).resolve().parents[1]


def main() -> int:
    """Writes the files; 2 where the objectives are not valid."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.alerting",
        description="Write the rules of Prometheus and the configuration of Alertmanager.",
    )
    parser.add_argument(
        "--objectives", type=Path, metavar="FILE", help="YAML; what it leaves out is the default"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", default=_DEPLOY, help="default: deploy/"
    )
    given = parser.parse_args()
    try:
        for path in write(load_objectives(given.objectives), given.out):
            print(path)  # noqa: T201 - a script
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return ExitCode.USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
