"""One run of a probe on a real index: what is kept, and what is not."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from monitors.encoders import Encoders
from monitors.probes.base import Figure, Level, ProbeContext, ProbeResult
from monitors.runner import Runner
from monitors.store import Outcome, Store, VersionKey, open_store
from pipelines.core.errors import ModelError, ServiceUnavailableError
from pipelines.core.qdrant import Qdrant, disconnect
from pipelines.core.settings import Settings
from pipelines.core.versions import set_alias
from tests.support.monitor_probes import SIZE, FakeProbe, make_settings, make_version, result
from tests.support.processes import wait_until
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


class Bench:
    """A live version, a store, and a runner of fake probes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.qdrant, self.version = make_version(settings)
        self.store: Store = open_store(settings.monitor)
        self.probes: dict[str, FakeProbe] = {}
        self.encoders = Encoders(settings)
        self.runner = Runner(settings, self.qdrant, self.store, self.probes, self.encoders)

    @property
    def key(self) -> VersionKey:
        return VersionKey.of(self.version)

    def add(
        self, act: Callable[[ProbeContext], ProbeResult] | None = None, name: str = "drift"
    ) -> FakeProbe:
        self.probes[name] = FakeProbe(name, act)
        return self.probes[name]


@pytest.fixture
def bench(tmp_path: Path, model: Path) -> Iterator[Bench]:
    made = Bench(make_settings(tmp_path, model, monitor={"drift": {"timeout_seconds": 5}}))
    yield made
    made.runner.cancel()
    made.store.close()
    disconnect()


def hurried(bench: Bench, seconds: float) -> None:
    """Gives the probe `drift` this much time."""
    drift = bench.settings.monitor.drift.model_copy(update={"timeout_seconds": seconds})
    monitor = bench.settings.monitor.model_copy(update={"drift": drift})
    settings = bench.settings.model_copy(update={"monitor": monitor})
    bench.runner = Runner(settings, bench.qdrant, bench.store, bench.probes, bench.encoders)


def test_a_run_is_given_what_the_last_one_kept(bench: Bench) -> None:
    """State and baseline come back, under the version they belong to."""
    given = []

    def act(context: ProbeContext) -> ProbeResult:
        given.append((context.state, context.baseline, context.version.name))
        return result(state={"runs": len(given)}, baseline={"n": 1} if len(given) == 1 else None)

    bench.add(act)
    ended = [bench.runner.run("drift") for _ in range(2)]
    assert [run.outcome for run in ended] == [Outcome.COMPLETED] * 2
    assert all(run.recorded for run in ended)
    name = bench.version.name
    assert given == [(None, None, name), ({"runs": 1}, {"n": 1}, name)]
    kept = bench.store.latest(bench.key)[1]["drift"]
    assert kept.evidence == {
        "statistic": 1.5,
        "p_value": 0.5,
        "baseline": 4,
        "samples": {"current": 7},
    }
    assert [(figure.name, figure.value) for figure in kept.figures] == [(SIZE.name, 3.0)]


def test_random_numbers_follow_seed_probe_and_number_of_the_run(bench: Bench) -> None:
    """Another run has others; the same store and seed have the same."""
    drawn: dict[str, list[int]] = {"drift": [], "ann": []}
    for name, draws in drawn.items():

        def act(context: ProbeContext, draws: list[int] = draws) -> ProbeResult:
            draws.append(int(context.random.integers(2**60)))
            return result()

        bench.add(act, name)
        for _ in range(2):
            bench.runner.run(name)
    assert len({*drawn["drift"], *drawn["ann"]}) == 4
    bench.store.prune(bench.store.history("docs")[0].started_at.replace(year=2999))
    dry = Runner(
        bench.settings, bench.qdrant, bench.store, bench.probes, bench.encoders, record=False
    )
    for _ in range(2):
        dry.run("drift")
    assert drawn["drift"][2] == drawn["drift"][3] == drawn["drift"][0]


