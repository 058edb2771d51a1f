"""States of a rollout: what may follow what, and the page that draws it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.cli.app import app
from pipelines.core.errors import RolloutStateError
from pipelines.core.rollout import (
    NEXT_COMMAND,
    OPEN,
    TRANSITIONS,
    RolloutState,
    check_transition,
)

PAGE = Path(__file__).parents[2] / "docs" / "rollout.md"


def test_the_page_draws_every_move_and_no_other() -> None:
    """The diagram in the docs is the state machine of the code."""
    (diagram,) = re.findall(
        r"```mermaid\nstateDiagram-v2\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    drawn = set(re.findall(r"^\s*(\S+) --> (\S+?)(?::|$)", diagram, re.MULTILINE))
    moves = {(before, after) for before, following in TRANSITIONS.items() for after in following}
    begun = {("[*]", RolloutState.PLANNED)}
    ended = {(state, "[*]") for state in TRANSITIONS if state not in OPEN}
    assert {(str(a), str(b)) for a, b in moves | begun | ended} == drawn


@pytest.mark.parametrize("before", RolloutState)
@pytest.mark.parametrize("after", RolloutState)
def test_only_listed_moves_are_allowed(before: RolloutState, after: RolloutState) -> None:
    """Every other move is refused, with what may follow and the next command."""
    if after in TRANSITIONS[before]:
        check_transition(before, after)
        return
    with pytest.raises(RolloutStateError) as refused:
        check_transition(before, after)
    assert NEXT_COMMAND[before] in str(refused.value)


def test_every_open_rollout_can_be_ended_without_a_switch_or_by_one() -> None:
    """No state is a dead end: from each open one an ended state can be reached."""
    for state in OPEN:
        reached, frontier = {state}, [state]
        while frontier:
            for after in TRANSITIONS[frontier.pop()]:
                if after not in reached:
                    reached.add(after)
                    frontier.append(after)
        assert reached - OPEN


def test_before_the_switch_it_can_always_be_aborted() -> None:
    """Only a rollout that has switched must be rolled back or retired."""
    for state in OPEN - {RolloutState.SOAKING}:
        assert RolloutState.ABORTED in TRANSITIONS[state]


@pytest.mark.parametrize("state", RolloutState)
def test_the_next_command_exists(state: RolloutState) -> None:
    """What `status` says to type can be typed."""
    group = next(g for g in app.registered_groups if g.name == "rollout")
    assert group.typer_instance is not None
    commands = {
        command.name or (command.callback.__name__ if command.callback else "")
        for command in group.typer_instance.registered_commands
    }
    program, name, command, *_ = NEXT_COMMAND[state].split()
    assert (program, name) == ("plumbline", "rollout")
    assert command in commands
