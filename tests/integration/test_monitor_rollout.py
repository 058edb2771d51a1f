"""Both versions of a rollout under the monitor, on the embedded engine."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monitors.encoders import Encoders
from monitors.live import look
from monitors.other import FILLING_PROBES, OtherLook
from monitors.probes import PROBES
from monitors.probes.base import Level, ProbeContext, ProbeResult
from monitors.runner import Runner
from monitors.store import Outcome, Store, VersionKey, open_store
from pipelines.core.canaries import check
from pipelines.core.control import Control
from pipelines.core.errors import IndexMissingError, ModelError, ServiceUnavailableError
from pipelines.core.qdrant import Qdrant, disconnect
from pipelines.core.rollout import ROLLOUT, Rollout, RolloutState, RolloutStore, VersionRef
from pipelines.core.settings import Settings
from pipelines.core.versions import Version, set_alias
from tests.support.corpora import Document
from tests.support.monitor_probes import FakeProbe, make_settings, make_version, result
from tests.support.monitor_replica import Replica
from tests.support.probing import Seeded, Watched
from tests.support.processes import wait_until
from tests.support.tiny_model import make_tiny_model

S = RolloutState
STATE = "plumbline_rollout_state"
ROLE = "plumbline_monitor_version_role"
ALARM = "plumbline_probe_alarm"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


class Pair:
    """A live version, a candidate's collection, and their rollout."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.qdrant, self.live = make_version(settings)
        self.candidate = make_version(settings, document_prompt="passage: ")[1]
        self.rollouts = RolloutStore(Control(self.qdrant))
        self.rollout = self.begin()

    def begin(self) -> Rollout:
        made = self.rollouts.begin(
            "docs",
            live=VersionRef.of(self.live),
            candidate=VersionRef(self.candidate.name, self.candidate.fingerprint),
            contract=self.candidate.contract,
            contract_settings={},
        )
        self.rollout = made
        return made

    def to(self, *states: RolloutState, **notes: Any) -> None:
        """Moves the record; the collection counts as made from `building` on."""
        for state in states:
            candidate = VersionRef.of(self.candidate) if state is S.BUILDING else None
            self.rollout = self.rollouts.move(
                self.rollout, state, "a test", candidate=candidate, **notes
            )

    def promote(self) -> None:
        set_alias(self.qdrant, "docs", self.candidate.name)
        self.to(S.SOAKING, promotion={"forced": False})

    def drop(self, version: Version) -> None:
        self.qdrant.call("delete_collection", version.name)


@pytest.fixture
def settings(tmp_path: Path, model: Path) -> Iterator[Settings]:
    every = {"interval_seconds": 1, "timeout_seconds": 20}
    names = ("canary", "drift", "integrity", "golden")
    yield make_settings(tmp_path, model, monitor=dict.fromkeys(names, every))
    disconnect()


@pytest.fixture
def pair(settings: Settings) -> Pair:
    return Pair(settings)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    made = open_store(settings.monitor)
    yield made
    made.close()


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    made: list[Replica] = []
    yield made
    for replica in made:
        replica.stop.set()
    for replica in made:
        replica.thread.join(30)


