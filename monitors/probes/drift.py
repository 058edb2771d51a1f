"""Do new vectors come from the same distribution as the reference?

Contract checks come first and need no test: dimension, lengths, components that are dead in one
sample and alive in the other. Then one calibrated two-sample test of the window against the
reference (`monitors.drift`), whose statistic is ranked among known-good windows and gathered over
time; an alarm needs the evidence, an effect outside the known-good windows', and a baseline that
is large and long enough. Until it is, a test below `level` warns.

The effect of the evidence is unbiased MMD², 0 without drift whatever the samples' sizes.
Each window's documents are tested once: `monitors.probes.windows` says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from monitors.probes.base import FigureFamily, Level, ProbeContext, ProbeName, ProbeResult
from monitors.probes.drift_figures import FAMILIES, evidence_of, figures_of
from monitors.probes.drift_judgement import Current, Judgement, judge, reference_key
from monitors.probes.windows import ACCEPTED, Window, milliseconds, next_window
from monitors.sampling import (
    Sample,
    count_points,
    live_points,
    newest_timestamp,
    recent_since,
    sample_vectors,
)
from pipelines.core.recorded_queries import read_queries

if TYPE_CHECKING:
    from monitors.probes.base import Reference

__all__ = ["DriftProbe"]


_ORDER = (Level.OK, Level.UNDECIDED, Level.WARNING, Level.ALARM)


class DriftProbe:
    """Compares a window of documents, and of queries where they are recorded, with a reference."""

    NAME: ClassVar[ProbeName] = "drift"
    QUESTION: ClassVar[str] = "Do new vectors come from the same distribution as the reference?"
    FAMILIES: ClassVar[tuple[FigureFamily, ...]] = FAMILIES
    REASONS: ClassVar[Mapping[str, str]] = {
        "steady": "The window is like the reference, or as unlike it as windows here always are.",
        "young_baseline": (
            "The window is like the reference. There are too few known-good windows yet to raise "
            "alarms on."
        ),
        "differs_young_baseline": (
            "The window differs from the reference, and there are too few known-good windows yet "
            "to say whether that is usual here. Read what changed; where it is to stay, set a new "
            "reference (`plumbline monitor reference set`)."
        ),
        "far_reference": (
            "The window is as unlike the reference as windows here always are, and that is a lot: "
            "smaller changes do not show beside it. A reference of what comes now sees them: "
            "`plumbline monitor reference set`."
        ),
        "drifting": "Evidence of a lasting change is growing. Read what changed.",
        "drifted": (
            "What is written has changed, for good, and by more than it usually does. Read what "
            "changed: new topics want golden queries, a flood wants its source stopped, and a "
            "change that moves everything wants a look at the encoder. Where it is to stay, set a "
            "new reference; where it is over, `plumbline monitor reset drift` takes the alarm back."
        ),
        "dimension_changed": "Vectors of another dimension: another model wrote them.",
        "norms_changed": "Vectors of another length: a normalisation is missing.",
        "components_changed": (
            "Components that never vary do, or the other way round: another encoder, a padding or "
            "a truncation."
        ),
        "reference_taken": "The first sample of the version became the reference. Nothing tested.",
        "no_reference": (
            "There are not enough documents for a reference, or `automatic_reference` is off: "
            "`plumbline monitor reference set` takes one."
        ),
        "small_window": (
            "Too few vectors came since the last tested window. They are kept for the next one "
            "until they are older than `window_seconds`."
        ),
        "empty_index": "There is no document.",
    }

    def run(self, context: ProbeContext) -> ProbeResult:
        """Tests the window of each kind of vectors that there is."""
        state = dict(context.state or {})
        found = {"documents": _documents(context, _part(state, "documents"))}
        queries = _queries(context, _part(state, "queries"))
        if queries is not None:
            found["queries"] = queries
        for kind, judgement in found.items():
            if judgement.state is not None:
                state[kind] = dict(judgement.state)
        # Too few queries are no news where the documents have something to say.
        worst = max(
            (kind for kind in found if kind == "documents" or not _silent(found[kind])),
            key=lambda kind: _ORDER.index(found[kind].level),
        )
        chosen = found[worst]
        return ProbeResult(
            chosen.level,
            chosen.reason,
            "; ".join(f"{kind}: {judgement.words}" for kind, judgement in found.items()),
            [figure for kind, judgement in found.items() for figure in figures_of(kind, judgement)],
            evidence_of(chosen),
            {
                kind: {"reason": judgement.reason, **judgement.details}
                for kind, judgement in found.items()
            },
            state=state,
        )


def _part(state: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    part = state.get(kind)
    return part if isinstance(part, Mapping) else {}


def _silent(judgement: Judgement) -> bool:
    return judgement.level is Level.UNDECIDED


def _documents(context: ProbeContext, state: Mapping[str, Any]) -> Judgement:
    settings = context.settings.monitor.drift
    collection = context.version.name
    now = milliseconds(context.now)
    newest = newest_timestamp(context.qdrant, collection, now)
    if newest is None and not count_points(context.qdrant, collection, live_points()):
        return Judgement(Level.UNDECIDED, "empty_index", "the version has no document")
    window = next_window(state, newest=newest or 0, now=now, window_seconds=settings.window_seconds)
    reference = context.reference("documents")
    if reference is None:
        # Up to here, so that no window ever tests what made the reference.
        since = recent_since(
            context.qdrant,
            collection,
            settings.minimum_reference,
            until=window.until,
            span_seconds=settings.reference_seconds,
        )
        sample = _sample(context, settings.reference, since, window.until)
        return _first_reference(
            context, "documents", window.until, sample.vectors, sample.document_ids
        )
    window = _after(reference, state, window)
    sample = _sample(context, settings.window, window.since, window.until)
    if len(sample) < settings.minimum_window:
        small = _small(len(sample), settings.minimum_window, window)
        return _standing(state, reference, small)
    contract = context.version.contract
    return judge(
        context,
        reference,
        Current(window, sample.vectors, sample.document_ids),
        state,
        # Cosine collections scale what is written to them.
        normalized=contract.normalize or contract.distance == "cosine",
    )


def _queries(context: ProbeContext, state: Mapping[str, Any]) -> Judgement | None:
    """`None` where no queries are recorded."""
    settings = context.settings.monitor.drift
    contract = context.version.contract
    now = milliseconds(context.now)
    window = next_window(state, newest=now, now=now, window_seconds=settings.window_seconds)
    reference = context.reference("queries")
    if reference is not None:
        window = _after(reference, state, window)
    recorded = read_queries(
        context.qdrant,
        context.version.index,
        context.version.fingerprint,
        contract.dimension,
        since=0 if reference is None else window.since,
        until=window.until,
    )
    if reference is None and not len(recorded):
        return None
    size = settings.reference if reference is None else settings.window
    rows = np.arange(len(recorded))
    if len(rows) > size:
        rows = np.sort(context.random.choice(rows, size, replace=False))
    ids = tuple(_moment(int(recorded.timestamps[row])) for row in rows)
    vectors = recorded.vectors[rows]
    if reference is None:
        return _first_reference(context, "queries", window.until, vectors, ids)
    if len(rows) < settings.minimum_window:
        return _standing(state, reference, _small(len(rows), settings.minimum_window, window))
    return judge(
        context, reference, Current(window, vectors, ids), state, normalized=contract.normalize
    )


def _sample(context: ProbeContext, size: int, since: int | None, until: int) -> Sample:
    return sample_vectors(
        context.qdrant,
        context.version.name,
        size,
        dimension=context.version.contract.dimension,
        random=context.random,
        since=since,
        until=until,
        deadline=context.deadline,
    )


def _after(reference: Reference, state: Mapping[str, Any], window: Window) -> Window:
    """The window without what came before a reference that is new to this probe, or a reset."""
    since = int(state.get(ACCEPTED, 0))
    if state.get("reference") != reference_key(reference):
        since = max(since, milliseconds(reference.created_at))
    return Window(max(window.since, min(since, window.until)), window.until)


def _first_reference(
    context: ProbeContext, kind: str, until: int, vectors: Any, ids: tuple[str, ...]
) -> Judgement:
    settings = context.settings.monitor.drift
    if not settings.automatic_reference or len(ids) < settings.minimum_reference:
        why = (
            f"there are {len(ids)} of {settings.minimum_reference} vectors for one"
            if settings.automatic_reference
            else "`monitor.drift.automatic_reference` is off"
        )
        return Judgement(Level.UNDECIDED, "no_reference", f"no reference is set, and {why}")
    taken = context.keep_reference(
        kind, vectors, ids, "automatic: the version had none and holds enough"
    )
    return Judgement(
        Level.UNDECIDED,
        "reference_taken",
        f"{len(ids)} vectors became the reference {taken.name!r}; windows are tested from now on",
        state={"reference": reference_key(taken), "end": until, "control": None},
    )


def _small(found: int, wanted: int, window: Window) -> Judgement:
    return Judgement(
        Level.UNDECIDED,
        "small_window",
        f"{found} vectors came in {window.seconds / 3600:.1f} h up to {window.end:%Y-%m-%d %H:%M} "
        f"UTC; a test needs {wanted}",
    )


def _standing(state: Mapping[str, Any], reference: Reference, small: Judgement) -> Judgement:
    """What is said while nothing can be tested: an alarm of the last tested window stands.

    It ends when a window says so, or with a new reference; not because the next look came too
    soon to have a window of its own.
    """
    control = state.get("control")
    alarm = isinstance(control, Mapping) and control.get("alarm") is True
    if not alarm or state.get("reference") != reference_key(reference):
        return small
    return Judgement(
        Level.ALARM, "drifted", f"the alarm of the last tested window stands: {small.words}"
    )


def _moment(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp / 1000, UTC).isoformat(timespec="milliseconds")
