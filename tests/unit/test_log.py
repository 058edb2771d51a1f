"""Where logs go, and what becomes of them when they cannot go there."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import structlog

from pipelines.core.log import configure_logging


def test_a_full_disk_for_the_log_stops_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that cannot be written raises nothing where it is logged; later ones are written."""
    configure_logging(style="json")
    # A device on which every write fails for want of space.
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - its end fails as well
    monkeypatch.setattr("sys.stderr", full)
    structlog.get_logger().warning("lost")
    logging.getLogger("somebody").warning("lost as well")
    with pytest.raises(OSError, match="No space left"):
        full.close()
    with (tmp_path / "log").open("w+", buffering=1) as log:
        monkeypatch.setattr("sys.stderr", log)
        structlog.get_logger().warning("kept")
        log.seek(0)
        assert json.loads(log.readline())["event"] == "kept"
