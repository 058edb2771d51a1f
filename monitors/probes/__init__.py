"""The probes, one file each, by the names that settings, labels and commands use.

Importing this imports none of them: a probe's libraries are loaded when it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

from pipelines.core.errors import UnknownNameError

if TYPE_CHECKING:
    from monitors.probes.base import Probe

__all__ = ["PROBES", "ProbeRegistry"]

_CLASSES = {
    # In the order of their first runs: what pages first, and what costs least.
    "canary": "CanaryProbe",
    "freshness": "FreshnessProbe",
    "integrity": "IntegrityProbe",
    "fidelity": "FidelityProbe",
    "ann": "AnnProbe",
    "golden": "GoldenProbe",
    "drift": "DriftProbe",
    "geometry": "GeometryProbe",
}


class ProbeRegistry(Mapping[str, "Probe"]):
    """Probes by name, each imported when it is first asked for.

    Parameters
    ----------
    classes
        Name to the class in the module of that name.
    """

    def __init__(self, classes: Mapping[str, str]) -> None:
        self._classes = dict(classes)
        self._probes: dict[str, Probe] = {}

    def __getitem__(self, name: str) -> Probe:
        """The probe.

        Raises
        ------
        UnknownNameError
            Names the valid ones.
        """
        if name not in self._classes:
            close = difflib.get_close_matches(name, self._classes, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise UnknownNameError(
                f"there is no probe {name!r}. {hint}Valid are {', '.join(self._classes)}."
            )
        if name not in self._probes:
            module = importlib.import_module(f"monitors.probes.{name}")
            self._probes[name] = cast("Probe", getattr(module, self._classes[name])())
        return self._probes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


PROBES = ProbeRegistry(_CLASSES)
"""Every probe there is."""
