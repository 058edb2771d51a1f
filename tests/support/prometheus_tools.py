"""promtool, from the packages that install.py put there."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.processes import servers_dir

__all__ = ["INSTALL_HINT", "check_metrics", "prometheus_available"]

INSTALL_HINT = "Prometheus is not installed: python deploy/local/install.py prometheus"


def _promtool() -> Path:
    return servers_dir() / "prometheus" / "usr" / "bin" / "promtool"


def prometheus_available() -> bool:
    """Whether install.py has put it there."""
    return (servers_dir() / "prometheus" / "installed.json").exists() and _promtool().exists()


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
