"""What the golden probe exports, and every reason it may give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monitors.golden.baseline import DocumentState
from monitors.golden.golden_set import GoldenSet
from monitors.golden.measures import score
from monitors.golden.observe import Observation
from monitors.probes.base import Figure, FigureFamily

__all__ = ["FAMILIES", "LOSS", "OVERLAP", "REASONS", "counts", "measured", "scored"]


def _measure(name: str, help_text: str) -> FigureFamily:
    return FigureFamily(
        f"plumbline_golden_{name}_ratio", help_text, ("k", "documents"), unit="ratio"
    )


_OVER = (
    " documents: all, as users have it, or baseline, over those that existed at the baseline and "
    "were not deleted since."
)
RECALL = _measure("recall", f"Recall at k of the golden queries;{_OVER}")
NDCG = _measure("ndcg", f"nDCG at k of the golden queries;{_OVER}")
MRR = _measure("mrr", f"Mean reciprocal rank at k of the golden queries;{_OVER}")
LOSS = FigureFamily(
    "plumbline_golden_recall_loss_ratio",
    "Recall at the first k lost since the baseline, over the same documents; below 0 for a gain.",
    unit="ratio",
)
OVERLAP = FigureFamily(
    "plumbline_golden_rank_biased_overlap_ratio",
    "Rank-biased overlap with the baseline's rankings, over the same documents.",
    unit="ratio",
)
QUERIES = FigureFamily(
    "plumbline_golden_queries", "Golden queries that are scored.", unit="queries"
)
JUDGED = FigureFamily(
    "plumbline_golden_judged_documents",
    "Judged documents: present, deleted (there is a tombstone), or gone without one.",
    ("state",),
    "documents",
)

FAMILIES = (RECALL, NDCG, MRR, LOSS, OVERLAP, QUERIES, JUDGED)

REASONS: Mapping[str, str] = {
    "unchanged": "The judged documents are found as at the baseline.",
    "no_golden_file": "No golden set is set up: write one and set monitor.golden.file.",
    "no_judgements": (
        "No query of the golden set has a relevant document. Judge some; "
        "`plumbline golden check` shows which are unjudged."
    ),
    "index_empty": "The version holds no vectors yet: there is nothing to search.",
    "few_documents": (
        "The version holds fewer than half of the judged documents, so that scores would say "
        "more of the golden set than of the search. Finish ingesting, or mend the golden set."
    ),
    "few_documents_left": (
        "More than half of the judged documents have been deleted since the baseline. Judge "
        "documents that are there now."
    ),
    "baseline_taken": (
        "The first run of this version, or the first after a reset: later ones are compared with "
        "it."
    ),
    "golden_set_changed": (
        "Queries or judgements have changed: this run is the new baseline, and nothing was "
        "compared with the old one."
    ),
    "settings_changed": (
        "monitor.golden.k reaches deeper than the baseline does: this run is the new one."
    ),
    "recall_lost": (
        "Judged documents are no longer found, proven by the paired test against the "
        "baseline. See which queries lost most, and what the canary, fidelity and ann probes "
        "say."
    ),
    "documents_lost": (
        "So many judged documents are gone from the version without having been deleted that it "
        "is above the least effect. Look at integrity, and at who writes to the collection; "
        "re-publish what is missing. `plumbline monitor reset golden` takes back a loss that is "
        "accepted."
    ),
    "recall_declining": (
        "Recall stays below the baseline by more than the least effect, run after run, though "
        "no single run proves it."
    ),
    "recall_suspect": (
        "Recall is below the baseline by more than the least effect, and chance is not yet "
        "ruled out."
    ),
    "judged_documents_missing": (
        "A few judged documents are gone from the version without having been deleted, below "
        "the least effect. Look at integrity; re-publish what is missing."
    ),
    "scores_changed": (
        "The first hits score lower than at the baseline, and are still the right ones: "
        "something about the query encoder or the stored vectors has changed."
    ),
}


def scored(golden: GoldenSet, observed: Observation, depths: Sequence[int]) -> list[Figure]:
    """Measures of the rankings as users get them."""
    scores = score(golden.qrels, observed.served, depths)
    return [figure for k in depths for figure in measured(scores.means(k), k, "all")]


def measured(means: Mapping[str, float], k: int, documents: str) -> list[Figure]:
    """Means of the measures at one depth, over `all` documents or the `baseline`'s."""
    families = {"recall": RECALL, "ndcg": NDCG, "mrr": MRR}
    return [Figure(families[name], value, (str(k), documents)) for name, value in means.items()]


def counts(golden: GoldenSet, states: Mapping[str, DocumentState]) -> list[Figure]:
    """How many queries there are, and judged documents by state."""
    found = dict.fromkeys(DocumentState, 0)
    for document in golden.judged:
        found[states.get(document, DocumentState.GONE)] += 1
    return [
        Figure(QUERIES, len(golden.scored)),
        *(Figure(JUDGED, count, (state.value,)) for state, count in found.items()),
    ]
