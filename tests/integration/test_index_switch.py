"""Searches follow the alias: without an error, without a mix, and without waiting for a model."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.core import index as index_module
from pipelines.core.encoder import load_encoder
from pipelines.core.errors import (
    CanaryMismatchError,
    ContractMismatchError,
    IndexMissingError,
    ModelError,
)
from pipelines.core.index import Index
from pipelines.core.live import LiveVersion, Opened
from pipelines.core.qdrant import Qdrant
from pipelines.core.settings import ContractSettings, RuntimeSettings, Settings
from pipelines.core.versions import Version, create_version, set_alias
from tests.support.corpora import Document
from tests.support.probing import Seeded, Watched
from tests.support.processes import REPOSITORY, wait_until
from tests.support.qdrant_server import qdrant_url
from tests.support.switching import Searcher, Witness, percentile, two_encoders
from tests.support.tiny_model import make_tiny_model

DOCUMENTS = [Document(f"d/{number}", "", f"text number {number}") for number in range(40)]
QUESTIONS = [f"question {number}" for number in range(50)]
SWITCHES = 50


@dataclass
class Pair:
    """An index with two versions; the alias names the first one."""

    settings: Settings
    qdrant: Qdrant
    versions: list[Version]
    encoders: dict[str, Any]
    before_open: Callable[[str], None] = lambda name: None
    witness: Witness | None = None

    def encoder_for(self, version: Version, _settings: Settings) -> Any:
        self.before_open(version.name)
        encoder = self.encoders[version.fingerprint]
        return encoder if self.witness is None else self.witness.wrap(encoder)

    def index(self, alias_seconds: float = 0.0) -> Index:
        index = Index(self.settings, alias_seconds=alias_seconds)
        self.witness = Witness(index)
        return index

    def switch(self, to: int) -> None:
        set_alias(self.qdrant, self.settings.index, self.versions[to].name)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """Versions of different dimension on the embedded engine."""
    one, two = two_encoders().values()
    with Watched(tmp_path, encoder=one) as watched:
        watched.write(DOCUMENTS)
        first = watched.version
        watched.version = create_version(watched.qdrant, watched.settings, two)
        watched.encoder = two
        watched.write(DOCUMENTS, at=1_750_000_000_000)
        made = Pair(
            watched.settings,
            watched.qdrant,
            [first, watched.version],
            {encoder.contract.fingerprint: encoder for encoder in (one, two)},
        )
        monkeypatch.setattr(index_module, "encoder_for", made.encoder_for)
        yield made


@pytest.mark.alone
def test_fifty_switches_under_concurrent_searches(pair: Pair) -> None:
    """No error, no query for one version at the other, p99 at most 1.5 times that without."""
    index = pair.index(alias_seconds=0.02)
    searchers = [Searcher(index, QUESTIONS[number:]) for number in range(4)]
    index.search("warm up")
    pair.switch(1)
    wait_until(lambda: index.search("warm up") and index.state().serving == pair.versions[1].name)
    for searcher in searchers:
        searcher.start()

    def pass_searches(count: int) -> None:
        goals = [len(searcher.seconds) + count for searcher in searchers]
        wait_until(
            lambda: all(len(s.seconds) >= g for s, g in zip(searchers, goals, strict=True)),
            60,
            interval_seconds=0.002,
        )

    spans: dict[str, list[tuple[float, float]]] = {"quiet": [], "switching": []}
    switched = 0
    # In turns, so that what else runs on this machine meets both alike.
    for _ in range(10):
        began = time.monotonic()
        pass_searches(50)
        spans["quiet"].append((began, time.monotonic()))
        began = time.monotonic()
        for _ in range(SWITCHES // 10):
            pair.switch(switched % 2)
            switched += 1
            pass_searches(10)
        spans["switching"].append((began, time.monotonic()))
    for searcher in searchers:
        searcher.stop()
    took = {
        kind: [
            seconds
            for searcher in searchers
            for at, seconds in searcher.seconds
            if any(first <= at < last for first, last in parts)
        ]
        for kind, parts in spans.items()
    }
    p99 = {kind: percentile(seconds, 0.99) for kind, seconds in took.items()}
    assert pair.witness is not None
    print(
        f"\n{switched} switches, {sum(map(len, took.values()))} searches, p99 "
        f"{1000 * p99['quiet']:.1f} ms without and {1000 * p99['switching']:.1f} ms with "
        f"(ratio {p99['switching'] / p99['quiet']:.2f}); asked {pair.witness.asked}"
    )
    assert switched == SWITCHES
    assert [searcher.errors for searcher in searchers] == [[]] * 4
    assert [searcher.empty for searcher in searchers] == [0] * 4
    assert pair.witness.mixed == []
    assert min(pair.witness.asked.values()) > 100
    assert p99["switching"] <= 1.5 * p99["quiet"]


@pytest.mark.alone
def test_no_search_waits_for_a_load(pair: Pair) -> None:
    """An encoder that takes three seconds to load slows none; then it is the one that answers."""
    release = threading.Event()
    pair.before_open = lambda name: (
        release.wait(3.0) and None if name == pair.versions[1].name else None
    )
    index = pair.index()
    index.search("first")
    searcher = Searcher(index, QUESTIONS)
    searcher.start()
    pair.switch(1)
    wait_until(lambda: index.state().loading == pair.versions[1].name, 10)
    seen = len(searcher.seconds)
    began = time.monotonic()
    wait_until(lambda: index.state().serving == pair.versions[1].name, 20)
    loaded_in = time.monotonic() - began
    during = [seconds for _, seconds in searcher.seconds[seen:]]
    searcher.stop()
    print(f"\n{len(during)} searches during a load of {loaded_in:.1f} s, at most {max(during):.3f}")
    assert loaded_in >= 2.5
    assert len(during) > 100
    assert max(during) < 0.5
    assert searcher.errors == []
    assert pair.witness is not None
    assert pair.witness.mixed == []


def test_a_version_that_cannot_be_opened_here_is_said_once_and_tried_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Searches go on with the version before; the state says why; the mended one is served."""
    now = [1000.0]
    attempts: list[str] = []
    broken = True

    def open_it(name: str) -> None:
        attempts.append(name)
        if broken and name == pair.versions[1].name:
            raise ModelError("no such folder")

    pair.before_open = open_it
    index = pair.index()
    index._following._clock = lambda: now[0]
    index.search("first")
    pair.switch(1)
    index.search("second")
    wait_until(lambda: index.state().problem)
    for _ in range(20):
        assert index.search("again")
    assert attempts.count(pair.versions[1].name) == 1
    state = index.state()
    assert state.serving == pair.versions[0].name
    assert state.live == pair.versions[1].name
    assert "no such folder" in state.problem
    assert state.retry_in_seconds == 5.0
    for pause, tries in ((5.1, 2), (9.0, 2), (1.1, 3)):
        now[0] += pause
        index.search("again")
        wait_until(lambda: index.state().loading == "")
        assert attempts.count(pair.versions[1].name) == tries
    assert capsys.readouterr().out.count("version_not_served") <= 1
    broken = False
    now[0] += 3600
    index.search("again")
    wait_until(lambda: index.state().serving == pair.versions[1].name)
    assert index.state().problem == ""


