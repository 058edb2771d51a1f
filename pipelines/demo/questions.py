"""Questions to the demo's index, and the documents that a sensible answer contains."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.demo.waves import DELETED, REPLACED

__all__ = ["ABOUT_DELETED", "ABOUT_REPLACEMENT", "QUESTIONS", "TOP", "Question"]

TOP = 3
"""How many answers are shown, and among how many the expected one must be."""


@dataclass(frozen=True)
class Question:
    """What somebody asks; at least one of `expected` (ids) must be among the first answers."""

    text: str
    expected: frozenset[str]


QUESTIONS = (
    Question("pick a random element from a list", frozenset({"random.Random.choice"})),
    Question(
        "run a command and capture its output",
        frozenset({"subprocess.check_output", "subprocess.getoutput", "subprocess.run"}),
    ),
    Question("split a command line the way a shell does", frozenset({"shlex.split"})),
    Question("correlation between two variables", frozenset({"statistics.correlation"})),
    Question(
        "safe random token for a password reset link",
        frozenset({"secrets.token_urlsafe", "secrets.token_hex"}),
    ),
)

ABOUT_DELETED = Question("a temporary folder that is deleted afterwards", frozenset({DELETED}))
ABOUT_REPLACEMENT = Question("when does the cat get something to eat?", frozenset({REPLACED}))
