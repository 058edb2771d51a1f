"""Parts of the templates in alerts' words."""

from __future__ import annotations

__all__ = ["figure", "reason", "version"]


def figure(metric: str, form: str = "humanize", *, of: str = "index,version", **labels: str) -> str:
    """The greatest value of a metric for the alert's index and version, as text.

    Parameters
    ----------
    form
        A function of Prometheus's templates: `humanize`, `humanizePercentage`, …
    of
        Labels of the alert that select.
    labels
        Further matchers.
    """
    names = of.split(",")
    matchers = [f"{name}=%q" for name in names]
    matchers += [f"{name}='{value}'" for name, value in labels.items()]
    given = " ".join(f"$labels.{name}" for name in names)
    question = f'printf "max({metric}{{{",".join(matchers)}}})" {given}'
    return (
        f"{{{{ with {question} | query }}}}{{{{ . | first | value | {form} }}}}"
        "{{ else }}an unknown share{{ end }}"
        if form == "humanizePercentage"
        else f"{{{{ with {question} | query }}}}{{{{ . | first | value | {form} }}}}"
        "{{ else }}unknown{{ end }}"
    )


def reason(probe: str) -> str:
    """The reason that a probe gives for its last answer, of docs/metrics.md."""
    selector = f"plumbline_probe_reason{{index=%q,version=%q,probe='{probe}'}}"
    question = f'printf "count by (reason) ({selector})" $labels.index $labels.version'
    return (
        f"{{{{ range $n, $one := {question} | query }}}}{{{{ if $n }}}}, {{{{ end }}}}"
        "{{ $one.Labels.reason }}{{ end }}"
    )


def version() -> str:
    """The alert's version."""
    return "{{ $labels.version }}"
