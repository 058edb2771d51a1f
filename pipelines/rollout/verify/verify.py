"""Runs the checks in order, records what they found, and moves the rollout."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from monitors.golden.files import read_golden
from monitors.golden.golden_set import GoldenSet
from monitors.golden.run import Pace, VersionStore
from pipelines.core.errors import RolloutStateError, SettingsError
from pipelines.core.index import encoder_for
from pipelines.core.lag import LagReader
from pipelines.core.rollout import NEXT_COMMAND, Rollout, RolloutState
from pipelines.core.settings import ContractSettings, Settings
from pipelines.rollout.context import RolloutContext, command_lease
from pipelines.rollout.gate import check_belongs
from pipelines.rollout.switch import finish_intent
from pipelines.rollout.verify import (
    ann,
    canaries,
    chunks,
    documents,
    golden,
    latency,
    optimiser,
    points,
    vectors,
)
from pipelines.rollout.verify.base import Check, CheckResult, Outcome, VerifyContext

if TYPE_CHECKING:
    from pipelines.core.encoder import Encoder
    from pipelines.core.versions import Version

__all__ = ["CHECKS", "Row", "VerifyReport", "run_checks", "verify"]

CHECKS: Mapping[str, Check] = {
    documents.NAME: documents.check_documents,
    chunks.NAME: chunks.check_chunks,
    points.NAME: points.check_points,
    canaries.NAME: canaries.check_canaries,
    vectors.NAME: vectors.check_vectors,
    optimiser.NAME: optimiser.check_optimiser,
    ann.NAME: ann.check_ann,
    latency.NAME: latency.check_latency,
    golden.NAME: golden.check_golden,
}
"""Name to check, in the order in which they run: what is cheap and what is wrong first."""

_PATIENCE = 60.0
_PATIENCE_EMBEDDED = 5.0

_STATES = (RolloutState.VERIFYING, RolloutState.READY)

Progress = Callable[[str, int, int], None]
"""What is being done, how much is done, and how much there is to do (0: not known)."""


def _silent(_what: str, _done: int, _total: int) -> None:
    return


class Row(NamedTuple):
    """A check in the cells of a table; a figure that there is none of is empty."""

    name: str
    outcome: str
    figure: str
    bound: str
    measures: str
    words: str


@dataclass(frozen=True)
class VerifyReport:
    """What the checks found.

    Parameters
    ----------
    state
        Of the rollout afterwards.
    """

    index: str
    live: str
    candidate: str
    results: Sequence[CheckResult]
    margin: float
    level: float
    k: int
    golden: str
    at: str
    state: str = field(default=RolloutState.VERIFYING.value)

    @property
    def ok(self) -> bool:
        """Whether every check lets the rollout go on."""
        return all(result.ok for result in self.results)

    @property
    def failed(self) -> list[CheckResult]:
        """The checks that do not."""
        return [result for result in self.results if not result.ok]

    @property
    def rows(self) -> list[Row]:
        """The results as text, for a table."""
        return [
            Row(
                name=result.name,
                outcome=result.outcome.value,
                figure=_number(result.figure),
                bound=_number(result.bound),
                measures=result.measures,
                words=result.words,
            )
            for result in self.results
        ]

    @property
    def words(self) -> str:
        """The answer in a sentence."""
        if self.ok:
            return f"{self.candidate} passed every check: it may be promoted"
        refused = [result.name for result in self.failed if result.outcome is Outcome.REFUSE]
        open_ = [result.name for result in self.failed if result.outcome is Outcome.UNDECIDED]
        parts = []
        if refused:
            parts.append(f"refused by {', '.join(refused)}")
        if open_:
            parts.append(f"undecided by {', '.join(open_)}")
        return f"{self.candidate} is {' and '.join(parts)}: it may not be promoted"

    def to_json(self) -> dict[str, Any]:
        """For the rollout's record and for programs."""
        return {
            "ok": self.ok,
            "words": self.words,
            "index": self.index,
            "live": self.live,
            "candidate": self.candidate,
            "state": self.state,
            "at": self.at,
            "margin": self.margin,
            "level": self.level,
            "k": self.k,
            "golden": self.golden,
            "checks": [result.to_json() for result in self.results],
        }


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def run_checks(
    context: VerifyContext,
    *,
    checks: Mapping[str, Check] = CHECKS,
    between: Callable[[], None] = lambda: None,
) -> VerifyReport:
    """Asks everything, in order; writes nothing.

    Parameters
    ----------
    between
        Called before each check; may raise to stop.

    Raises
    ------
    SettingsError
        The golden set belongs to another index: said before anything else is asked.
    ServiceUnavailableError
        Qdrant or Kafka is out of reach.
    """
    if context.golden is not None:
        store = VersionStore(context.qdrant, context.live, Pace(None))
        check_belongs(context.golden, store.states(context.golden.relevant))
    results = []
    for name, check in checks.items():
        between()
        context.watch(name, 0, 0)
        started = time.monotonic()
        found = check(context)
        results.append(replace(found, seconds=time.monotonic() - started))
    return VerifyReport(
        index=context.live.index,
        live=context.live.name,
        candidate=context.candidate.name,
        results=results,
        margin=context.margin,
        level=context.level,
        k=context.k,
        golden="" if context.golden is None else str(context.golden.source),
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def verify(
    settings: Settings,
    *,
    golden: Path | None = None,
    without_golden: str | None = None,
    margin: float | None = None,
    level: float | None = None,
    k: int | None = None,
    seed: int = 0,
    patience_seconds: float | None = None,
    settle_seconds: float = 1.0,
    lag: LagReader | None = None,
    progress: Progress = _silent,
) -> VerifyReport:
    """Asks whether the candidate of the index's rollout may go live, and records the answer.

    The rollout becomes `ready` when every check passes (or is skipped), and `verifying` again when
    a later run says otherwise. The record keeps what every check found (`verify`) and the golden
    gate's figures (`gate`). The versions themselves are only read.

    Parameters
    ----------
    golden
        Golden set; default: `monitor.golden.file` of the settings.
    without_golden
        Why the candidate is to go on without a golden set, in the user's words.
    margin, level, k
        Of the gate; default: those of `rollout` in the settings.
    seed
        Of samples and resamples.
    patience_seconds
        How long a consumer group, an optimiser or a document may take to come to rest; default:
        a minute, and 5 s on the embedded engine, where no job runs beside this process.
    lag
        Tells how far a version's consumer group is; default: asks the settings' Kafka.

    Raises
    ------
    RolloutStateError
        There is nothing to verify in the rollout's state, or it was aborted meanwhile.
    SettingsError
        The golden set cannot be used, belongs to another index, or comes with a reason to go on
        without one.
    LeaseHeldError
        Another rollout command is running.
    """
    context = RolloutContext.open(settings)
    rules = settings.rollout
    if patience_seconds is None:
        patience_seconds = _PATIENCE_EMBEDDED if context.qdrant.local else _PATIENCE
    judged = _golden(settings, golden, without_golden)
    with command_lease(context):
        rollout = _verifiable(finish_intent(context, context.rollout()))
        live, candidate = context.opened(rollout.live), context.opened(rollout.candidate)
        report = run_checks(
            VerifyContext(
                settings=settings,
                qdrant=context.qdrant,
                live=live,
                candidate=candidate,
                load=_loader(settings, rollout),
                lag=lag if lag is not None else _lag(settings),
                source=str(rollout.note("build").get("source", "")),
                golden=judged,
                without_golden=(without_golden or "").strip(),
                margin=rules.margin if margin is None else margin,
                level=rules.level if level is None else level,
                k=rules.k if k is None else k,
                settle_seconds=settle_seconds,
                patience_seconds=patience_seconds,
                random=np.random.default_rng(seed),
                watch=progress,
            ),
            between=lambda: _still(context, rollout),
        )
        return _record(context, rollout, report)


def _golden(settings: Settings, path: Path | None, without: str | None) -> GoldenSet | None:
    if without is not None:
        if not without.strip():
            raise SettingsError(
                "going on without a golden set needs a reason in words: `--without-golden "
                '"…"`; the record keeps it'
            )
        if path is not None:
            raise SettingsError("give a golden set or a reason to go on without one, not both")
        return None
    found = path if path is not None else settings.monitor.golden.file
    return None if found is None else read_golden(found)


def _verifiable(rollout: Rollout) -> Rollout:
    if rollout.intent is not None:
        action = rollout.intent.action
        article = "an" if action.startswith("a") else "a"
        raise RolloutStateError(
            f"the rollout is in the middle of {article} {action}, begun by {rollout.intent.actor} "
            f"at {rollout.intent.at}: `plumbline rollout {action}` finishes it"
        )
    if rollout.state not in _STATES:
        raise RolloutStateError(
            f"the rollout {rollout.rollout_id} of {rollout.index} is {rollout.state}: there is "
            f"something to verify once it is {' or '.join(_STATES)}. Next: "
            f"`{NEXT_COMMAND[rollout.state]}`."
        )
    return rollout


def _still(context: RolloutContext, rollout: Rollout) -> None:
    """Stops when somebody aborts the rollout while it is being verified."""
    _verifiable(context.store.refresh(rollout))


def _loader(settings: Settings, rollout: Rollout) -> Callable[[Version], Encoder]:
    # The candidate's model may have another place than the one in `contract`.
    theirs = settings.model_copy(
        update={"contract": ContractSettings.model_validate(dict(rollout.contract_settings))}
    )

    def load(version: Version) -> Encoder:
        return encoder_for(version, theirs if version.name == rollout.candidate.name else settings)

    return load


def _lag(settings: Settings) -> LagReader | None:
    if not settings.kafka.names_topics:
        return None
    from pipelines.io.kafka.lag import lag_reader

    return lag_reader(settings)


def _record(context: RolloutContext, rollout: Rollout, report: VerifyReport) -> VerifyReport:
    after = RolloutState.READY if report.ok else RolloutState.VERIFYING
    report = replace(report, state=after.value)
    found = report.to_json()
    for check in found["checks"]:
        check["details"] = {}  # the gate's are kept beside; others are for who asked
    gate = _gate(report)
    rollout = context.store.refresh(rollout)
    if rollout.state is after:
        context.store.update(rollout, verify=found, gate=gate)
    else:
        reason = (
            "every check passed"
            if report.ok
            else f"no longer passes: {', '.join(result.name for result in report.failed)}"
        )
        context.store.move(rollout, after, reason, verify=found, gate=gate)
    return report


def _gate(report: VerifyReport) -> dict[str, Any]:
    found = next(result for result in report.results if result.name == golden.NAME)
    return {
        **found.details,
        "outcome": found.outcome.value,
        "words": found.words,
        "golden": report.golden,
        "margin": report.margin,
        "level": report.level,
        "k": report.k,
        "at": report.at,
    }
