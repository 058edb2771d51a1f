"""`rollout plan`: what it measures, what it refuses, and that it writes only its own record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli.app import run
from pipelines.core.errors import (
    ExitCode,
    GateError,
    IndexMissingError,
    RolloutConflictError,
    SettingsError,
)
from pipelines.core.rollout import RolloutState, RolloutStore
from pipelines.core.settings import ChunkSettings, ContractSettings
from pipelines.rollout import plan as planning
from pipelines.rollout.context import RolloutContext
from pipelines.rollout.plan import plan
from pipelines.rollout.status import status
from tests.support.corpora import Document
from tests.support.probing import Watched
from tests.support.tiny_model import make_tiny_model

DOCUMENTS = [
    Document(f"kb/{n}", f"Title {n}", " ".join(f"Sentence {m} of {n} is here." for m in range(30)))
    for n in range(40)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def world(tmp_path: Path, model: Path) -> Iterator[Watched]:
    with Watched(tmp_path / "store", index="docs", model=model) as watched:
        watched.write(DOCUMENTS)
        watched.delete(["kb/0", "never-seen"])
        yield watched


def candidate(model: Path, **more: Any) -> ContractSettings:
    return ContractSettings(**{"model": str(model), "chunk": {"size": 40, "overlap": 5}, **more})


def golden(path: Path, ids: list[str]) -> Path:
    queries = [
        {"id": f"q{n}", "text": f"what is {document_id}?", "judged": {document_id: 1}}
        for n, document_id in enumerate(ids)
    ]
    path.write_text(yaml.safe_dump({"version": 1, "queries": queries}), encoding="utf-8")
    return path


def collections(world: Watched) -> set[str]:
    found = world.qdrant.call("get_collections").collections
    return {collection.name for collection in found} - {"plumbline-control"}


def test_it_counts_measures_and_writes_only_its_record(world: Watched, model: Path) -> None:
    """Documents, chunks and tokens are those of the live version under the candidate's contract."""
    before = collections(world)
    report = plan(world.settings, candidate(model), sample=1000)
    figures = report.figures
    assert (figures.documents, figures.tombstones, figures.sample) == (39, 2, 39)
    assert figures.chunks > 3 * figures.documents
    assert figures.tokens > 20 * figures.chunks
    seconds, low, high = figures.seconds
    assert 0 < low <= seconds <= high
    assert figures.chunks * 32 * 4 == figures.storage.vectors
    assert {"chunk"} == set(figures.changes)
    assert before == collections(world)
    stored = RolloutContext.open(world.settings).rollout()
    assert RolloutState.PLANNED is stored.state
    assert figures.documents == stored.note("plan")["documents"]
    assert world.version.name == stored.live.name


def test_a_part_of_the_documents_stands_for_all(world: Watched, model: Path) -> None:
    """Chunks and tokens of a sample are scaled up to the version."""
    whole = plan(world.settings, candidate(model), sample=1000).figures
    store = RolloutStore(RolloutContext.open(world.settings).control)
    rollout = store.read("docs")
    assert rollout is not None
    store.move(rollout, RolloutState.ABORTED, "again, smaller")
    part = plan(world.settings, candidate(model), sample=10).figures
    assert part.sample == 10
    assert whole.tokens == pytest.approx(part.tokens, rel=0.1)


def test_recall_is_compared_on_the_sample(world: Watched, model: Path, tmp_path: Path) -> None:
    """A golden set gives recall of both, with intervals, live first."""
    from monitors.golden.files import read_golden

    file = golden(tmp_path / "golden.yaml", [f"kb/{n}" for n in range(1, 30)])
    report = plan(world.settings, candidate(model), golden=read_golden(file), sample=39)
    assert [row.system for row in report.figures.golden] == ["live", "candidate"]
    answer = json.loads(json.dumps(report.to_json()))
    assert answer["golden"]["queries"] == 29
    change = answer["golden"]["systems"][1]["recall_change"]
    assert change["low"] <= change["change"] <= change["high"]


def test_refusals_leave_no_record(
    world: Watched, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate equal to live, a foreign golden set, a full disk: refused before any write."""
    from monitors.golden.files import read_golden

    with pytest.raises(GateError, match="live already"):
        plan(world.settings, ContractSettings(model=str(model)))
    foreign = golden(tmp_path / "foreign.yaml", ["other/1", "other/2", "kb/1"])
    with pytest.raises(SettingsError, match="1 of the 3 relevant documents"):
        plan(world.settings, candidate(model), golden=read_golden(foreign))
    monkeypatch.setattr(planning, "free_bytes", lambda _path: 1000)
    with pytest.raises(GateError, match="MiB free"):
        plan(world.settings, candidate(model))
    with pytest.raises(IndexMissingError, match="nothing to roll out from"):
        plan(world.settings.model_copy(update={"index": "other"}), candidate(model))
    assert RolloutContext.open(world.settings).store.read("docs") is None


def test_one_rollout_at_a_time(world: Watched, model: Path) -> None:
    """A second plan names the first one, and what to do about it."""
    first = plan(world.settings, candidate(model)).rollout
    with pytest.raises(RolloutConflictError, match=first.rollout_id) as refused:
        plan(world.settings, candidate(model, chunk=ChunkSettings(size=50)))
    assert "plumbline rollout abort" in str(refused.value)


def test_status_names_state_wait_and_next_command(world: Watched, model: Path) -> None:
    """Before, and after a plan."""
    assert status(world.settings).next_command == "plumbline rollout plan --contract FILE"
    planned = plan(world.settings, candidate(model)).rollout
    report = status(world.settings)
    assert report.next_command == "plumbline rollout build"
    answer = json.loads(json.dumps(report.to_json()))
    assert ("planned", world.version.name) == (answer["state"], answer["alias"])
    assert [planned.rollout_id] == [past["rollout"] for past in answer["history"]]


def test_the_commands_speak_json_and_words(
    world: Watched, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user types them, with a settings file and a contract file."""
    config = tmp_path / "plumbline.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "index": "docs",
                "qdrant": {"path": str(tmp_path / "store")},
                "contract": {"model": str(model)},
                "runtime": {"device": "cpu", "threads": 1},
            }
        ),
        encoding="utf-8",
    )
    contract = tmp_path / "candidate.yaml"
    contract.write_text(
        yaml.safe_dump({"model": str(model), "chunk": {"size": 40, "overlap": 5}}),
        encoding="utf-8",
    )
    words = ["rollout", "plan", "--config", str(config), "--contract", str(contract), "--json"]
    assert run(words) == ExitCode.OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["documents"] == 39
    assert {"live": answer["contract_changes"]["chunk"]["live"]} == {"live": None}
    assert run(words) == ExitCode.NO
    assert "one rollout at a time" in capsys.readouterr().err
    assert run(["rollout", "status", "--config", str(config)]) == ExitCode.OK
    shown = capsys.readouterr().out
    assert "planned" in shown
    assert "next: plumbline rollout build" in shown
