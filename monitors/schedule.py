"""When each probe runs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

__all__ = ["Schedule", "Task", "first_times"]

_STAGGER_SECONDS = 0.5

# It warns each time that a task is due while it still runs, which is nothing to act on: a run that
# takes too long is counted. What a task raises it still logs.
logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Task:
    """Something that is done again and again.

    Parameters
    ----------
    interval_seconds
        From one start to the next.
    jitter_seconds
        Up to so much later, at random.
    """

    name: str
    action: Callable[[], object]
    interval_seconds: float
    jitter_seconds: float = 0.0


def first_times(
    tasks: Mapping[str, float],
    last_started: Mapping[str, datetime],
    now: datetime,
    stagger_seconds: float = _STAGGER_SECONDS,
) -> dict[str, datetime]:
    """When each task starts first: soon, one after another, or when its interval is over.

    Parameters
    ----------
    tasks
        Name to interval in seconds.
    last_started
        As the store knows it, from before a restart.
    """
    times = {}
    for number, (name, interval) in enumerate(tasks.items()):
        soon = now + timedelta(seconds=number * stagger_seconds)
        last = last_started.get(name)
        # A clock that was put back must not silence a probe for longer than its interval.
        if last is not None and last > now:
            last = now
        times[name] = soon if last is None else max(soon, last + timedelta(seconds=interval))
    return times


class Schedule:
    """Starts tasks on threads, each at most once at a time; nothing catches up what was missed.

    Parameters
    ----------
    tasks
        In the order of their first starts.
    """

    def __init__(self, tasks: list[Task]) -> None:
        self._tasks = {task.name: task for task in tasks}
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(len(tasks))},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self, last_started: Mapping[str, datetime]) -> None:
        """Begins; see `first_times`."""
        intervals = {name: task.interval_seconds for name, task in self._tasks.items()}
        times = first_times(intervals, last_started, datetime.now(UTC))
        for name, task in self._tasks.items():
            self._scheduler.add_job(
                task.action,
                IntervalTrigger(
                    seconds=task.interval_seconds, jitter=task.jitter_seconds, timezone=UTC
                ),
                id=name,
                name=name,
                next_run_time=times[name],
            )
        self._scheduler.start()

    def soon(self, names: list[str], after_seconds: float = 0.0) -> None:
        """Starts these next, one after another; one that still runs by then misses its turn."""
        begin = datetime.now(UTC) + timedelta(seconds=after_seconds)
        for name, moment in first_times(
            {name: self._tasks[name].interval_seconds for name in names}, {}, begin
        ).items():
            # One that is being stopped knows of no tasks any more.
            with contextlib.suppress(JobLookupError):
                self._scheduler.modify_job(name, next_run_time=moment)

    @property
    def alive(self) -> bool:
        """Whether it starts tasks."""
        thread = getattr(self._scheduler, "_thread", None)
        return bool(self._scheduler.running and thread is not None and thread.is_alive())

    def stop(self) -> None:
        """Starts nothing more; what runs is not waited for."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
