"""Which alert speaks for which others of the same index, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["INHIBITIONS", "Inhibition"]


@dataclass(frozen=True)
class Inhibition:
    """While `source` fires, the targets of the same index are not told.

    Parameters
    ----------
    source, targets
        Names of alerts; with further matchers behind a space, `Name label=value`.
    why
        A sentence, for the generated file and the docs.
    equal
        Labels that must agree.
    """

    source: str
    targets: Sequence[str]
    why: str
    equal: Sequence[str] = ("index",)


_BURNING_FRESHNESS = ("PlumblineFreshnessBudgetBurnFast", "PlumblineFreshnessBudgetBurnSlow")
_BURNING_RECALL = ("PlumblineRecallBudgetBurnFast", "PlumblineRecallBudgetBurnSlow")

INHIBITIONS: tuple[Inhibition, ...] = (
    Inhibition(
        "PlumblineCanaryMismatch",
        (
            "PlumblineFidelityBroken",
            "PlumblineGoldenRecallLost",
            *_BURNING_RECALL,
            "PlumblineDrift",
            "PlumblineQueryDrift",
        ),
        "An encoder that gives other vectors makes documents unlike their texts, loses recall and "
        "moves the distribution: they are mended with it.",
    ),
    Inhibition(
        "PlumblineCanaryMismatch encoder=worker",
        ("PlumblineIngestDown", "PlumblineIngestStalled", *_BURNING_FRESHNESS),
        "A worker that does not reproduce the canaries refuses to write and ends its job, as it "
        "should: to start it again without mending the encoder would be wrong.",
    ),
    Inhibition(
        "PlumblineFidelityBroken",
        ("PlumblineGoldenRecallLost", *_BURNING_RECALL, "PlumblineDrift"),
        "Vectors that are not those of their texts are not found, and are unlike the reference.",
    ),
    Inhibition(
        "PlumblineBrokerSilent",
        (
            "PlumblineIngestDown",
            "PlumblineIngestStalled",
            *_BURNING_FRESHNESS,
            "PlumblineCommitFailing",
        ),
        "Without Kafka nothing is read or committed, and after its patience the job ends.",
    ),
    Inhibition(
        "PlumblineBrokerSilent",
        ("PlumblineProbeFailing probe=freshness", "PlumblineProbeSilent probe=freshness"),
        "The freshness probe asks Kafka.",
    ),
    Inhibition(
        "PlumblineIngestDown",
        ("PlumblineIngestStalled", *_BURNING_FRESHNESS),
        "Where no job runs, events wait and come late.",
    ),
    Inhibition(
        "PlumblineIngestStalled",
        _BURNING_FRESHNESS,
        "Where nothing is committed, events come late.",
    ),
    Inhibition(
        "PlumblineQdrantUnreachable",
        (
            "PlumblineProbeFailing",
            "PlumblineProbeSilent",
            "PlumblineMonitorNoLeader",
            "PlumblineVersionUnreadable",
            "PlumblineIngestDown",
            "PlumblineIngestStalled",
            *_BURNING_FRESHNESS,
            *_BURNING_RECALL,
        ),
        "Every probe asks Qdrant, the monitor's lease lies there, and the job writes there.",
    ),
    Inhibition(
        "PlumblineVersionUnreadable",
        ("PlumblineProbeFailing", "PlumblineProbeSilent"),
        "No probe can look at a version that cannot be opened.",
    ),
    Inhibition(
        "PlumblineVersionUnreadable",
        ("PlumblineAliasMoved",),
        "An alias that is gone, or leads to no version, is not where the rollout left it either.",
    ),
    Inhibition(
        "PlumblineMonitorDown",
        (
            "PlumblineMonitorNoLeader",
            "PlumblineMonitorStoreDown",
            "PlumblineProbeSilent",
            "PlumblineProbeFailing",
        ),
        "What no process exports cannot be fresher than its last word.",
    ),
    Inhibition(
        "PlumblineMonitorStoreDown",
        ("PlumblineMonitorNoLeader", "PlumblineProbeSilent", "PlumblineProbeFailing"),
        "Without its store a monitor cannot lead, nor keep what a probe found.",
    ),
    Inhibition(
        "PlumblineMonitorNoLeader",
        ("PlumblineProbeSilent", "PlumblineProbeFailing"),
        "The one that leads runs the probes.",
    ),
    Inhibition(
        "PlumblineProbeSilent",
        ("PlumblineProbeFailing",),
        "A probe that does not run has not completed either.",
        ("index", "version", "probe"),
    ),
    Inhibition(
        "PlumblineFreshnessBudgetBurnFast",
        ("PlumblineFreshnessBudgetBurnSlow",),
        "One burn, told once.",
    ),
    Inhibition(
        "PlumblineRecallBudgetBurnFast",
        ("PlumblineRecallBudgetBurnSlow",),
        "One burn, told once.",
    ),
)
