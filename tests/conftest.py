"""What all tests share: markers, and the servers of a session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.kafka_server import INSTALL_HINT, KafkaServer, kafka_available

ACCEPTANCE = os.environ.get("PLUMBLINE_TEST_ACCEPTANCE", "") not in ("", "0")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "acceptance: runs a short seed by default and a long one with PLUMBLINE_TEST_ACCEPTANCE=1",
    )
    config.addinivalue_line(
        "markers", "alone: measures time, so that no other test may run beside it"
    )


def require(available: bool, hint: str) -> None:
    """Skip where a server is not installed; in CI that is a failure, not a choice."""
    if available:
        return
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(hint)
    pytest.skip(hint)


@pytest.fixture(scope="session")
def acceptance() -> bool:
    """Whether the long seeds run."""
    return ACCEPTANCE


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer]:
    """One broker for the session: every test has topics of its own, and none stops it."""
    require(kafka_available(), INSTALL_HINT)
    with KafkaServer() as server:
        yield server


@pytest.fixture(scope="session")
def require_flink() -> None:
    """Skips, or in CI fails, where Flink is not installed."""
    from tests.support.flink_server import INSTALL_HINT as HINT
    from tests.support.flink_server import flink_available

    require(flink_available(), HINT)
