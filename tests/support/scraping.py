"""Samples of metrics that a running process serves."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["samples", "samples_of"]


def samples_of(page: str, name: str, **labels: str) -> list[float]:
    """Values of a metric's samples on a page that have these labels."""
    return [
        float(sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def samples(address: str, name: str, **labels: str) -> list[float]:
    """The same of the process that serves its metrics at `host:port`."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return samples_of(answer.read().decode(), name, **labels)
