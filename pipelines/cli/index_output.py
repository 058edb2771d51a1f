"""What `plumbline index` says of a purge and of an adoption."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.cli.output import print_table, say

if TYPE_CHECKING:
    from pipelines.core.purge import PurgeReport

__all__ = ["print_purge"]


def print_purge(report: PurgeReport) -> None:
    """Every condition with its figure, and then what became of the tombstones."""
    print_table(
        ["condition", "found", "asked for", ""],
        [
            (one.name, one.figure, one.bound, "ok" if one.ok else f"refuses: {one.words}")
            for one in report.conditions
        ],
    )
    if report.refused:
        say(f"{report.version}: {report.tombstones:,} tombstones, none purged")
        return
    before = datetime.fromtimestamp(report.deleted_before / 1000, UTC).isoformat(timespec="minutes")
    held = ", ".join(
        f"{count:,} {reason.replace('_', ' ')}" for reason, count in report.held.items()
    )
    done = (
        f"{report.eligible:,} would be purged"
        if report.dry_run
        else f"{report.purged:,} purged, {report.came_back:,} came back meanwhile"
    )
    say(
        f"{report.version}: {report.tombstones:,} tombstones; deleted before {before}: {done}; "
        f"{held + ' stay' if held else 'none else'}"
    )