def test_canaries_that_do_not_hold_are_no_version_to_serve(pair: Pair) -> None:
    """Another process's vectors may be right: this one goes on with what it can encode."""
    damaged = Seeded(24, model_hash="1" * 64, noise=0.3)
    index = pair.index()
    index.search("first")
    pair.encoders[damaged.contract.fingerprint] = damaged
    pair.switch(1)
    index.search("second")
    wait_until(lambda: index.state().problem)
    assert index.search("third")
    assert index.state().serving == pair.versions[0].name
    with pytest.raises(CanaryMismatchError):
        index.search("by name", version=pair.versions[1].name)


def test_a_collection_dropped_under_a_search_is_followed_at_once(pair: Pair) -> None:
    """However old the answer about the alias may be; once, and with an error that says so else."""
    index = pair.index(alias_seconds=3600)
    index.search("first")
    pair.switch(1)
    pair.qdrant.call("delete_collection", pair.versions[0].name)
    assert index.search("second")
    assert index.state().serving == pair.versions[1].name
    pair.qdrant.call("delete_collection", pair.versions[1].name)
    with pytest.raises(IndexMissingError, match="no index"):
        index.search("third")


def test_nothing_left_to_search_says_both_names(pair: Pair) -> None:
    """The version before is gone, and the live one cannot be opened here."""

    def open_it(name: str) -> None:
        if name == pair.versions[1].name:
            raise ModelError("no such folder")

    pair.before_open = open_it
    index = pair.index(alias_seconds=3600)
    index.search("first")
    pair.switch(1)
    pair.qdrant.call("delete_collection", pair.versions[0].name)
    with pytest.raises(IndexMissingError, match=r"is gone, and .* cannot be opened here: no such"):
        index.search("second")


