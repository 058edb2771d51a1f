"""The committed dashboards as a reader finds them: panels, queries, and what Grafana puts in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dashboards import GENERATED

__all__ = ["Asked", "asked", "filled_in", "labels_of", "panels_of", "read_all"]

_LABEL = re.compile(r"{{\s*([a-z_]+)\s*}}")
_VARIABLE = re.compile(r"label_values\((.*), (\w+)\)")


@dataclass(frozen=True)
class Asked:
    """One query.

    Parameters
    ----------
    uid
        Of its dashboard.
    place
        Title of the panel, or name of the annotation or variable.
    part
        Letter of the panel's query; `annotation` or `variable`.
    kind
        Type of the panel; empty for the others.
    labels
        That its series must carry: those that the legend, the columns or the title name.
    label
        Whose values a variable asks for.
    """

    uid: str
    place: str
    part: str
    expression: str
    kind: str = ""
    labels: frozenset[str] = frozenset()
    label: str = ""

    @property
    def name(self) -> str:
        """For tables of expectations and for messages."""
        return f"{self.uid} / {self.place} / {self.part}"


def read_all() -> dict[str, dict[str, Any]]:
    """Every committed dashboard by the name of its file."""
    return {
        path.stem: json.loads(path.read_text("utf-8")) for path in sorted(GENERATED.glob("*.json"))
    }


def panels_of(dashboard: Mapping[str, Any], *, rows: bool = False) -> Iterator[dict[str, Any]]:
    """Every panel, those of collapsed rows too, and the rows on request."""
    for panel in dashboard["panels"]:
        if panel["type"] != "row" or rows:
            yield panel
        yield from panel.get("panels", [])


def asked(dashboard: Mapping[str, Any]) -> Iterator[Asked]:
    """Every query of panels, annotations and variables."""
    uid = dashboard["uid"]
    for panel in panels_of(dashboard):
        for target in panel["targets"]:
            labels = labels_of(target["legendFormat"]) | _columns(panel)
            yield Asked(uid, panel["title"], target["refId"], target["expr"], panel["type"], labels)
    for one in dashboard["annotations"]["list"]:
        labels = labels_of(one["titleFormat"] + one["textFormat"])
        yield Asked(uid, one["name"], "annotation", one["target"]["expr"], labels=labels)
    for one in dashboard["templating"]["list"]:
        if one["type"] == "query":
            found = _VARIABLE.fullmatch(one["query"]["query"])
            assert found, one["query"]
            yield Asked(uid, one["name"], "variable", found[1], label=found[2])


def labels_of(legend: str) -> frozenset[str]:
    """Labels that a legend or a title names."""
    return frozenset(_LABEL.findall(legend))


def _columns(panel: Mapping[str, Any]) -> frozenset[str]:
    organized = [one for one in panel.get("transformations", []) if one["id"] == "organize"]
    fields = {name for one in organized for name in one["options"]["renameByName"]}
    return frozenset(name for name in fields if not name.startswith("Value"))


def filled_in(
    expression: str, dashboard: Mapping[str, Any], *, index: str, window: str = "15m"
) -> str:
    """The expression as Grafana sends it, with every version chosen."""
    values = {
        "index": index,
        "version": ".*",
        "__rate_interval": "1m",
        "__interval": "15s",
        "__range": window,
    }
    for one in dashboard["templating"]["list"]:
        if one["type"] == "constant":
            values[one["name"]] = one["query"]
    filled = re.sub(r"\$(\w+)", lambda found: values[found[1]], expression)
    assert "$" not in filled, filled
    return filled
