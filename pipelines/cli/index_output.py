"""What `plumbline index` says of a purge and of an adoption."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.cli.output import print_table, say

if TYPE_CHECKING:
    from pipelines.core.adopt import AdoptReport, Verification
    from pipelines.core.purge import PurgeReport

__all__ = ["adoption_progress", "print_adoption", "print_purge"]


def print_purge(report: PurgeReport) -> None:
    """Every condition with its figure, and then what became of the tombstones."""
    print_table(
        ["condition", "found", "asked for", ""],
        [
            (one.name, one.figure, one.bound, "ok" if one.ok else "refuses")
            for one in report.conditions
        ],
    )
    for one in report.conditions:
        if not one.ok:
            say(f"{one.name}: {one.words}")
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


@contextmanager
def adoption_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A line on a terminal that says how far it is; nothing elsewhere."""
    watched = sys.stderr.isatty()

    def show(what: str, done: int, of: int) -> None:
        if watched:
            sys.stderr.write(f"\r\x1b[K{done:,} of {of:,} {what}")
            sys.stderr.flush()

    yield show
    if watched:
        sys.stderr.write("\r\x1b[K")


def print_adoption(report: AdoptReport) -> None:
    """What was found, whether it verifies, and what became of it."""
    if report.already:
        say(f"{report.source} is adopted already: {report.version}")
        return
    say(
        f"{report.source}: {report.points:,} points, {report.documents:,} documents of "
        f"{report.chunks:,} chunks"
    )
    if report.numbers_as_ids:
        say(f"{report.numbers_as_ids:,} ids were numbers, and are written as text")
    for name, count in report.dropped_metadata.items():
        say(f"metadata {name!r} differs between the chunks of {count:,} documents, and is not kept")
    if report.verification is not None:
        _print_verification(report.verification)
    if report.unmapped:
        print_table(
            ["left out", "how many", "examples", ""],
            [
                (reason, f"{listed.count:,}", ", ".join(listed.examples), listed.message)
                for reason, listed in report.unmapped.items()
            ],
            right=["how many"],
        )
    if report.refused:
        say(f"refused: {report.refused}. Nothing was written.")
    elif report.dry_run:
        say(f"would become {report.version}; without --dry-run it does")
    else:
        say(f"adopted: {report.version}, {report.copied:,} copied, {report.present:,} there before")
        if not report.live:
            say("the index's live version is still another one")


def _print_verification(found: Verification) -> None:
    if found.median is None:
        say("no document could be verified")
        return
    say(
        f"{found.sampled - found.off:,} of {found.sampled:,} documents encoded anew verify (of "
        f"{found.of:,}, seed {found.seed}): cosine distance median {found.median:.2g}, 90 % "
        f"{found.p90:.2g}, 99 % {found.p99:.2g}, largest {found.largest:.2g}; at most "
        f"{found.bound:g} is allowed"
    )
    for identity, distance in found.examples:
        say(f"  {identity}: {distance:.2g}")
