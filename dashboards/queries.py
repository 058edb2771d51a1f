"""Parts of PromQL that the panels share.

`$index` is one index, `$version` a choice of its versions, all of them at first; the other
variables hold the values of the label `job`. What the monitor says is said by each of its replicas
in the same words, so queries take the greatest of equal values. What processes of the ingest job
count is added up, without those that write a version which nobody searches.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BACKFILL",
    "INGEST",
    "MONITOR",
    "Query",
    "counted",
    "grown",
    "ingest",
    "latest",
    "live",
    "newest",
    "of_index",
    "quantile",
    "rate",
    "select",
]

INGEST, MONITOR, BACKFILL = "$ingest_job", "$monitor_job", "$backfill_job"
"""Variables that hold values of the label `job`."""


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Parameters
    ----------
    expression
        PromQL, with variables of the dashboard.
    legend
        Names a series; `{{label}}` stands for a label's value. Tables need none.
    """

    expression: str
    legend: str = ""


def select(metric: str, **labels: str) -> str:
    """A selector: a value is matched exactly, one that begins with `~` or `!` by that operator.

    >>> select("up", job="a", index="!b", version="~c|d")
    'up{job="a", index!="b", version=~"c|d"}'
    """
    matchers = []
    for name, value in labels.items():
        operator = {"~": "=~", "!": "!="}.get(value[:1], "=")
        matchers.append(f'{name}{operator}"{value if operator == "=" else value[1:]}"')
    return f"{metric}{{{', '.join(matchers)}}}"


def of_index(metric: str, *by: str, **labels: str) -> str:
    """A gauge of the monitor's about the index: one series for each value of `by`."""
    return f"max by ({_listed('index', *by)}) ({select(metric, index='$index', **labels)})"


def newest(metric: str, *by: str, **labels: str) -> str:
    """A gauge of the monitor's about the chosen versions: one series a version and `by`."""
    return of_index(metric, "version", *by, version="~$version", **labels)


def latest(metric: str, *by: str) -> str:
    """The last value in the time shown, of a figure that not every run of its probe gives."""
    selector = select(metric, index="$index", version="~$version")
    return f"max by ({_listed('index', 'version', *by)}) (last_over_time({selector}[$__range]))"


def live(metric: str, *by: str, **labels: str) -> str:
    """A gauge of the monitor's about the version that is searched."""
    return (
        f"{of_index(metric, 'version', *by, **labels)}\n"
        f"and on (index, version) {select('plumbline:live_version', index='$index')}"
    )


def counted(metric: str, *by: str, window: str) -> str:
    """How often a counter of the monitor's, which counts in its store, has counted in a window."""
    selector = select(metric, index="$index")
    return f"round(max by ({_listed('index', *by)}) (increase({selector}[{window}])))"


def ingest(how: str, metric: str, *by: str, **labels: str) -> str:
    """A gauge of the ingest job that writes the live version, aggregated by `sum` or `max`."""
    selector = select(metric, job=INGEST, index="$index", **labels)
    return f"{how} by ({_listed('index', *by)}) ({_of_live(selector)})"


def rate(metric: str, *by: str, job: str = INGEST, **labels: str) -> str:
    """What a counter grows by in a second, added up over processes."""
    grows = f"rate({select(metric, job=job, index='$index', **labels)}[$__rate_interval])"
    inner = _of_live(grows) if job == INGEST else grows
    return f"sum by ({_listed('index', *by)}) ({inner})"


def grown(metric: str, *by: str, window: str) -> str:
    """How much a counter of the ingest job has grown in a window.

    A series with labels begins with its first event, where an increase sees none: what was not
    there in the hour before the window counts whole. Nothing at all counts as 0.
    """
    counter = select(metric, job=INGEST, index="$index")
    began = (
        f"last_over_time({counter}[{window}])\n"
        f"  unless last_over_time({counter}[1h] offset {window})"
    )
    every = ingest("sum", "plumbline_tokens_total")
    return (
        f"sum by ({_listed('index', *by)}) (\n"
        f"  (({began})\n"
        f"  or increase({counter}[{window}]))\n"
        f"  unless on (job, instance) plumbline:other_job\n"
        f")\n"
        f"or 0 * {every}"
    )


def quantile(share: float, metric: str) -> str:
    """A quantile of a histogram of the ingest job's."""
    return f"histogram_quantile({share:g}, {rate(f'{metric}_bucket', 'le')})"


def _of_live(expression: str) -> str:
    return f"{expression} unless on (job, instance) plumbline:other_job"


def _listed(*labels: str) -> str:
    return ", ".join(labels)