class Remembers:
    """Fake probes that count, by version, and complain of a memory that is not their own."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], int] = defaultdict(int)
        self.wrong: list[Any] = []
        self._lock = threading.Lock()

    def probe(self, name: str) -> FakeProbe:
        def act(context: ProbeContext) -> ProbeResult:
            version = context.version.name
            with self._lock:
                self.runs[version, name] += 1
            for kept in (context.state, context.baseline):
                if kept is not None and kept["of"] != version:
                    self.wrong.append((name, version, kept))
            count = 0 if context.state is None else context.state["runs"]
            return result(
                state={"of": version, "runs": count + 1},
                baseline={"of": version} if context.baseline is None else None,
            )

        return FakeProbe(name, act)

    def probed(self, version: Version) -> set[str]:
        with self._lock:
            return {name for (of, name), count in self.runs.items() if of == version.name and count}


def roles(replica: Replica) -> dict[str, str]:
    """Role to version."""
    return {key[2]: key[1] for key in replica.values() if key[0] == ROLE}


def test_a_rollout_in_every_state(pair: Pair, replicas: list[Replica]) -> None:
    """Metrics follow the record; the version beside the live one is asked what makes sense."""
    live, candidate = pair.live, pair.candidate
    seen = Remembers()
    probes = {name: seen.probe(name) for name in ("canary", "drift", "integrity")}
    replica = Replica(pair.settings, probes)
    replicas.append(replica)

    def reach(state: RolloutState, expected: dict[str, str]) -> dict[tuple[Any, ...], float]:
        wait_until(lambda: replica.values().get((STATE, state.value)) == 1, 20)
        wait_until(lambda: roles(replica) == expected, 20)
        return replica.values()

    only_live = {"live": live.name}
    beside = {"live": live.name, "candidate": candidate.name}
    values = reach(S.PLANNED, only_live)
    info = ("plumbline_rollout_info", candidate.name, live.name, pair.rollout.rollout_id)
    assert values[info] == 1
    wait_until(lambda: seen.probed(live) == set(probes), 20)

    pair.to(S.BUILDING)
    progress = {"tokens_done": 30, "tokens_total": 120, "eta_seconds": 9}
    pair.rollout = pair.rollouts.update(pair.rollout, progress=progress)
    reach(S.BUILDING, beside)
    wait_until(lambda: (ALARM, candidate.name, "canary") in replica.values(), 20)
    values = replica.values()
    assert values["plumbline_rollout_progress_ratio",] == 0.25
    assert values["plumbline_rollout_eta_seconds",] == 9
    wait_until(lambda: seen.runs[candidate.name, "canary"] >= 3, 20)
    assert seen.probed(candidate) == {"canary"} == set(probes) & FILLING_PROBES

    gate = {"outcome": "pass", "difference": 0.01, "low": -0.01, "high": 0.03, "margin": 0.02}
    pair.to(S.VERIFYING)
    reach(S.VERIFYING, beside)
    wait_until(lambda: seen.probed(candidate) == set(probes), 20)
    pair.to(S.READY, gate=gate)
    values = reach(S.READY, beside)
    assert values["plumbline_rollout_gate", "pass"] == 1
    assert values["plumbline_rollout_gate_change_lower_ratio",] == -0.01

    pair.promote()
    values = reach(S.SOAKING, {"live": candidate.name, "previous": live.name})
    assert values["plumbline_rollout_promotion_forced",] == 0
    before = seen.runs[live.name, "drift"]
    wait_until(lambda: seen.runs[live.name, "drift"] >= before + 2, 20)
    assert replica.values()[ALARM, live.name, "drift"] == 0

    pair.rollout = pair.rollouts.intend(pair.rollout, "retire", "a test")
    wait_until(lambda: replica.values()["plumbline_rollout_intent", "retire"] == 1, 20)
    pair.drop(live)
    pair.to(S.COMPLETED)
    values = reach(S.COMPLETED, {"live": candidate.name})
    assert values["plumbline_rollouts_ended_total", "completed"] == 1
    assert values["plumbline_rollout_intent", "retire"] == 0
    served = {
        part
        for name, *labels in values
        if name != "plumbline_rollout_info"
        for part in labels
        if str(part).startswith("docs--")
    }
    assert served == {candidate.name}
    assert seen.wrong == []
    failures = {
        key: value
        for key, value in values.items()
        if key[0] == "plumbline_probe_failures_total" and value
    }
    assert failures == {}, "a version that is dropped on purpose is no failure"
    replica.end()


def test_roles_swap_and_nobody_forgets(pair: Pair, replicas: list[Replica], store: Store) -> None:
    """Promoted and rolled back under way: each version goes on from its own memory."""
    pair.to(S.BUILDING, S.VERIFYING, S.READY)
    seen = Remembers()
    probes = {name: seen.probe(name) for name in ("canary", "drift")}
    replica = Replica(pair.settings, probes)
    replicas.append(replica)
    keys = [VersionKey.of(version) for version in (pair.live, pair.candidate)]

    def memory(key: VersionKey, probe: str) -> int:
        state = store.memory(key, probe).state
        return 0 if state is None else int(state["runs"])

    def more(count: int = 2) -> None:
        before = {(key, probe): memory(key, probe) for key in keys for probe in probes}
        wait_until(lambda: all(memory(*at) >= had + count for at, had in before.items()), 30)

    more()
    pair.promote()
    wait_until(
        lambda: roles(replica) == {"live": pair.candidate.name, "previous": pair.live.name}, 20
    )
    more()
    set_alias(pair.qdrant, "docs", pair.live.name)
    # The alias has moved, the record has not yet: the roles are those of the alias.
    wait_until(
        lambda: roles(replica) == {"live": pair.live.name, "candidate": pair.candidate.name}, 20
    )
    more()
    pair.to(S.ROLLED_BACK)
    wait_until(lambda: roles(replica) == {"live": pair.live.name}, 20)
    replica.end()
    assert seen.wrong == []
    for key in keys:
        for probe in probes:
            kept = store.memory(key, probe)
            assert kept.baseline == {"of": key.version}
            assert kept.state is not None
            # Each run that was written went on from the one before: none began anew.
            assert kept.state["runs"] == kept.runs


def test_after_a_restart_the_candidate_is_not_run_again(
    pair: Pair, replicas: list[Replica]
) -> None:
    """What ran on it a moment ago is due when its interval is over, as on live."""
    monitor = pair.settings.monitor
    hourly = monitor.drift.model_copy(update={"interval_seconds": 3600})
    settings = pair.settings.model_copy(
        update={"monitor": monitor.model_copy(update={"drift": hourly})}
    )
    pair.to(S.BUILDING, S.VERIFYING)
    seen = Remembers()
    for _ in range(2):
        probes = {name: seen.probe(name) for name in ("canary", "drift")}
        replica = Replica(settings, probes)
        replicas.append(replica)
        already = seen.runs[pair.candidate.name, "canary"]
        wait_until(lambda: (ALARM, pair.candidate.name, "drift") in replica.values(), 20)  # noqa: B023
        wait_until(lambda: seen.runs[pair.candidate.name, "canary"] >= already + 2, 20)  # noqa: B023
        replica.end()
    for version in (pair.live, pair.candidate):
        assert seen.runs[version.name, "drift"] == 1


def test_failures_of_the_candidate_are_its_own(pair: Pair, replicas: list[Replica]) -> None:
    """It shows under its version; live's levels, counts and readiness do not see it."""
    pair.to(S.BUILDING, S.VERIFYING)

    def act(context: ProbeContext) -> ProbeResult:
        if context.version.name == pair.candidate.name:
            raise ModelError("no such model")
        return result()

    replica = Replica(pair.settings, {"canary": FakeProbe("canary", act)})
    replicas.append(replica)
    failing = "plumbline_probe_failing"
    wait_until(lambda: replica.values().get((failing, pair.candidate.name, "canary")) == 1, 20)
    wait_until(lambda: replica.values().get((failing, pair.live.name, "canary")) == 0, 20)
    values = replica.values()
    assert values["plumbline_probe_failures_total", "canary", "model"] == 0
    assert values["plumbline_probe_runs_total", "canary", "completed"] >= 1
    assert replica.health("/readyz")[0] == replica.health("/healthz")[0] == 200
    replica.end()


