"""What the monitor says of a rollout, and which version it looks at beside the live one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from monitors.metrics import MonitorCollector, MonitorState
from monitors.other import FILLING_PROBES, other_version
from monitors.probes import PROBES
from monitors.probes.base import Level
from monitors.rollout import (
    ENDED,
    GATE_OUTCOMES,
    INTENTS,
    ROLLOUT_FAMILIES,
    RolloutReading,
    rollout_series,
)
from monitors.snapshot import Snapshot, VersionRuns
from monitors.store import LiveVersion, Outcome, StoredFigure, StoredRun, VersionKey
from pipelines.core.contract import EmbeddingContract
from pipelines.core.rollout import Intent, Rollout, RolloutState, Transition, VersionRef
from tests.support.monitor_probes import SIZE, FakeProbe

S = RolloutState
AT = "2026-03-01T12:00:00.000+00:00"
LIVE = VersionRef("docs--m--aaaaaaaaaaaa", "aaaaaaaaaaaa", "11111111")
CANDIDATE = VersionRef("docs--m--bbbbbbbbbbbb", "bbbbbbbbbbbb", "22222222")
CONTRACT = EmbeddingContract(model_hash="0" * 64, dimension=8, max_tokens=16, model_name="m")
GATE = {
    "outcome": "undecided",
    "queries": 300,
    "difference": -0.01,
    "low": -0.03,
    "high": 0.01,
    "margin": 0.02,
    "level": 0.05,
}


def rollout(state: RolloutState = S.VERIFYING, **changes: Any) -> Rollout:
    made = Rollout(
        rollout_id="0a1b2c3d",
        index="docs",
        state=state,
        live=LIVE,
        candidate=CANDIDATE,
        contract=CONTRACT,
        contract_settings={},
        history=(Transition(None, state, AT, "ann@host", "a test"),),
    )
    return replace(made, **changes)


def series(
    given: Rollout | None,
    ended: Mapping[RolloutState, int] | None = None,
    alias: str | None = None,
) -> dict:
    """Family without its prefix and `index`, and the other labels, to the value."""
    found = {}
    for name, labels, value in rollout_series("docs", RolloutReading(given, ended or {}, alias)):
        assert labels[0] == "docs"
        key = (name.removeprefix("plumbline_rollout_"), *labels[1:])
        assert key not in found
        found[key] = value
    return found


@pytest.mark.parametrize("family", ROLLOUT_FAMILIES, ids=lambda family: family.name)
def test_families_are_named_as_others_are(family) -> None:
    """Prefix, base units, a sentence; `_total` on the counter alone."""
    assert re.fullmatch(r"plumbline_rollouts?_[a-z0-9_]+", family.name)
    assert family.name.endswith("_total") is (family.kind == "counter")
    assert not family.name.endswith(("_count", "_sum", "_bucket", "_created"))
    assert family.help.endswith(".")
    assert family.unit
    assert family.labels[0] == "index"


@pytest.mark.parametrize("state", list(S))
def test_the_state_is_one_of_all(state: RolloutState) -> None:
    """One-hot over every state, with its time, its id and its versions."""
    found = series(rollout(state))
    assert {one.value: float(one is state) for one in S} == {
        labels[0]: value for (name, *labels), value in found.items() if name == "state"
    }
    assert found["info", "0a1b2c3d", LIVE.name, CANDIDATE.name] == 1
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    assert found["state_since_timestamp_seconds",] == moment


def test_an_index_without_a_rollout() -> None:
    """Counters begin at zero; nothing else is said."""
    assert series(None) == {("plumbline_rollouts_ended_total", state.value): 0.0 for state in ENDED}
    counted = series(None, {S.COMPLETED: 2, S.ABORTED: 1})
    assert [counted["plumbline_rollouts_ended_total", state.value] for state in ENDED] == [2, 0, 1]


@pytest.mark.parametrize("state", list(S))
def test_an_alias_that_is_not_where_the_record_has_it(state: RolloutState) -> None:
    """Anywhere else, or gone; where nobody has looked nothing is said."""
    switched = state in (S.SOAKING, S.COMPLETED)
    for alias, moved in ((LIVE.name, switched), (CANDIDATE.name, not switched), ("", True)):
        assert series(rollout(state), alias=alias)["alias_moved",] == moved
    assert ("alias_moved",) not in series(rollout(state))
    assert ("alias_moved",) not in series(None, alias=LIVE.name)


def test_progress_of_a_build() -> None:
    """Tokens, their share and the ETA, from what the build records."""
    progress = {"tokens_done": 250, "tokens_total": 1000, "eta_seconds": 12.5}
    found = series(rollout(S.BUILDING, notes={"progress": progress}))
    assert found["tokens", "done"] == 250
    assert found["tokens", "total"] == 1000
    assert found["progress_ratio",] == 0.25
    assert found["eta_seconds",] == 12.5
    done = {"tokens_done": 1000, "tokens_total": 990, "eta_seconds": 0.0}
    later = series(rollout(S.VERIFYING, notes={"build": done}))
    assert later["progress_ratio",] == 1.0
    assert ("eta_seconds",) not in later, "nothing is being built"
    assert ("progress_ratio",) not in series(rollout(S.ABORTED, notes={"progress": progress}))


@pytest.mark.parametrize("outcome", GATE_OUTCOMES)
def test_figures_of_the_gate(outcome: str) -> None:
    """Its answer one-hot, the change with its bounds, and the margin."""
    found = series(rollout(notes={"gate": {**GATE, "outcome": outcome}}))
    assert {one: float(one == outcome) for one in GATE_OUTCOMES} == {
        labels[0]: value for (name, *labels), value in found.items() if name == "gate"
    }
    names = ("queries", "change_ratio", "change_lower_ratio", "change_upper_ratio", "margin_ratio")
    assert [found[f"gate_{name}",] for name in names] == [300, -0.01, -0.03, 0.01, 0.02]


@pytest.mark.parametrize("forced", [True, False])
def test_a_forced_promotion_is_a_metric(forced: bool) -> None:
    """No value before a promotion."""
    found = series(rollout(S.SOAKING, notes={"promotion": {"forced": forced, "reason": "x"}}))
    assert found["promotion_forced",] == float(forced)
    assert ("promotion_forced",) not in series(rollout(S.READY))


@pytest.mark.parametrize("automatic", [True, False])
def test_a_rollback_that_nobody_decided_on_is_a_metric(automatic: bool) -> None:
    """No value before a rollback, nor after one that an earlier release recorded."""
    found = series(rollout(S.ROLLED_BACK, notes={"rollback": {"automatic": automatic}}))
    assert found["automatic_rollback",] == float(automatic)
    assert ("automatic_rollback",) not in series(rollout(S.SOAKING))
    assert ("automatic_rollback",) not in series(rollout(S.ROLLED_BACK, notes={"rollback": {}}))


@pytest.mark.parametrize(
    ("action", "shown"), [(None, None), ("promote", "promote"), ("dance", "other")]
)
def test_a_step_that_has_begun(action: str | None, shown: str | None) -> None:
    """One of a closed list, whatever the record says."""
    intent = None if action is None else Intent(action, AT, "ann@host", "a test")
    found = series(rollout(intent=intent))
    assert {one: float(one == shown) for one in INTENTS} == {
        labels[0]: value for (name, *labels), value in found.items() if name == "intent"
    }


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["pass", 10**400, float("nan"), -1, 0]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
KEYS = st.sampled_from(
    [*GATE, "tokens_done", "tokens_total", "eta_seconds", "forced", "automatic", "words"]
)
NOTES = st.dictionaries(
    st.sampled_from(["progress", "build", "gate", "promotion", "rollback", "verify"]),
    ODD | st.dictionaries(KEYS, ODD),
)


@given(notes=NOTES, state=st.sampled_from(list(S)))
def test_odd_notes_are_no_exception(notes: Any, state: RolloutState) -> None:
    """Whatever a note holds: no error, no value that is not finite, no label of its own."""
    found = series(rollout(state, notes=notes))
    allowed = {*S, *ENDED, *GATE_OUTCOMES, *INTENTS, "done", "total", "0a1b2c3d"}
    allowed |= {LIVE.name, CANDIDATE.name}
    for (_, *labels), value in found.items():
        assert abs(value) < float("inf")
        assert {str(label) for label in labels} <= {str(one) for one in allowed}


@pytest.mark.parametrize("at", ["", "yesterday", None, 7])
def test_a_time_that_cannot_be_read(at: Any) -> None:
    """Left out; the rest is said."""
    move = Transition(None, S.READY, at, "ann@host", "a test")
    found = series(rollout(S.READY, history=(move,)))
    assert ("state_since_timestamp_seconds",) not in found
    assert found["state", "ready"] == 1


@pytest.mark.parametrize(
    ("state", "live", "changes", "expected"),
    [
        (S.PLANNED, LIVE.name, {}, None),
        (S.BUILDING, LIVE.name, {}, ("candidate", CANDIDATE, FILLING_PROBES)),
        (S.BUILDING, LIVE.name, {"candidate": replace(CANDIDATE, incarnation="")}, None),
        (S.FAILED, LIVE.name, {}, ("candidate", CANDIDATE, FILLING_PROBES)),
        (S.VERIFYING, LIVE.name, {}, ("candidate", CANDIDATE, None)),
        (S.READY, LIVE.name, {}, ("candidate", CANDIDATE, None)),
        # The alias moves a moment before the record, both ways.
        (S.READY, CANDIDATE.name, {}, ("previous", LIVE, None)),
        (S.SOAKING, CANDIDATE.name, {}, ("previous", LIVE, None)),
        (S.SOAKING, LIVE.name, {}, ("candidate", CANDIDATE, None)),
        # Somebody has pointed it elsewhere, or dropped it.
        (S.SOAKING, "docs--m--cccccccccccc", {}, ("previous", LIVE, None)),
        (S.READY, None, {}, ("candidate", CANDIDATE, None)),
        # It is being dropped, or its fate is sealed.
        (S.SOAKING, CANDIDATE.name, {"intent": Intent("retire", AT, "a", "b")}, None),
        (S.BUILDING, LIVE.name, {"intent": Intent("abort", AT, "a", "b")}, None),
        (S.READY, LIVE.name, {"intent": Intent("promote", AT, "a", "b")}, ("candidate",)),
        *((state, LIVE.name, {}, None) for state in ENDED),
    ],
)
def test_the_version_beside_the_live_one(state, live, changes, expected) -> None:
    """By state and alias: which one, what it is, and what is asked of it."""
    found = other_version(rollout(state, **changes), live)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert expected == (found.role, found.ref, found.probes)[: len(expected)]


def test_without_a_rollout_there_is_none() -> None:
    """Nothing is looked at but live."""
    assert other_version(None, LIVE.name) is None


def test_a_half_filled_version_is_asked_by_probes_that_exist() -> None:
    """Those that need no ranking, no sample and no counts."""
    assert set(PROBES) > FILLING_PROBES
    assert not FILLING_PROBES & {"golden", "drift", "integrity", "ann", "geometry"}


def stored(version: str, level: Level) -> StoredRun:
    return StoredRun(
        id=1,
        key=VersionKey("docs", version, "a"),
        probe="canary",
        started_at=datetime(2026, 3, 1, tzinfo=UTC),
        seconds=1.0,
        outcome=Outcome.COMPLETED,
        failure="",
        message="",
        level=level,
        reason="as_told",
        words="",
        evidence={},
        figures=(StoredFigure(SIZE.name, 3.0, ("10",)),),
        details={},
    )


def exposition(snapshot: Snapshot, **state: Any) -> str:
    registry = CollectorRegistry()
    shown = MonitorState("docs", "1.0", leader=True, snapshot=snapshot, **state)
    registry.register(
        MonitorCollector({"canary": FakeProbe("canary")}, {"canary": 60.0}, lambda: shown)
    )
    return generate_latest(registry).decode()


def two(second: str = CANDIDATE.name) -> Snapshot:
    runs = {"canary": stored(LIVE.name, Level.OK)}
    live = LiveVersion(VersionKey("docs", LIVE.name, "a"), "", datetime(2026, 3, 1, tzinfo=UTC))
    alarm = {"canary": stored(second, Level.ALARM)}
    other = VersionRuns(VersionKey("docs", second, "b"), "candidate", "", alarm, alarm)
    return Snapshot(live, runs, runs, other=other, read_at=0.0)


def test_both_versions_are_served() -> None:
    """The same families, told apart by the version and by its role."""
    text = exposition(two(), rollout=RolloutReading(rollout(S.READY)))
    for version, role, alarm in ((LIVE, "live", 0.0), (CANDIDATE, "candidate", 1.0)):
        name = version.name
        assert (
            f'plumbline_monitor_version_role{{index="docs",role="{role}",version="{name}"}} 1.0'
            in text
        )
        assert (
            f'plumbline_probe_alarm{{index="docs",probe="canary",version="{name}"}} {alarm}' in text
        )
        assert f'plumbline_fake_size_items{{index="docs",k="10",version="{name}"}} 3.0' in text
        assert f'plumbline_monitor_version_readable{{index="docs",version="{name}"}} 1.0' in text
    assert 'plumbline_rollout_state{index="docs",state="ready"} 1.0' in text
    assert text.count("plumbline_monitor_version_since_timestamp_seconds{") == 1


def test_no_series_twice_while_the_alias_moves() -> None:
    """Until the next look the other version may be the live one: it is shown once, as live."""
    text = exposition(two(LIVE.name))
    lines = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(set(lines)) == len(lines)
    assert 'role="live"' in text
    assert 'role="candidate"' not in text


def test_what_is_not_known_of_a_rollout_is_not_said() -> None:
    """A replica that stands by, or one that Qdrant does not answer: families without series."""
    text = exposition(Snapshot())
    assert "# TYPE plumbline_rollout_state gauge" in text
    assert re.search(r"^plumbline_rollouts?_", text, re.MULTILINE) is None
