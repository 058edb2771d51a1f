"""Under which licences does it come that is installed?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from typing import Any

from deploy.audit.exceptions import Exceptions
from deploy.audit.findings import Finding, Verdict

__all__ = ["Licensed", "check_licences", "installed_licences"]

_ACCEPTED = re.compile(
    # Permissive, and the weak copyleft that ends at the file.
    r"\b(?:mit|apache|bsd|0bsd|isc|iscl|psf\w*|python software foundation|mpl|mozilla public|zlib"
    r"|cc0|hpnd|cnri|unlicense|bsl)\b",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"\b(?:l?a?gpl\w*|lesser general public|general public license|proprietary|sspl|busl)\b",
    re.IGNORECASE,
)
_ALTERNATIVES = re.compile(r"\s+or\s+", re.IGNORECASE)
_LONGEST = 200
"""A licence's field may hold its whole text; the name stands at its beginning."""


@dataclass(frozen=True)
class Licensed:
    """A package, and what its metadata says of its licence, in its own words."""

    name: str
    version: str
    words: str


def installed_licences(found: Iterable[Distribution] | None = None) -> list[Licensed]:
    """Of every package of this environment, by name."""
    packages: dict[str, Licensed] = {}
    for one in distributions() if found is None else found:
        # An email message to Python; its protocol for type checkers knows less.
        metadata: Any = one.metadata
        expression = metadata.get("License-Expression")
        if expression:
            words = expression
        else:
            classifiers = [
                value.rpartition(" :: ")[2]
                for value in metadata.get_all("Classifier") or []
                if value.startswith("License :: ")
            ]
            stated = (metadata.get("License") or "").strip().partition("\n")[0]
            words = "; ".join(classifiers) or stated[:_LONGEST]
        name = metadata["Name"]
        packages[name.lower()] = Licensed(name, metadata["Version"], words)
    return [packages[name] for name in sorted(packages)]


def check_licences(packages: Iterable[Licensed], exceptions: Exceptions) -> Iterator[Finding]:
    """Each package is under a licence that asks nothing of who uses it, or is excused."""
    excused = 0
    failed = 0
    count = 0
    for package in packages:
        count += 1
        choices = _ALTERNATIVES.split(package.words)
        if any(_ACCEPTED.search(one) and not _REFUSED.search(one) for one in choices):
            continue
        if exceptions.excuse("licences", package.name) is not None:
            excused += 1
            continue
        failed += 1
        yield Finding(
            "licences",
            Verdict.FAILED,
            f"{package.name} {package.version} comes under {package.words or 'no stated licence'!r}"
            ": replace it, or read the licence and write an exception",
        )
    if not failed:
        yield Finding(
            "licences", Verdict.OK, f"{count} packages; {excused} excused by an exception"
        )
