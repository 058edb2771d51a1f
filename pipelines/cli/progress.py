"""The live line of a job on a terminal; elsewhere the log's own lines do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

__all__ = ["Progress", "show_progress"]

_REFRESH_SECONDS = 0.5
_RATE_SECONDS = 10.0


class Progress:
    """Counts of the running job, polled from its account and metrics.

    Parameters
    ----------
    live
        rich's display, or `None` where nobody watches.
    """

    def __init__(self, live: Any = None) -> None:
        self._live = live
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._version = ""

    def start(self, version: str) -> None:
        """The job is about to read: from here on the line moves."""
        if self._live is None or self._thread is not None:
            return
        self._version = version
        self._thread = threading.Thread(target=self._poll, name="plumbline-progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The last line stays."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _poll(self) -> None:
        from pipelines.core.accounting import ACCOUNT

        at_start = ACCOUNT.counts()
        seen = [(time.monotonic(), 0)]
        last = False
        while not last:
            last = self._done.wait(_REFRESH_SECONDS)
            counts = ACCOUNT.counts()
            now, consumed = time.monotonic(), counts.consumed - at_start.consumed
            seen.append((now, consumed))
            while len(seen) > 2 and now - seen[0][0] > _RATE_SECONDS:
                seen.pop(0)
            span = now - seen[0][0]
            rate = (consumed - seen[0][1]) / span if span > 0 else 0.0
            settled = {
                name: count - at_start.outcomes.get(name, 0)
                for name, count in counts.outcomes.items()
            }
            self._live.update(_line(self._version, consumed, settled, rate, consumer_lag()))


def consumer_lag() -> int | None:
    """Records between what was read and the ends of the partitions; `None` before any is known."""
    from pipelines.core.metrics import job_metrics

    samples = [
        sample.value
        for family in job_metrics().lag.collect()
        for sample in family.samples
        if sample.name == "plumbline_consumer_lag_records"
    ]
    return int(sum(samples)) if samples else None


def _line(
    version: str, consumed: int, outcomes: dict[str, int], rate: float, lag: int | None
) -> Any:
    from rich.spinner import Spinner
    from rich.text import Text

    text = Text.assemble((version, "dim"), "  ", (f"{consumed:,} consumed", "bold"))
    for name, count in outcomes.items():
        if count:
            style = "red" if name == "dead_lettered" else ""
            text.append(f" · {count:,} {name.replace('_', '-')}", style)
    text.append(f" · {rate:,.0f}/s", "cyan")
    if lag is not None:
        text.append(f" · lag {lag:,}", "cyan")
    return Spinner("dots", text)


@contextmanager
def show_progress(stream: TextIO) -> Iterator[Progress]:
    """Progress on the stream while the block runs; silent unless it is a terminal.

    What is logged meanwhile appears above the line.
    """
    if not stream.isatty():
        yield Progress()
        return
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner

    # Standard output is the answer's (`--json`): it is not touched.
    live = Live(
        Spinner("dots", "checking broker, store and model"),
        console=Console(file=stream, highlight=False),
        refresh_per_second=8,
        redirect_stdout=False,
        redirect_stderr=True,
    )
    progress = Progress(live)
    with live:
        try:
            yield progress
        finally:
            progress.stop()