def test_a_failing_probe_leaves_its_last_good_values(bench: Bench) -> None:
    """The failure is counted with its reason; what is not our error is not quoted."""
    errors: list[Exception] = [
        ModelError("no such model"),
        ServiceUnavailableError("Kafka is away"),
        ValueError("the document says: secret text"),
    ]
    bench.add()
    bench.runner.run("drift")

    def act(_context: ProbeContext) -> ProbeResult:
        raise errors.pop(0)

    bench.probes["drift"].act = act
    failures = [bench.runner.run("drift") for _ in range(3)]
    assert [run.failure for run in failures] == ["model", "unavailable", "fault"]
    assert failures[0].message == "no such model"
    assert failures[2].message.startswith("ValueError in ")
    assert "secret text" not in failures[2].message
    last, completed = bench.store.latest(bench.key)
    assert last["drift"].failure == "fault"
    assert completed["drift"].figures[0].value == 3.0


def test_a_hanging_run_is_left_behind_and_not_started_again(bench: Bench) -> None:
    """`timeout`, then `still_running` until its thread ends; what it says then is dropped."""
    release = threading.Event()

    def act(_context: ProbeContext) -> ProbeResult:
        release.wait(60)
        return result(state={"late": True}, level=Level.ALARM)

    probe = bench.add(act)
    hurried(bench, 0.3)
    begun = time.monotonic()
    assert bench.runner.run("drift").failure == "timeout"
    assert time.monotonic() - begun < 5
    assert bench.runner.run("drift").failure == "still_running"
    assert (probe.runs, bench.runner.running) == (1, ("drift",))
    release.set()
    wait_until(lambda: not bench.runner.running)
    assert bench.store.memory(bench.key, "drift").state is None
    assert "drift" not in bench.store.latest(bench.key)[1]
    probe.act = lambda _context: result()
    assert bench.runner.run("drift").outcome is Outcome.COMPLETED
    assert probe.most_at_once == 1
    assert bench.store.counts("docs") == {
        ("drift", "failed", "timeout"): 1,
        ("drift", "failed", "still_running"): 1,
        ("drift", "completed", ""): 1,
    }


def test_a_run_that_keeps_to_its_deadline_fails_the_same_way(bench: Bench) -> None:
    """`Deadline.check` and the service's own clock give the same reason."""

    def act(context: ProbeContext) -> ProbeResult:
        while True:
            context.deadline.check()
            time.sleep(0.01)

    bench.add(act)
    hurried(bench, 0.3)
    assert bench.runner.run("drift").failure == "timeout"
    wait_until(lambda: not bench.runner.running)


def test_the_alias_moves_while_a_probe_runs(bench: Bench) -> None:
    """The result is of no use: dropped, counted, and neither an alarm nor a failure."""
    _, other = make_version(bench.settings, document_prompt="passage: ")
    assert other.name != bench.version.name

    def act(_context: ProbeContext) -> ProbeResult:
        set_alias(bench.qdrant, "docs", other.name)
        return result(Level.ALARM, state={"of": "the old one"})

    bench.add(act)
    assert bench.runner.run("drift").outcome is Outcome.VERSION_SWITCHED
    for key in (bench.key, VersionKey.of(other)):
        assert bench.store.memory(key, "drift").runs == 0
    assert bench.store.counts("docs") == {("drift", "version_switched", ""): 1}
    bench.probes["drift"].act = lambda _context: result()
    assert bench.runner.run("drift").key == VersionKey.of(other)


def test_a_collection_made_anew_under_its_name_is_another(bench: Bench) -> None:
    """The incarnation tells; an error that comes of it is the switch, not a failure."""

    def act(context: ProbeContext) -> ProbeResult:
        bench.qdrant.call("delete_collection", bench.version.name)
        made = make_version(bench.settings)[1]
        set_alias(bench.qdrant, "docs", made.name)
        raise ModelError(f"half of it was gone: {context.version.name}")

    bench.add(act)
    assert bench.runner.run("drift").outcome is Outcome.VERSION_SWITCHED
    assert bench.store.history("docs") == []


