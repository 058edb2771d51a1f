"""What the monitor's probes are given when a check asks them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NoReturn

from monitors.probes.base import Deadline, ProbeContext
from pipelines.core.settings import Settings
from pipelines.rollout.verify.base import VerifyContext

__all__ = ["monitor_settings", "probe_context"]

_SECONDS = 1800.0


def monitor_settings(context: VerifyContext, probe: str, **changes: Any) -> Settings:
    """The settings with other ones for a probe."""
    monitor = context.settings.monitor
    section = getattr(monitor, probe).model_copy(update=changes)
    return context.settings.model_copy(
        update={"monitor": monitor.model_copy(update={probe: section})}
    )


def probe_context(context: VerifyContext, settings: Settings) -> ProbeContext:
    """A first run on the candidate, of which nothing is kept."""
    return ProbeContext(
        settings=settings,
        qdrant=context.qdrant,
        version=context.candidate,
        encoder=lambda: context.encoder(context.candidate),
        unchecked_encoder=lambda: context.unchecked_encoder(context.candidate),
        state=None,
        baseline=None,
        reference=lambda _kind: None,
        keep_reference=_keep,
        now=datetime.now(UTC),
        deadline=Deadline.after(_SECONDS),
        random=context.random,
        lag=context.lag,
    )


def _keep(*_: Any) -> NoReturn:
    raise NotImplementedError("a check keeps no reference")
