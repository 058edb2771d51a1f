"""Prometheus's own configuration: what is scraped, which rules, and where alerts go."""

from __future__ import annotations

from typing import Any

from deploy.alerting.durations import format_duration
from deploy.alerting.objectives import Objectives

__all__ = ["RULE_FILES", "prometheus_config"]

RULE_FILES = ("plumbline.rules.yml", "plumbline.alerts.yml")


def prometheus_config(objectives: Objectives) -> dict[str, Any]:
    """The whole file.

    Jobs of ingest and backfill export no index of their own, so the target says which; the monitor
    exports it itself.
    """
    scraping, jobs = objectives.scraping, objectives.scraping.jobs
    return {
        "global": {
            "scrape_interval": format_duration(scraping.scrape_interval),
            "scrape_timeout": format_duration(min(10.0, scraping.scrape_interval)),
            "evaluation_interval": format_duration(scraping.evaluation_interval),
        },
        "rule_files": list(RULE_FILES),
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": list(scraping.alertmanagers)}]}]
        },
        "scrape_configs": [
            {
                "job_name": jobs.ingest,
                "static_configs": [
                    {"targets": list(one.ingest), "labels": {"index": one.index}}
                    for one in scraping.indexes
                    if one.ingest
                ],
            },
            {
                "job_name": jobs.backfill,
                "static_configs": [
                    {"targets": list(one.backfill), "labels": {"index": one.index}}
                    for one in scraping.indexes
                    if one.backfill
                ],
            },
            {
                "job_name": jobs.monitor,
                "static_configs": [{"targets": list(scraping.monitors)}],
            },
        ],
    }
