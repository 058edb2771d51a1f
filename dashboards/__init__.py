"""Grafana dashboards as code, from the metrics that the jobs and the monitor export.

`python -m dashboards` writes them to `dashboards/generated/`, one file a dashboard, to be imported
or provisioned.
"""

from __future__ import annotations

from dashboards.common import LINKED
from dashboards.generate import GENERATED, all_dashboards, text_of

__all__ = ["GENERATED", "LINKED", "all_dashboards", "text_of"]