def test_while_qdrant_is_away_the_version_last_seen_counts(bench: Bench, monkeypatch) -> None:
    """The failure stands beside the last good values of the live version."""
    bench.add()
    bench.store.set_live(bench.key, "", bench.runner.run("drift").started_at)

    def away(self: Qdrant, *_: object, **__: object) -> None:
        raise ServiceUnavailableError("Qdrant did not answer")

    monkeypatch.setattr(Qdrant, "call", away)
    ended = bench.runner.run("drift")
    assert (ended.failure, ended.key) == ("unavailable", bench.key)
    last, completed = bench.store.latest(bench.key)
    assert (last["drift"].failure, completed["drift"].level) == ("unavailable", Level.OK)


def test_an_index_that_is_not_there_names_those_that_are(bench: Bench) -> None:
    """Said in words, and counted."""
    settings = bench.settings.model_copy(update={"index": "dogs"})
    bench.add()
    runner = Runner(settings, bench.qdrant, bench.store, bench.probes, bench.encoders)
    ended = runner.run("drift")
    assert ended.failure == "index_missing"
    assert "no index 'dogs'" in ended.message
    assert "there are docs" in ended.message


def test_a_version_of_a_newer_release(bench: Bench) -> None:
    """Its metadata cannot be read: said, and nothing else is guessed."""
    metadata = bench.qdrant.call("get_collection", bench.version.name).config.metadata
    metadata["plumbline"]["schema"] = 99
    bench.qdrant.call("update_collection", bench.version.name, metadata=metadata)
    probe = bench.add()
    ended = bench.runner.run("drift")
    assert (ended.failure, probe.runs) == ("version_unreadable", 0)
    assert ended.key == VersionKey("docs", bench.version.name, "")
    assert "Upgrade Plumbline" in ended.message


def test_a_contract_whose_model_is_gone(bench: Bench, tmp_path: Path) -> None:
    """Probes that encode say so; the others go on."""
    place = make_tiny_model(tmp_path / "other", seed=9)
    _, version = make_version(bench.settings, model=str(place))
    set_alias(bench.qdrant, "docs", version.name)
    shutil.rmtree(place)
    from pipelines.core.encoder import load

    load._encoders.clear()
    load._models.clear()

    def encode(context: ProbeContext) -> ProbeResult:
        context.encoder()
        return result()

    bench.add(encode, "fidelity")
    bench.add(name="integrity")
    assert bench.runner.run("fidelity").failure in ("model", "contract_mismatch")
    assert bench.runner.run("integrity").outcome is Outcome.COMPLETED
    assert bench.encoders.state(VersionKey.of(version)) is False


def test_the_encoder_is_loaded_and_checked_once(bench: Bench, monkeypatch) -> None:
    """One of the version, canaries and all; two versions are held at most."""
    from monitors import encoders

    checks: list[str] = []
    real = encoders.check_process
    monkeypatch.setattr(
        encoders,
        "check_process",
        lambda version, encoder, order: (
            checks.append(version.name) or real(version, encoder, order)
        ),
    )

    def act(context: ProbeContext) -> ProbeResult:
        assert context.encoder() is context.unchecked_encoder()
        return result()

    bench.add(act)
    for _ in range(3):
        assert bench.runner.run("drift").outcome is Outcome.COMPLETED
    assert checks == [bench.version.name]
    for prompt in ("a: ", "b: "):
        bench.encoders.checked(make_version(bench.settings, document_prompt=prompt)[1])
    assert bench.encoders.state(bench.key) is None, "the oldest of three is let go"


