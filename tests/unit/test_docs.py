"""Pages of documentation name files, tests and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.pages import anchors

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for folder in (ROOT / "docs", ROOT / "deploy", ROOT / "dashboards", ROOT)
    for page in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link has its file, and every anchor its heading."""
    text = page.read_text(encoding="utf-8")
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        known = file.exists()
        if known and anchor and file.suffix == ".md":
            known = anchor in anchors(file)
        if not known:
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_are_named_exist(page: Path) -> None:
    """A command that is said to prove something names tests that are there."""
    named = set(re.findall(r"tests/[\w/]+(?:\.py)?", page.read_text(encoding="utf-8")))
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]
