"""Parts of the templates in alerts' words."""

from __future__ import annotations

__all__ = ["figure", "reason"]


_FORMS = {
    "number": 'printf "%.3g"',
    "count": 'printf "%.0f"',
    "share": "humanizePercentage",
    "time": "humanizeDuration",
}


def figure(
    metric: str,
    form: str = "number",
    *,
    of: str = "index,version",
    within: str = "",
    **labels: str,
) -> str:
    """The greatest value of a metric for the alert's index and version, as text.

    Parameters
    ----------
    form
        `number`, `count`, `share` or `time`.
    of
        Labels of the alert that select.
    within
        The newest value of so long a time, for figures that not every run gives.
    labels
        Further matchers.
    """
    names = of.split(",")
    matchers = [f"{name}=%q" for name in names]
    matchers += [f"{name}='{value}'" for name, value in labels.items()]
    given = " ".join(f"$labels.{name}" for name in names)
    selector = f"{metric}{{{','.join(matchers)}}}"
    if within:
        selector = f"last_over_time({selector}[{within}])"
    question = f'printf "max({selector})" {given}'
    return (
        f"{{{{ with {question} | query }}}}{{{{ . | first | value | {_FORMS[form]} }}}}"
        "{{ else }}not known{{ end }}"
    )


def reason(probe: str) -> str:
    """The reason that a probe gives for its last answer, of docs/metrics.md."""
    selector = f"plumbline_probe_reason{{index=%q,version=%q,probe='{probe}'}}"
    question = f'printf "count by (reason) ({selector})" $labels.index $labels.version'
    return (
        f"{{{{ range $n, $one := {question} | query }}}}{{{{ if $n }}}}, {{{{ end }}}}"
        "{{ $one.Labels.reason }}{{ end }}"
    )
