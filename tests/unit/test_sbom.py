"""The bill of materials is valid CycloneDX and holds what is used, and only that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.audit.pins import read_lock
from deploy.sbom import REPOSITORY, bill_of_materials, problems
from pipelines import __version__


def test_the_bill_is_valid_and_complete() -> None:
    """Schema-valid; every component is the pinned one; nothing that serves development alone."""
    bill = bill_of_materials()
    assert problems(json.dumps(bill)) == []
    names = {one["name"].lower().replace("_", "-"): one for one in bill["components"]}
    assert {"apache-beam", "kafka-python", "qdrant-client", "torch", "psycopg"} <= names.keys()
    assert not {"pytest", "ruff", "mypy", "pip-audit", "cyclonedx-bom"} & names.keys()
    pinned = read_lock(REPOSITORY / "requirements.lock")
    for name, component in names.items():
        assert component["version"] in pinned[name.replace(".", "-")], name
        assert component["purl"].startswith("pkg:pypi/")
    # Some packages state theirs in words that are no licence's name.
    licensed = [name for name, component in names.items() if component.get("licenses")]
    assert len(licensed) > 0.8 * len(names), names.keys() - set(licensed)
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"]) == ("plumbline", __version__)
    edges = {edge["ref"]: edge["dependsOn"] for edge in bill["dependencies"]}
    assert any(ref.startswith("apache-beam==") for ref in edges[root["bom-ref"]])
    assert set(edges) == {root["bom-ref"]} | {one["bom-ref"] for one in bill["components"]}


@pytest.mark.parametrize(
    "damage",
    [
        {"bomFormat": "nonsense"},
        {"components": [{"type": "library"}]},
        {"components": [{"type": "nonsense", "name": "a"}]},
        {"unknown": 1},
    ],
)
def test_an_invalid_bill_is_found(damage: dict[str, Any]) -> None:
    """The schema can object."""
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": []}
    assert problems(json.dumps(bill)) == []
    assert problems(json.dumps({**bill, **damage}))