def test_many_threads_open_the_first_version_once(pair: Pair) -> None:
    """They wait for the one that does."""
    opened: list[str] = []
    pair.before_open = opened.append
    index = pair.index()
    searchers = [Searcher(index, QUESTIONS) for _ in range(8)]
    for searcher in searchers:
        searcher.start()
    wait_until(lambda: all(searcher.seconds for searcher in searchers))
    for searcher in searchers:
        searcher.stop()
    assert opened == [pair.versions[0].name]
    assert [searcher.errors for searcher in searchers] == [[]] * 8


def test_a_vector_is_never_sent_to_another_contract(pair: Pair) -> None:
    """It meets the version it was encoded for while that is open, and is refused after."""
    index = pair.index()
    index.search("first")
    first, second = pair.versions
    vector = pair.encoders[first.fingerprint].encode_queries(["q"]).vectors[0]
    pair.switch(1)
    wait_until(lambda: index.search("x") and index.state().serving == second.name)
    assert index.search_vector(vector, fingerprint=first.fingerprint)
    with pytest.raises(ContractMismatchError, match="fingerprint"):
        index.search_vector(vector, fingerprint="0" * 12)
    with pytest.raises(ContractMismatchError, match="fingerprint"):
        index.search_vector(vector, fingerprint=first.fingerprint, version=second.name)


@pytest.mark.alone
def test_the_price_of_following_is_a_look_at_the_clock(pair: Pair) -> None:
    """Between two looks at the alias a search asks Qdrant nothing more."""
    index = pair.index(alias_seconds=3600)
    index.search("first")
    asked: list[str] = []
    qdrant: Any = index._qdrant
    real = qdrant._qdrant.call
    qdrant.call = lambda method, /, *a, **k: (asked.append(method), real(method, *a, **k))[1]
    index.search("second")
    assert asked == ["query_points"]


def test_encoders_of_versions_that_are_neither_live_nor_previous_are_freed(tmp_path: Path) -> None:
    """Whatever was rolled out before: two encoders stay, and two that were asked for by name."""
    place = str(make_tiny_model(tmp_path, dimension=16))
    runtime = RuntimeSettings(device="cpu", threads=1)
    made: dict[str, Any] = {}
    names = [f"v{number}" for number in range(8)]

    def open_it(name: str) -> Opened:
        contract = ContractSettings(model=place, query_prompt=name)
        encoder = load_encoder(contract, runtime)
        made[name] = weakref.ref(encoder)
        version: Any = _named(name)
        return Opened(version, encoder)

    live = [names[0]]
    following = LiveVersion(lambda: live[0], open_it, alias_seconds=0)
    following.get()
    for name in names[1:]:
        live[0] = name

        def follows(name: str = name) -> bool:
            return following.get().name == name

        wait_until(follows)
    gc.collect()
    alive = [name for name in names if made[name]() is not None]
    assert alive[-2:] == names[-2:]
    assert len(alive) <= 4
    again = load_encoder(ContractSettings(model=place, query_prompt=names[-1]), runtime)
    assert again is made[names[-1]]()


