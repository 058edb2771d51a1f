"""Parts of PromQL that several rules need.

What a monitor exports, each of its replicas does: the one that leads and, from the shared store,
those that stand by. What a job exports goes back to zero with its process. A target that cannot be
scraped once has no series at that moment.
"""

from __future__ import annotations

from deploy.alerting.durations import format_duration
from deploy.alerting.objectives import Objectives

__all__ = ["current", "grown", "live", "of_live_jobs", "window"]


def window(seconds: float, objectives: Objectives) -> str:
    """As a range selector has it."""
    return f"[{format_duration(objectives.window(seconds))}]"


def current(metric: str, *labels: str, objectives: Objectives) -> str:
    """A gauge of the monitor's, one series whatever the number of replicas.

    A replica whose store does not answer still says what it read last, so the others are asked
    first. Where none can be scraped, the last word counts for `monitor_hold`.
    """
    by = ", ".join(("index", *labels))
    hold = window(objectives.monitor_hold, objectives)
    return (
        f"(\n"
        f"  max by ({by}) (\n"
        f"    {metric} unless on (instance, index) plumbline_monitor_store_up == 0\n"
        f"  )\n"
        f"  or\n"
        f"  max by ({by}) (last_over_time({metric}{hold}))\n"
        f")"
    )


def live(expression: str) -> str:
    """Only what is said of the version that is searched."""
    return f"{expression}\nand on (index, version) plumbline:live_version"


def of_live_jobs(expression: str) -> str:
    """Without jobs that write a version which nobody searches.

    A candidate's job reads the same events once more, and late: it catches up.
    """
    return f"{expression}\n  unless on (job, instance) plumbline:other_job"


def grown(counter: str, seconds: float, objectives: Objectives, *, by: str = "index") -> str:
    """How much a counter of live's job has grown within a window.

    A series with labels begins with its first event, where a rate sees no growth: what has come
    within the window and was not there for an hour before it counts whole. A hole in the scrapes
    is none, neither is a process that begins at zero again, nor a Prometheus that has just begun
    to look.
    """
    span = format_duration(objectives.window(seconds))
    return (
        f"sum by ({by}) (\n"
        f"  (\n"
        f"    (\n"
        f"      last_over_time({counter}[{span}])\n"
        f"      unless last_over_time({counter}[1h] offset {span})\n"
        f"      and on () last_over_time(up[1h] offset {span})\n"
        f"    )\n"
        f"    or increase({counter}[{span}])\n"
        f"  )\n"
        f"  unless on (job, instance) plumbline:other_job\n"
        f")"
    )
