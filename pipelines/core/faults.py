"""Places where tests kill the process, to show that what is left over is finished."""

from __future__ import annotations

import os
import signal

from pipelines.core.errors import SettingsError

__all__ = ["POINTS", "VARIABLE", "point"]

VARIABLE = "PLUMBLINE_TEST_FAULT"
"""Environment variable that names a point, or the n-th time that it is passed: `NAME@3`."""

POINTS = frozenset(
    {
        "rollout.promote.before_intent",
        "rollout.promote.after_intent",
        "rollout.promote.after_alias",
        "rollout.promote.after_move",
        "rollout.rollback.before_intent",
        "rollout.rollback.after_intent",
        "rollout.rollback.after_alias",
        "rollout.rollback.after_move",
        "rollout.retire.before_intent",
        "rollout.retire.after_intent",
        "rollout.retire.after_move",
        "rollout.abort.before_intent",
        "rollout.abort.after_intent",
        "rollout.abort.after_lease",
        "rollout.abort.after_move",
        "rollout.drop.after_fence",
        "rollout.drop.after_collection",
        "rollout.drop.after_records",
        "rollout.build.before_move",
        "rollout.build.after_move",
        "rollout.build.after_collection",
        "rollout.build.after_record",
        "rollout.build.after_offsets",
        "rollout.build.after_job",
        "rollout.build.after_backfill",
        "rollout.build.before_verifying",
        "backfill.after_plan",
        "backfill.before_write",
        "backfill.after_write",
        "backfill.after_range",
    }
)
"""Every point, by command and what has just been done; `drop` is shared by retire and abort."""

_passed: dict[str, int] = {}


def point(name: str) -> None:
    """Ends this process with SIGKILL if the environment says so for this point; else nothing.

    Raises
    ------
    SettingsError
        The environment names a point that does not exist.
    ValueError
        The code does.
    """
    if name not in POINTS:
        raise ValueError(f"no fault point {name!r}: add it to pipelines.core.faults.POINTS")
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    target, _, times = wanted.partition("@")
    if target not in POINTS or (times and not times.isdecimal()):
        raise SettingsError(
            f"{VARIABLE} is {wanted!r}: valid are {', '.join(sorted(POINTS))}, each with @N for "
            "the N-th time. It is meant for tests: unset it."
        )
    if target != name:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] >= int(times or 1):
        os.kill(os.getpid(), signal.SIGKILL)
