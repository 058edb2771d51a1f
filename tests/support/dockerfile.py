"""A Dockerfile as the tests read it: stages, and the instructions of each."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Copy", "Stage", "ignored", "read_stages"]


@dataclass(frozen=True)
class Copy:
    """`COPY`: what goes where, and from which stage; `None` for the build context."""

    sources: tuple[str, ...]
    target: str
    stage: str | None
    flags: tuple[str, ...] = ()


@dataclass
class Stage:
    """One `FROM` and what follows it, as (instruction, rest of the line)."""

    image: str
    name: str
    lines: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """What follows each of these instructions."""
        return [rest for name, rest in self.lines if name == instruction]

    def last(self, instruction: str) -> str:
        """What follows the last of these instructions, which is the one that counts."""
        return self.all(instruction)[-1]

    def command(self, instruction: str) -> list[str]:
        """The words of the last `ENTRYPOINT`, `CMD` or `HEALTHCHECK`, which are in JSON."""
        words: list[str] = json.loads(re.sub(r"^.*?(?=\[)", "", self.last(instruction)))
        return words

    @property
    def environment(self) -> dict[str, str]:
        """All of `ENV`."""
        pairs = [pair for rest in self.all("ENV") for pair in shlex.split(rest)]
        return dict(pair.split("=", 1) for pair in pairs)

    @property
    def arguments(self) -> dict[str, str]:
        """All of `ARG`, with the defaults."""
        return {
            name: value.strip('"')
            for rest in self.all("ARG")
            for name, _, value in [rest.partition("=")]
        }

    @property
    def copies(self) -> list[Copy]:
        """All of `COPY`."""
        found = []
        for rest in self.all("COPY"):
            words = shlex.split(rest)
            flags = tuple(word for word in words if word.startswith("--"))
            *sources, target = [word for word in words if not word.startswith("--")]
            stage = next((flag[7:] for flag in flags if flag.startswith("--from=")), None)
            found.append(Copy(tuple(sources), target, stage, flags))
        return found


def read_stages(path: Path) -> tuple[dict[str, str], list[Stage]]:
    """The arguments in front of the first stage, and the stages in their order."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        instruction, _, rest = " ".join(line.split()).partition(" ")
        if not instruction:
            continue
        if instruction == "FROM":
            image, _, name = rest.partition(" AS ")
            stages.append(Stage(image, name or str(len(stages))))
        elif not stages:
            assert instruction == "ARG", line
            name, _, value = rest.partition("=")
            arguments[name] = value
        else:
            stages[-1].lines.append((instruction, rest))
    return arguments, stages


def ignored(path: str, rules: list[str]) -> bool:
    """Whether a file of the context is left out by the rules of a `.dockerignore`.

    For the rules that ours has: `*`, `!path` with all that is below it, `**/` in front of a name.
    """
    out = False
    for rule in rules:
        if rule == "*":
            out = True
        elif rule.startswith("!"):
            kept = rule[1:].rstrip("/")
            if path == kept or path.startswith(f"{kept}/"):
                out = False
        else:
            assert rule.startswith("**/"), rule
            pattern = re.escape(rule[3:]).replace(r"\*", "[^/]*")
            if re.search(rf"(^|/){pattern}(/|$)", path):
                out = True
    return out