def test_a_reference_is_kept_with_the_run_or_not_at_all(bench: Bench) -> None:
    """A run that fails after taking one leaves none; the run itself sees it at once."""
    vectors = np.eye(4, dtype=np.float32)
    fail = [True, False]

    def act(context: ProbeContext) -> ProbeResult:
        assert context.reference("documents") is None
        taken = context.keep_reference("documents", vectors, ["a", "b", "c", "d"], "the first")
        assert context.reference("documents") is taken
        if fail.pop(0):
            raise ModelError("after it")
        return result()

    bench.add(act)
    assert bench.runner.run("drift").failure == "model"
    assert bench.store.reference(bench.key, "documents") is None
    assert bench.runner.run("drift").recorded
    kept = bench.store.reference(bench.key, "documents")
    np.testing.assert_array_equal(kept.vectors, vectors)
    assert (kept.created_by, kept.reason) == ("probe drift", "the first")


def test_a_state_that_cannot_be_stored(bench: Bench) -> None:
    """NaN in it is the probe's fault: counted, the earlier state stays."""
    states: list[dict] = [{"e": 1.0}, {"e": float("nan")}, {"e": object()}]
    bench.add(lambda _context: result(state=states.pop(0)))
    outcomes = [bench.runner.run("drift") for _ in range(3)]
    assert [run.failure for run in outcomes] == ["", "fault", "fault"]
    assert bench.store.memory(bench.key, "drift").state == {"e": 1.0}


def test_figures_that_cannot_be_exported_are_left_out(bench: Bench) -> None:
    """Not finite, of another family, with other labels, or without bound."""
    figures = [Figure(SIZE, float(number), (str(number),)) for number in range(3000)]
    figures += [Figure(SIZE, float("nan"), ("x",)), Figure(SIZE, 1.0, ())]
    bench.add(lambda _context: result(figures=figures, reason="never heard of"))
    bench.runner.run("drift")
    kept = bench.store.latest(bench.key)[1]["drift"]
    assert len(kept.figures) == 1000
    assert kept.reason == "other"


def test_another_process_was_quicker(bench: Bench) -> None:
    """The run is dropped, and counted as such."""

    def act(context: ProbeContext) -> ProbeResult:
        if context.state is None:
            probe.act = lambda _context: result(state={"by": "the other"})
            other = Runner(bench.settings, bench.qdrant, bench.store, bench.probes, bench.encoders)
            assert other.run("drift").recorded
        return result(state={"by": "this one"})

    probe = bench.add(act)
    assert bench.runner.run("drift").outcome is Outcome.SUPERSEDED
    assert bench.store.memory(bench.key, "drift").state == {"by": "the other"}
    assert bench.store.counts("docs")["drift", "superseded", ""] == 1


def test_runs_that_are_called_off_write_nothing(bench: Bench) -> None:
    """A lost lease or a stop ends the wait at once, and the result is dropped."""
    begun = threading.Event()

    def act(context: ProbeContext) -> ProbeResult:
        begun.set()
        while True:
            context.deadline.check()
            time.sleep(0.01)

    bench.add(act)
    ended: list[object] = []
    thread = threading.Thread(target=lambda: ended.append(bench.runner.run("drift")))
    thread.start()
    assert begun.wait(10)
    bench.runner.cancel()
    thread.join(2)
    assert ended == [None]
    wait_until(lambda: not bench.runner.running, 5)
    assert bench.store.history("docs") == []


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_a_probe_stands_back_and_nobody_else(bench: Bench) -> None:
    """What a probe computes, on threads of its own too, gives way to those who search."""
    seen: list[int] = []

    def look() -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def act(_: ProbeContext) -> ProbeResult:
        look()
        helper = threading.Thread(target=look)
        helper.start()
        helper.join()
        return result()

    look()
    ordinary = seen.pop()
    bench.add(act)
    assert bench.runner.run("drift").outcome is Outcome.COMPLETED
    assert seen == [max(ordinary, 10)] * 2
    look()
    assert seen[-1] == ordinary
