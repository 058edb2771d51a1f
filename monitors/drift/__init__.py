"""Drift: has the distribution of vectors changed, how much, since when, and in what?

`two_sample_test` compares two samples and gives one calibrated p-value; `SequentialControl` turns
the results of many windows into alarms at a chosen rate; `explain` says what changed.
"""

from monitors.drift.base import DriftTest, SampleError
from monitors.drift.combined import two_sample_test
from monitors.drift.control import Decision, SequentialControl
from monitors.drift.explain import Explanation, explain

__all__ = [
    "Decision",
    "DriftTest",
    "Explanation",
    "SampleError",
    "SequentialControl",
    "explain",
    "two_sample_test",
]