def _named(name: str) -> Any:
    class Named:
        fingerprint = name

    Named.name = name  # type: ignore[attr-defined]
    return Named()


@pytest.mark.alone
def test_processes_follow_fifty_switches(tmp_path: Path) -> None:
    """Several processes on a server: no error, no mix, p99 at most 1.5 times that without."""
    one, two = two_encoders().values()
    with qdrant_url() as url:
        index = f"switch-{time.time_ns()}"
        with Watched(url=url, index=index, encoder=one) as watched:
            watched.write(DOCUMENTS)
            versions = [watched.version]
            watched.version = create_version(watched.qdrant, watched.settings, two)
            watched.encoder = two
            versions.append(watched.version)
            watched.write(DOCUMENTS, at=1_750_000_000_000)
            searchers = _Processes(tmp_path, watched.settings, 3)
            try:
                searchers.wait_ready()
                # Both versions are open before the clock runs: what is measured is the switch.
                for to in (1, 0):
                    set_alias(watched.qdrant, index, versions[to].name)
                    _pause(1.5)
                spans: dict[str, list[tuple[float, float]]] = {"quiet": [], "switching": []}
                for _ in range(10):
                    began = time.monotonic()
                    _pause(1.0)
                    spans["quiet"].append((began, time.monotonic()))
                    began = time.monotonic()
                    for number in range(SWITCHES // 10):
                        set_alias(watched.qdrant, index, versions[(number + 1) % 2].name)
                        _pause(0.2)
                    spans["switching"].append((began, time.monotonic()))
                found = searchers.end()
            finally:
                searchers.kill()
    took = {
        kind: [
            seconds
            for report in found
            for at, seconds in report["seconds"]
            if any(first <= at < last for first, last in parts)
        ]
        for kind, parts in spans.items()
    }
    p99 = {kind: percentile(seconds, 0.99) for kind, seconds in took.items()}
    print(
        f"\n{SWITCHES} switches, {len(found)} processes, {sum(map(len, took.values()))} searches, "
        f"p99 {1000 * p99['quiet']:.1f} ms without and {1000 * p99['switching']:.1f} ms with "
        f"(ratio {p99['switching'] / p99['quiet']:.2f})"
    )
    assert [report["errors"] for report in found] == [[]] * 3
    assert [report["mixed"] for report in found] == [[]] * 3
    assert all(len(report["asked"]) == 2 for report in found)
    assert p99["switching"] <= 1.5 * p99["quiet"]


def _pause(seconds: float) -> None:
    """Time in which the searchers search: what is measured here is a rate of switches."""
    threading.Event().wait(seconds)


class _Processes:
    def __init__(self, folder: Path, settings: Settings, count: int) -> None:
        self._stop = folder / "stop"
        self._ready = [folder / f"ready-{number}" for number in range(count)]
        values = {
            "index": settings.index,
            "qdrant": {"url": settings.qdrant.url},
            "runtime": {"device": "cpu", "threads": 1},
        }
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.support.switching",
                    f"--settings={json.dumps(values)}",
                    f"--stop={self._stop}",
                    f"--ready={ready}",
                ],
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for ready in self._ready
        ]

    def wait_ready(self) -> None:
        wait_until(lambda: all(path.exists() for path in self._ready), 120)

    def end(self) -> list[dict[str, Any]]:
        self._stop.touch()
        found = []
        for process in self._processes:
            out, error = process.communicate(timeout=60)
            assert process.returncode == 0, error[-2000:]
            found.append(json.loads(out.splitlines()[-1]))
        return found

    def kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def test_percentile_is_of_what_was_measured() -> None:
    """Guard of the measurement itself."""
    assert percentile(list(np.arange(101.0)), 0.99) == 99.0
