"""promtool, from the packages that install.py put there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.processes import servers_dir, stamped

__all__ = ["INSTALL_HINT", "check_files", "check_metrics", "check_queries", "prometheus_available"]

INSTALL_HINT = "Prometheus is not installed: python deploy/local/install.py prometheus"


def _promtool() -> Path:
    return servers_dir() / "prometheus" / "usr" / "bin" / "promtool"


def prometheus_available() -> bool:
    """Whether install.py has put it there."""
    return stamped("prometheus") and _promtool().exists()


def check_metrics(exposition: str) -> list[str]:
    """What `promtool check metrics` has to say; nothing is good."""
    done = subprocess.run(
        [str(_promtool()), "check", "metrics"],
        input=exposition,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode and not lines:
        lines.append(f"promtool ended with {done.returncode}")
    return lines


def check_files(folder: Path) -> str:
    """What promtool says of `prometheus.yml` and the rule files beside it; nothing is good."""
    rules = sorted(str(path) for path in folder.glob("*.*.yml"))
    found = []
    for arguments in (["rules", *rules], ["config", str(folder / "prometheus.yml")]):
        done = subprocess.run(
            [str(_promtool()), "check", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            found.append(done.stdout + done.stderr)
    return "\n".join(found)


def check_queries(
    folder: Path,
    series: Mapping[str, float],
    queries: Mapping[str, Sequence[tuple[str, float]]],
) -> str:
    """What `promtool test rules` objects to; empty where every query gives what is expected.

    Parameters
    ----------
    series
        Selector to its value, constant over time.
    queries
        Expression to the samples it must give: labels as a selector, and the value.
    """
    tests: dict[str, Any] = {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": f"{value:g}x5"} for name, value in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": "3m",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in samples],
            }
            for expression, samples in queries.items()
        ],
    }
    # JSON is YAML.
    file = folder / "queries.json"
    file.write_text(json.dumps({"tests": [tests]}), encoding="utf-8")
    done = subprocess.run(
        [str(_promtool()), "test", "rules", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
