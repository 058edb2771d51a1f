"""What a run of chaos did, and what it led to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = [
    "CANDIDATE_CLOCK",
    "CLOCKS_SET",
    "DISK_FULL",
    "LIVE_CLOCK",
    "REFUSED",
    "WORKERS_KILLED",
    "WORKER_KILLED",
    "Report",
    "sorted_problems",
]

_KINDS: dict[str, tuple[str, ...]] = {
    "lost": ("nothing is stored", "not in the candidate", "there is no index", "no dead letter"),
    "resurrected": ("deleted is False", "stored, and no event", "only in the candidate"),
    "stale": ("position is", "newest event", "is left", "vector differs", "in live"),
    "orphan chunks": ("orphan chunks", "are left", "its head says", "foreign id"),
    "wrongly dead-lettered": ("good, and dead-lettered",),
}

CLOCKS_SET, DISK_FULL, WORKER_KILLED = "clocks set", "disk full", "worker killed"
LIVE_CLOCK = "times live's clock was wrong"
CANDIDATE_CLOCK = "times the candidate's clock was wrong"
REFUSED = "writes refused by a full disk"
WORKERS_KILLED = "workers found and killed"

_SIGHTS = {
    CLOCKS_SET: (LIVE_CLOCK, 2),
    DISK_FULL: (REFUSED, 1),
    WORKER_KILLED: (WORKERS_KILLED, 1),
}
"""What has to be seen of a harm that might do nothing, and how often at least for each."""


def sorted_problems(problems: list[str]) -> dict[str, int]:
    """How many of each kind, `other` for what has no name here."""
    found = dict.fromkeys([*_KINDS, "other"], 0)
    for problem in problems:
        kind = next(
            (name for name, words in _KINDS.items() if any(word in problem for word in words)),
            "other",
        )
        found[kind] += 1
    return found


@dataclass
class Report:
    """What was done and what it led to.

    Parameters
    ----------
    seed
        Of events and harms.
    harms, restarts
        By what was harmed, and by what was started again.
    seen
        What harms were seen to do where one might have done nothing: clocks that were wrong by the
        leases' records, writes that a full disk refused, workers that were there to be killed.
    left_out
        Harms that cannot be done here, and why.
    events, dead_letters, repeated_dead_letters
        Of the topic, of its hostile ones, and letters beyond the first of one.
    encoded, duplicates
        Encodings of a document's state in a version, and those beyond the first: what harm costs.
    problems
        Differences to a replay of the topic.
    seconds
        Of the whole run.
    """

    seed: int
    harms: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    events: int = 0
    dead_letters: int = 0
    repeated_dead_letters: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    encoded: int = 0
    duplicates: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def unseen(self) -> list[str]:
        """Harms that were done, of which nothing was seen though it can be."""
        return [
            f"{harm}: {self.harms[harm]} times, and {sight} {self.seen[sight]}"
            for harm, (sight, least) in _SIGHTS.items()
            if self.seen[sight] < least * self.harms[harm]
        ]

    def words(self) -> str:
        """For people."""
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.harms.items()))
        ends = ", ".join(f"{name} {count} times" for name, count in sorted(self.restarts.items()))
        seen = ", ".join(f"{name} {count}" for name, count in sorted(self.seen.items()))
        kinds = ", ".join(f"{name} {n}" for name, n in sorted_problems(self.problems).items())
        left_out = "".join(f"left out: {name}: {why}\n" for name, why in self.left_out.items())
        return (
            f"seed {self.seed}: {self.harms.total()} kills and other harms in {self.seconds:.0f} s "
            f"({counts}); started: {ends}\n"
            f"{left_out}seen of them: {seen}\n"
            f"events {self.events}, dead letters {self.dead_letters} "
            f"({self.repeated_dead_letters} of them again), states of documents embedded "
            f"{self.encoded - self.duplicates}, duplicates embedded {self.duplicates}\n{kinds}"
        )
