"""Is every dependency pinned, and does the lock hold what `pyproject.toml` asks for?"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from deploy.audit.findings import Finding, Verdict

__all__ = ["check_pins", "read_lock"]

EXTRAS = ("demo", "postgres")
"""Extras that the lock holds, besides the `dev` group."""


def read_lock(path: Path) -> dict[str, list[str]]:
    """Package to the versions that the lock pins, one a marker; lines that pin nothing to `[]`."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split(" #")[0].strip()
        if not words or words.startswith(("#", "--hash")):
            continue
        try:
            requirement = Requirement(words.rstrip("\\").strip())
        except InvalidRequirement:
            found.setdefault(words, [])
            continue
        pins = [one for one in requirement.specifier if one.operator == "=="]
        exact = len(pins) == len(requirement.specifier) == 1 and "*" not in pins[0].version
        versions = found.setdefault(canonicalize_name(requirement.name), [])
        if exact and requirement.url is None:
            versions.append(pins[0].version)
    return found


def check_pins(pyproject: Path, lock: Path) -> Iterator[Finding]:
    """Every line of the lock is an exact version of an index; every dependency is among them."""
    pinned = read_lock(lock)
    loose = sorted(name for name, versions in pinned.items() if not versions)
    for name in loose:
        yield Finding(
            "pins",
            Verdict.FAILED,
            f"{lock.name}: {name!r} is not pinned to one version of an index (`name==1.2.3`); run "
            "`make lock`",
        )
    missing = 0
    for requirement in _direct(pyproject):
        versions = pinned.get(canonicalize_name(requirement.name))
        if versions is None:
            missing += 1
            yield Finding(
                "pins",
                Verdict.FAILED,
                f"{lock.name} lacks {requirement.name}, which {pyproject.name} asks for; run "
                "`make lock`",
            )
            continue
        for version in versions:
            if not requirement.specifier.contains(version, prereleases=True):
                missing += 1
                yield Finding(
                    "pins",
                    Verdict.FAILED,
                    f"{lock.name} pins {requirement.name} {version}, {pyproject.name} asks for "
                    f"{requirement.specifier}; run `make lock`",
                )
    if not loose and not missing:
        yield Finding("pins", Verdict.OK, f"{len(pinned)} packages, each pinned")


def _direct(pyproject: Path) -> list[Requirement]:
    values = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = values["project"]
    lines = list(project["dependencies"])
    for extra in EXTRAS:
        lines += project["optional-dependencies"][extra]
    lines += values["dependency-groups"]["dev"]
    return [Requirement(re.sub(r"\s+", " ", line)) for line in lines]
