"""Put an index's alias back where it belongs, after a restore or a move by hand."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.core.errors import RolloutStateError, StoreConflictError
from pipelines.core.settings import Settings
from pipelines.core.versions import live_version_name, open_version, set_alias
from pipelines.rollout.context import RolloutContext, command_lease

__all__ = ["AliasReport", "point_alias", "show_alias"]


@dataclass(frozen=True)
class AliasReport:
    """Where an index's alias points.

    Parameters
    ----------
    version
        Now; `None` where there is no alias.
    before
        Before this command; the same where nothing was moved.
    recorded
        Where the record of the present or last rollout has it; `None` where there was none.
    """

    index: str
    version: str | None
    before: str | None
    recorded: str | None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def show_alias(settings: Settings) -> AliasReport:
    """Where the alias points, and where the rollout's record has it. Writes nothing."""
    context = RolloutContext.open(settings)
    found = live_version_name(context.qdrant, context.index)
    rollout = context.store.read(context.index)
    recorded = None if rollout is None else rollout.serving.name
    return AliasReport(context.index, found, found, recorded)


def point_alias(settings: Settings, version: str, *, force: bool = False) -> AliasReport:
    """Points the index's alias at a version that exists.

    For what Qdrant's snapshots do not carry (aliases), and for an alias that somebody has moved. It
    is no switch: nothing is verified, and a rollout's record stays as it is.

    Parameters
    ----------
    force
        Also where the alias or the rollout's record names another version.

    Raises
    ------
    IndexMissingError
        There is no such version.
    StoreConflictError
        It belongs to another index, or the alias points at another version and `force` is not set.
    RolloutStateError
        A rollout's step is unfinished, or its record names another version and `force` is not set.
    LeaseHeldError
        A rollout command is running.
    """
    context = RolloutContext.open(settings)
    chosen = open_version(context.qdrant, version)
    if chosen.index != context.index:
        raise StoreConflictError(
            f"{version} is a version of the index {chosen.index!r}, not of {context.index!r}: say "
            f"`--index {chosen.index}`."
        )
    with command_lease(context):
        rollout = context.store.read(context.index)
        if rollout is not None and rollout.intent is not None:
            action = rollout.intent.action
            raise RolloutStateError(
                f"a {action} of {context.index} has begun and not ended: `plumbline rollout "
                f"{action}` finishes it, and the alias with it."
            )
        recorded = None if rollout is None else rollout.serving.name
        before = live_version_name(context.qdrant, context.index)
        if not force:
            _check(context.index, version, before, recorded)
        if before != version:
            set_alias(context.qdrant, context.index, version)
    return AliasReport(context.index, version, before, recorded)


def _check(index: str, version: str, before: str | None, recorded: str | None) -> None:
    if recorded is not None and recorded != version:
        raise RolloutStateError(
            f"by the record of its last rollout {recorded} is the live version of {index}, not "
            f"{version}. A switch is `plumbline rollout promote` or `rollback`; `--force` moves "
            "the alias all the same, and verifies nothing."
        )
    if before not in (None, version) and recorded is None:
        raise StoreConflictError(
            f"the alias {index} points at {before}. A switch to {version} is `plumbline rollout "
            "plan` and what follows; `--force` moves the alias all the same, and verifies nothing."
        )
