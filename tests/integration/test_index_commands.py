"""`index adopt` and `index purge-tombstones` as people type them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from qdrant_client import models

from monitors.probes.fidelity import FidelityProbe
from monitors.probes.integrity import IntegrityProbe
from pipelines.cli import app
from pipelines.core.control import Control
from pipelines.core.encoder import load_encoder
from pipelines.core.errors import ExitCode
from pipelines.core.qdrant import connect, disconnect
from pipelines.core.rollout import RolloutStore, VersionRef
from pipelines.core.settings import Settings
from pipelines.core.versions import open_version
from tests.support.brokers import embedded_broker
from tests.support.own_folder import own_folder
from tests.support.probing import Watched
from tests.support.tiny_model import make_tiny_model

TEXTS = [f"sentence number {number} about something" for number in range(30)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: Any, model: Path) -> Iterator[Settings]:
    """A folder with settings, a contract's file, and a collection in LangChain's shape."""
    with own_folder(tmp_path, monkeypatch):
        values: dict[str, Any] = {"qdrant": {"path": "store"}, "contract": {"model": str(model)}}
        Path("plumbline.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        Path("contract.yaml").write_text(yaml.safe_dump({"model": str(model)}), encoding="utf-8")
        settings = Settings(**values)
        qdrant = connect(settings)
        vectors = load_encoder(settings.contract, settings.runtime).encode_documents(TEXTS).vectors
        size = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
        qdrant.call("create_collection", "theirs", vectors_config=size)
        points = [
            models.PointStruct(
                id=number,
                vector=vectors[number].tolist(),
                payload={"page_content": text, "metadata": {"page": number}},
            )
            for number, text in enumerate(TEXTS)
        ]
        qdrant.call("upsert", "theirs", points=points)
        disconnect()
        yield settings
        disconnect()


def run(*arguments: str) -> int:
    """As its own process would run it: nothing left open by the one before."""
    disconnect()
    return app.run(["index", *arguments])


def collections(settings: Settings) -> list[str]:
    disconnect()
    found = connect(settings).call("get_collections").collections
    return sorted(collection.name for collection in found)


ADOPT = ("adopt", "theirs", "--contract", "contract.yaml", "--like", "langchain")


def test_adopt_looks_first_and_then_copies(here: Settings, capsys: Any) -> None:
    """A dry run says what would become of it; the monitor finds nothing amiss in what did."""
    assert run(*ADOPT, "--dry-run") == ExitCode.OK
    said = capsys.readouterr().out
    assert "30 of 30 documents encoded anew verify" in said
    assert "30 ids were numbers" in said
    assert collections(here) == ["theirs"]
    assert run(*ADOPT, "--json") == ExitCode.OK
    report = json.loads(capsys.readouterr().out)
    assert (report["copied"], report["live"], report["unmapped"]) == (30, True, {})
    assert run(*ADOPT) == ExitCode.OK
    assert "adopted already" in capsys.readouterr().out
    assert run("list", "--json") == ExitCode.OK
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["version"], listed["points"]) == (report["version"], 30)
    with Watched(
        Path("store"), index="docs", encoder=load_encoder(here.contract, here.runtime),
        settings={"contract": here.contract.model_dump()},
    ) as watched:  # fmt: skip
        assert watched.version.name == report["version"]
        assert watched.run(IntegrityProbe(settle_seconds=0.0)).reason == "first_run"
        assert watched.run(FidelityProbe()).level.name == "OK"


def test_adopt_says_no_with_exit_code_1(here: Settings, capsys: Any) -> None:
    """What does not verify is shown, and nothing is written."""
    Path("contract.yaml").write_text(
        yaml.safe_dump({"model": here.contract.model, "document_prompt": "passage: "})
    )
    assert run(*ADOPT) == ExitCode.NO
    said = capsys.readouterr().out
    assert "refused: 30 of 30 documents" in said
    assert "Nothing was written" in said
    assert [name for name in collections(here) if name != "plumbline-control"] == ["theirs"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("adopt", "theirs", "--contract", "contract.yaml"), ExitCode.USAGE, "--id-field"),
        ((*ADOPT[:-1], "langchian"), ExitCode.USAGE, "valid are langchain"),
        ((*ADOPT, "--title-field", "tite"), ExitCode.USAGE, "no point of theirs has `tite`"),
        ((*ADOPT, "--vector", "x"), ExitCode.USAGE, "--vector"),
        (("adopt", "nowhere", *ADOPT[2:]), ExitCode.NO, "there is no collection 'nowhere'"),
        (("adopt", "theirs", "--contract", "no.yaml"), ExitCode.USAGE, "cannot read no.yaml"),
        ((*ADOPT[:3], "other.yaml", *ADOPT[4:]), ExitCode.USAGE, "model"),
        (("purge-tombstones",), ExitCode.NO, "no index"),
    ],
)
def test_refused_with_a_reason_and_nothing_written(
    here: Settings, capsys: Any, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """Usage, settings and what is not there, each in words."""
    Path("other.yaml").write_text(yaml.safe_dump({"model": "./no-such-model"}), encoding="utf-8")
    assert run(*arguments) == code
    assert words in capsys.readouterr().err
    assert [name for name in collections(here) if name != "plumbline-control"] == ["theirs"]


def test_purge_needs_a_topic_and_shows_its_conditions(here: Settings, capsys: Any) -> None:
    """Without Kafka nobody knows what may still come; with it every condition has a row."""
    assert run(*ADOPT) == ExitCode.OK
    capsys.readouterr()
    assert run("purge-tombstones") == ExitCode.USAGE
    assert "kafka.topics" in capsys.readouterr().err
    with embedded_broker() as broker:
        broker.create_topic("documents")
        values = yaml.safe_load(Path("plumbline.yaml").read_text())
        kafka = {**broker.kafka, "api_version": [2, 3], "topics": ["documents"]}
        Path("plumbline.yaml").write_text(yaml.safe_dump({**values, "kafka": kafka}))
        assert run("purge-tombstones") == ExitCode.NO
        said = capsys.readouterr().out
        for name in ("rollout", "retention", "age", "committed", "replays"):
            assert f"\n {name} " in said, said
        # This broker tells no retention, and no job has committed anything.
        assert "not told" in said
        assert "has committed nothing" in said


def test_a_purge_by_schedule_goes_on_until_it_is_stopped(
    here: Settings, capsys: Any, monkeypatch: Any
) -> None:
    """A refusal is said and tried again; what a signal sets ends it."""
    assert run(*ADOPT) == ExitCode.OK
    capsys.readouterr()
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            if len(waits) == 2:
                self.set()
            return self.is_set()

    monkeypatch.setattr("pipelines.cli.signals.stopping", lambda: nullcontext(Stop()))
    with embedded_broker() as broker:
        broker.create_topic("documents")
        values = yaml.safe_load(Path("plumbline.yaml").read_text())
        kafka = {**broker.kafka, "api_version": [2, 3], "topics": ["documents"]}
        Path("plumbline.yaml").write_text(yaml.safe_dump({**values, "kafka": kafka}))
        assert run("purge-tombstones", "--every", "6", "--json") == ExitCode.OK
    lines = capsys.readouterr().out.strip().splitlines()
    assert [json.loads(line)["refused"] for line in lines] == [True, True]
    assert waits == [6 * 3600] * 2


def test_the_alias_is_shown_and_put_back(here: Settings, capsys: Any) -> None:
    """Without its alias an index is found by nobody; the command says so, and mends it."""
    assert run("create") == ExitCode.OK
    (name,) = [found for found in collections(here) if found.startswith("docs--")]
    connect(here).call(
        "update_collection_aliases",
        change_aliases_operations=[
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="docs"))
        ],
    )
    capsys.readouterr()
    assert run("alias", "--json") == ExitCode.NO
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "index": "docs",
        "version": None,
        "before": None,
        "recorded": None,
        "ok": False,
    }
    assert run("alias", "docs--nothing") == ExitCode.NO
    assert "docs--nothing" in capsys.readouterr().err
    assert run("alias", name) == ExitCode.OK
    assert f"docs → {name}, was nowhere" in capsys.readouterr().out
    assert run("alias") == ExitCode.OK


def test_the_alias_command_is_no_switch(here: Settings, capsys: Any, tmp_path: Path) -> None:
    """It moves an alias away from another version, or from what a rollout recorded, when it is
    told to by force, and never to another index's version or under an unfinished step."""
    assert run("create") == ExitCode.OK
    (first,) = [found for found in collections(here) if found.startswith("docs--")]
    Path("other.yaml").write_text(
        yaml.safe_dump(
            {
                "qdrant": {"path": "store"},
                "contract": {"model": here.contract.model, "document_prompt": "passage: "},
            }
        ),
        encoding="utf-8",
    )
    assert run("create", "--config", "other.yaml") == ExitCode.OK
    (second,) = [c for c in collections(here) if c.startswith("docs--") and c != first]
    assert run("alias", second) == ExitCode.NO
    assert first in capsys.readouterr().err
    assert run("alias", second, "--force") == ExitCode.OK
    assert run("alias", first, "--index", "another") == ExitCode.NO
    assert "of the index 'docs'" in capsys.readouterr().err

    disconnect()
    qdrant = connect(here)
    rollouts = RolloutStore(Control(qdrant))
    versions = [VersionRef.of(open_version(qdrant, name)) for name in (first, second)]
    contract = open_version(qdrant, second).contract
    rollout = rollouts.begin(
        "docs",
        live=versions[0],
        candidate=versions[1],
        contract=contract,
        contract_settings={},
    )
    assert run("alias") == ExitCode.NO
    assert f"`plumbline index alias {first}` puts it back" in capsys.readouterr().out
    assert run("alias", second) == ExitCode.NO
    assert run("alias", first) == ExitCode.OK
    assert run("alias") == ExitCode.OK
    disconnect()
    rollouts = RolloutStore(Control(connect(here)))
    rollouts.intend(rollouts.refresh(rollout), "abort", "a test")
    assert run("alias", first, "--force") == ExitCode.NO
    assert "`plumbline rollout abort` finishes it" in capsys.readouterr().err