def test_an_alarm_of_the_candidate_is_told_from_one_of_live(
    pair: Pair, replicas: list[Replica]
) -> None:
    """By the role of the version that it carries."""
    pair.to(S.BUILDING)

    def act(context: ProbeContext) -> ProbeResult:
        bad = context.version.name == pair.candidate.name
        return result(Level.ALARM if bad else Level.OK)

    replica = Replica(pair.settings, {"canary": FakeProbe("canary", act)})
    replicas.append(replica)
    wait_until(lambda: replica.values().get((ALARM, pair.candidate.name, "canary")) == 1, 20)
    wait_until(lambda: replica.values().get((ALARM, pair.live.name, "canary")) == 0, 20)
    values = replica.values()
    paging = [
        key
        for key, value in values.items()
        if key[0] == ALARM and value == 1 and values.get((ROLE, key[1], "live")) == 1
    ]
    assert paging == []
    replica.end()


def test_no_series_where_nobody_can_know(
    pair: Pair, replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stands by says nothing of a rollout, nor does the leader while Qdrant is away."""
    pair.to(S.BUILDING, S.VERIFYING)
    seen = Remembers()
    first = Replica(pair.settings, {"canary": seen.probe("canary")})
    replicas.append(first)
    wait_until(lambda: (ALARM, pair.candidate.name, "canary") in first.values(), 20)
    second = Replica(pair.settings, {"canary": seen.probe("canary")})
    replicas.append(second)
    wait_until(lambda: "held by" in second.health("/readyz")[1]["probes"], 20)

    def told(replica: Replica) -> set[str]:
        return {key[0] for key in replica.values() if key[0].startswith("plumbline_rollout")}

    assert told(second) == set()
    assert STATE in told(first)
    away = threading.Event()
    away.set()
    for name in ("call", "try_call"):
        real = getattr(Qdrant, name)

        def perhaps(self: Qdrant, *given: Any, real: Any = real, **named: Any) -> Any:
            if away.is_set():
                raise ServiceUnavailableError("Qdrant did not answer")
            return real(self, *given, **named)

        monkeypatch.setattr(Qdrant, name, perhaps)
    wait_until(lambda: told(first) == set(), 20)
    values = first.values()
    assert values[ALARM, pair.candidate.name, "canary"] == 0, "last good values stay"
    assert roles(first) == {"live": pair.live.name, "candidate": pair.candidate.name}
    failing = ("plumbline_probe_failing", pair.candidate.name, "canary")
    wait_until(lambda: first.values()[failing] == 1, 20)
    away.clear()
    wait_until(lambda: STATE in told(first), 20)
    wait_until(lambda: first.values()[failing] == 0, 20)
    second.end()
    first.end()


def test_a_record_that_cannot_be_read(pair: Pair, replicas: list[Replica]) -> None:
    """Live is monitored as ever; the rollout is not spoken of, and the log says why once."""
    control = Control(pair.qdrant)
    record = control.read(ROLLOUT, "docs")
    assert record is not None
    for fields in ({"schema": 1, "notes": []}, {**record.fields, "history": []}, {"schema": 99}):
        now = control.read(ROLLOUT, "docs")
        assert control.swap(ROLLOUT, "docs", seen=now, fields=fields) is not None
        replica = Replica(pair.settings, {"canary": FakeProbe("canary")})
        replicas.append(replica)
        wait_until(lambda replica=replica: (ALARM, pair.live.name, "canary") in replica.values())
        assert roles(replica) == {"live": pair.live.name}
        assert (STATE, "planned") not in replica.values()
        assert replica.health("/healthz")[0] == 200
        replica.end()


def test_the_alias_moves_while_the_record_cannot_be_read(
    pair: Pair, replicas: list[Replica]
) -> None:
    """The new live version is live and nothing else; what the old one is, nobody can know."""
    pair.to(S.BUILDING, S.VERIFYING, S.READY)
    replica = Replica(pair.settings, {"canary": FakeProbe("canary")})
    replicas.append(replica)
    beside = {"live": pair.live.name, "candidate": pair.candidate.name}
    wait_until(lambda: roles(replica) == beside, 20)
    control = Control(pair.qdrant)
    fields = {"schema": 99}
    assert control.swap(ROLLOUT, "docs", seen=control.read(ROLLOUT, "docs"), fields=fields)
    wait_until(lambda: (STATE, "ready") not in replica.values(), 20)
    assert roles(replica) == beside
    set_alias(pair.qdrant, "docs", pair.candidate.name)
    wait_until(lambda: roles(replica) == {"live": pair.candidate.name}, 20)
    wait_until(lambda: (ALARM, pair.candidate.name, "canary") in replica.values(), 20)
    replica.end()


class Bench:
    """A runner of the version beside the live one, and one of live."""

    def __init__(self, pair: Pair, store: Store, act: Callable[[ProbeContext], ProbeResult]):
        self.probe = FakeProbe("canary", act)
        encoders = Encoders(pair.settings)
        self.at = OtherLook(pair.qdrant, "docs", pair.rollouts)
        given: Any = (pair.settings, pair.qdrant, store, {"canary": self.probe}, encoders)
        self.live = Runner(*given)
        self.other = Runner(*given, look_at=self.at, counted=False)


def test_the_alias_moves_while_the_candidate_is_probed(pair: Pair, store: Store) -> None:
    """The result is dropped; what either version remembers is what it was."""
    pair.to(S.BUILDING, S.VERIFYING, S.READY)
    move = [True]

    def act(context: ProbeContext) -> ProbeResult:
        if context.version.name == pair.candidate.name and move.pop() is True:
            pair.promote()
        return result(Level.ALARM, state={"of": context.version.name})

    bench = Bench(pair, store, act)
    ended = bench.other.run("canary")
    assert ended is not None
    assert ended.outcome is Outcome.VERSION_SWITCHED
    for version in (pair.live, pair.candidate):
        assert store.memory(VersionKey.of(version), "canary").runs == 0
    assert store.counts("docs") == {}
    after = bench.other.run("canary")
    assert after is not None
    assert (after.outcome, after.key) == (Outcome.COMPLETED, VersionKey.of(pair.live))
    assert store.counts("docs") == {}, "not a run on a live version"


@pytest.mark.parametrize("said", [True, False], ids=["aborted", "before the record moved"])
@pytest.mark.parametrize("fails", [True, False], ids=["the probe fails", "the probe answers"])
def test_the_candidate_is_dropped_while_it_is_probed(
    pair: Pair, store: Store, said: bool, fails: bool
) -> None:
    """Neither a failure nor an alarm: the run comes to nothing, and so do those after it."""
    pair.to(S.BUILDING)

    def act(_context: ProbeContext) -> ProbeResult:
        pair.drop(pair.candidate)
        if said:
            pair.to(S.ABORTED)
        if fails:
            raise IndexMissingError("half of it was gone")
        return result(Level.ALARM)

    bench = Bench(pair, store, act)
    assert bench.other.run("canary") is None
    assert bench.other.run("canary") is None
    assert bench.probe.runs == 1
    assert store.history("docs") == []
    assert store.counts("docs") == {}


def test_a_candidate_built_anew_is_another(pair: Pair, store: Store) -> None:
    """The same name with another incarnation is not what the rollout speaks of."""
    pair.to(S.BUILDING)
    bench = Bench(pair, store, lambda _context: result())
    pair.drop(pair.candidate)
    again = make_version(pair.settings, document_prompt="passage: ")[1]
    assert again.name == pair.candidate.name
    assert bench.other.run("canary") is None
    pair.candidate = again
    pair.to(S.ABORTED)
    pair.begin()
    pair.to(S.BUILDING)
    ended = bench.other.run("canary")
    assert ended is not None
    assert (ended.outcome, ended.key) == (Outcome.COMPLETED, VersionKey.of(again))


def test_a_probe_that_says_nothing_of_a_half_filled_version(pair: Pair, store: Store) -> None:
    """The look at the start of the run decides, also when the service knew of another state."""
    pair.to(S.BUILDING)
    bench = Bench(pair, store, lambda _context: result())
    bench.other._probes = {"drift": FakeProbe("drift"), "canary": bench.probe}
    assert bench.other.run("drift") is None
    assert bench.other.run("canary") is not None
    pair.to(S.VERIFYING)
    assert bench.other.run("drift") is not None


def test_while_qdrant_is_away_the_candidate_last_seen_counts(
    pair: Pair, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its failure stands under its own name; before the first look nothing is written."""
    pair.to(S.BUILDING)
    bench = Bench(pair, store, lambda _context: result())
    fresh = OtherLook(pair.qdrant, "docs", pair.rollouts)
    assert bench.other.run("canary") is not None

    def away(self: Qdrant, *_: object, **__: object) -> None:
        raise ServiceUnavailableError("Qdrant did not answer")

    monkeypatch.setattr(Qdrant, "call", away)
    assert look(pair.qdrant, "docs").key is None
    ended = bench.other.run("canary")
    assert ended is not None
    assert (ended.failure, ended.key) == ("unavailable", VersionKey.of(pair.candidate))
    assert store.counts("docs") == {}
    assert not fresh().allows("canary")


def test_loading_a_candidate_holds_nobody_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that takes long to load is waited for by its own version's probes alone."""
    from monitors import encoders

    loading, go = threading.Event(), threading.Event()
    real = encoders.encoder_for

    def slow(version: Version, settings: Settings) -> Any:
        if version.name == pair.candidate.name:
            loading.set()
            go.wait(30)
        return real(version, settings)

    monkeypatch.setattr(encoders, "encoder_for", slow)
    made = Encoders(pair.settings)
    loaded: list[Any] = []
    thread = threading.Thread(target=lambda: loaded.append(made.checked(pair.candidate)))
    thread.start()
    assert loading.wait(10)
    assert made.checked(pair.live) is not None
    assert loaded == []
    go.set()
    thread.join(30)
    assert len(loaded) == 1
    assert made.state(VersionKey.of(pair.candidate)) is True


class Each(Encoders):
    """The encoder that each version was written with, without loading any."""

    def __init__(self, settings: Settings, *encoders: Seeded) -> None:
        super().__init__(settings)
        self._by = {encoder.contract.fingerprint: encoder for encoder in encoders}

    def checked(self, version: Version) -> Any:
        check(version.canaries, self._by[version.fingerprint])
        return self._by[version.fingerprint]

    def unchecked(self, version: Version) -> Any:
        return self._by[version.fingerprint]


def test_every_real_probe_on_both_versions(tmp_path: Path) -> None:
    """Half-filled, full and previous: the right ones run, each on its version, none alarms."""
    given = {
        "monitor": {
            "database_url": f"sqlite:///{tmp_path / 'monitor.db'}",
            "drift": {"minimum_reference": 100, "minimum_window": 50, "window": 50},
            "integrity": {"sample": 100},
        }
    }
    small, large = Seeded(16), Seeded(24)
    documents = [Document(f"d{n}", "", f"text number {n}") for n in range(150)]
    with (
        Watched(tmp_path / "store", encoder=small, settings=given) as live,
        Watched(tmp_path / "store", encoder=large, settings=given) as candidate,
    ):
        live.write(documents)
        candidate.write(documents[:60])
        rollouts = RolloutStore(Control(live.qdrant))
        rollout = rollouts.begin(
            "watched",
            live=VersionRef.of(live.version),
            candidate=VersionRef.of(candidate.version),
            contract=large.contract,
            contract_settings={},
        )
        store = open_store(live.settings.monitor)
        encoders = Each(live.settings, small, large)
        at = OtherLook(live.qdrant, "watched", rollouts)
        common: Any = (live.settings, live.qdrant, store, PROBES, encoders)
        runners = {"live": Runner(*common), "other": Runner(*common, look_at=at, counted=False)}

        def each(which: str) -> dict[str, str]:
            """Probe to the version that it looked at."""
            seen = {}
            for name in PROBES:
                ended = runners[which].run(name)
                if ended is not None:
                    assert (ended.outcome, ended.failure) == (Outcome.COMPLETED, ""), ended
                    assert ended.result is not None
                    assert ended.result.level is not Level.ALARM, ended.result.words
                    seen[name] = ended.key.version
            return seen

        def all_on(version: Version) -> dict[str, str]:
            return dict.fromkeys(PROBES, version.name)

        assert each("other") == {}
        rollout = rollouts.move(rollout, S.BUILDING, "a test")
        assert each("other") == dict.fromkeys(
            [name for name in PROBES if name in FILLING_PROBES], candidate.version.name
        )
        candidate.write(documents[60:])
        rollout = rollouts.move(rollout, S.VERIFYING, "a test")
        assert each("live") == all_on(live.version)
        assert each("other") == all_on(candidate.version)
        rollout = rollouts.move(rollout, S.READY, "a test")
        set_alias(live.qdrant, "watched", candidate.version.name)
        rollout = rollouts.move(rollout, S.SOAKING, "a test")
        assert each("live") == all_on(candidate.version)
        assert each("other") == all_on(live.version)
        for version, runs in ((live.version, 2), (candidate.version, 2)):
            # The references that drift took are those of the version, before and after.
            assert store.memory(VersionKey.of(version), "drift").runs == runs
            reference = store.reference(VersionKey.of(version), "documents")
            assert reference is not None
            assert reference.vectors.shape == (150, version.contract.dimension)
        rollouts.move(rollout, S.COMPLETED, "a test")
        assert each("other") == {}
        store.close()
