"""All dashboards, and the files that they are written to."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.ingest import ingest_job
from dashboards.overview import overview
from dashboards.quality import quality
from dashboards.rollout import rollout
from dashboards.service_levels import service_levels
from deploy.alerting.objectives import Objectives

__all__ = ["GENERATED", "all_dashboards", "text_of", "write"]

GENERATED = Path(__file__).parent / "generated"
"""Where they are committed."""


def all_dashboards(objectives: Objectives | None = None) -> dict[str, Dashboard]:
    """Every dashboard by its uid.

    Parameters
    ----------
    objectives
        Default: those that the committed alert rules are made from.
    """
    given = objectives or Objectives()
    makers = (overview, ingest_job, quality, rollout, service_levels)
    return {str(made.uid): made for made in (maker(given) for maker in makers)}


def text_of(dashboard: Dashboard) -> str:
    """The file's content; the same code gives the same bytes."""
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(dashboard) + "\n"


def write(folder: Path, objectives: Objectives | None = None) -> list[Path]:
    """Writes one file a dashboard, and removes those of dashboards that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for uid, made in all_dashboards(objectives).items():
        path = folder / f"{uid}.json"
        path.write_text(text_of(made), encoding="utf-8")
        written.append(path)
    for path in set(folder.glob("plumbline-*.json")) - set(written):
        path.unlink()
    return written
