"""The monitor as a service: holds the lease or stands by, runs the probes, serves the metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from monitors.encoders import Encoders
from monitors.failures import UnreadableVersionError, describe
from monitors.finished import Finished
from monitors.health import Pulse, health_of, readiness_of
from monitors.http import HttpServer
from monitors.live import Look, look
from monitors.metrics import MonitorCollector, MonitorState
from monitors.other import NOTHING, OtherLook, other_version
from monitors.probes import PROBES
from monitors.rollout import RolloutReader, RolloutReading
from monitors.runner import Runner
from monitors.schedule import Schedule, Task
from monitors.snapshot import Snapshot, VersionRuns, read_snapshot
from monitors.store import Outcome, Store, VersionKey, open_store
from monitors.store.engine import open_database
from pipelines import __version__
from pipelines.core.control import Control
from pipelines.core.endpoint import Protection
from pipelines.core.errors import PlumblineError, TransientError
from pipelines.core.lease import Lease
from pipelines.core.qdrant import Qdrant, connect
from pipelines.core.rollout import RolloutStore

if TYPE_CHECKING:
    from monitors.http import Health
    from monitors.probes.base import LagReader, Probe
    from pipelines.core.settings import Settings

__all__ = ["MonitorService", "enabled_probes", "lease_name", "prompt"]

POLL_SECONDS = 5.0
"""How often the alias is resolved, and the store read by those that run no probes."""

_PRUNE_SECONDS = 3600.0
_RETRY_SECONDS = 5.0
_OUTAGE_SECONDS = 5.0
_FOREVER_SECONDS = 10 * 365 * 86_400.0
_ABANDON_SECONDS = 5.0
_AGAIN_SECONDS = 1.0
"""A task must have ended before it is due again."""

_log = structlog.get_logger()


def _other_task(probe: str) -> str:
    return f"{probe} of the other version"


def lease_name(index: str) -> str:
    """Name of the lease under which an index's probes run."""
    return f"monitor:{index}"


def prompt(settings: Settings) -> Settings:
    """The settings with less patience: a probe says that Qdrant is away, it does not sit it out."""
    seconds = min(settings.qdrant.outage_timeout_seconds, _OUTAGE_SECONDS)
    store = settings.qdrant.model_copy(update={"outage_timeout_seconds": seconds})
    return settings.model_copy(update={"qdrant": store})


def enabled_probes(settings: Settings) -> dict[str, Probe]:
    """The probes that the settings have not turned off, in the order of their first runs."""
    return {name: PROBES[name] for name in PROBES if getattr(settings.monitor, name).enabled}


class MonitorService:
    """One replica of the monitor.

    Parameters
    ----------
    settings
        `monitor` and what the probes need.
    lag
        Asks Kafka; `None` where none is set up.
    probes
        Injected by tests; default: those that are turned on.
    registry
        Where the metrics are registered; default: one of its own.

    Raises
    ------
    SettingsError, ServiceUnavailableError
        The port, the store's URL or the embedded Qdrant cannot be had.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        lag: LagReader | None = None,
        probes: Mapping[str, Probe] | None = None,
        registry: CollectorRegistry | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._settings = prompt(settings)
        self._index = settings.index
        self._patience = settings.qdrant.outage_timeout_seconds
        self._lag = lag
        self._probes = dict(enabled_probes(settings) if probes is None else probes)
        self._poll_seconds = poll_seconds
        self._database = open_database(settings.monitor)
        self._database.close()
        self._store: Store | None = None
        self._qdrant: Qdrant = connect(self._settings)
        self._encoders = Encoders(self._settings)
        rollouts = RolloutStore(Control(self._qdrant))
        self._rollouts = RolloutReader(rollouts, self._index)
        self._look_other = OtherLook(self._qdrant, self._index, rollouts)
        self._runner: Runner | None = None
        self._other_runner: Runner | None = None
        self._schedule: Schedule | None = None
        self._leader = False
        self._qdrant_up: bool | None = None
        self._lease: Lease | None = None
        self._waiting = "starting"
        self._live: VersionKey | None = None
        self._other: Look = NOTHING
        self._rollout: RolloutReading | None = None
        self._snapshot = Snapshot()
        self._attempted: set[str] = set()
        self._refresh_lock = threading.Lock()
        self._pulse = Pulse()
        intervals = {name: self._interval(name) for name in self._probes}
        self.registry = registry or CollectorRegistry()
        self.registry.register(MonitorCollector(self._probes, intervals, self._state))
        self._http = HttpServer(
            settings.monitor.host,
            settings.monitor.port,
            self.registry,
            self.health,
            self.ready,
            Protection(settings.metrics),
        )
        self.port = self._http.port

    def run(self, stop: threading.Event) -> None:
        """Serves until `stop` is set.

        Raises
        ------
        SettingsError, StoreConflictError, ServiceRefusedError
            The store cannot be used, and waiting would not help.
        """
        _log.info(
            "monitor_serving",
            index=self._index,
            host=self._settings.monitor.host,
            port=self.port,
            store=self._database.where,
            probes=list(self._probes),
        )
        poller = threading.Thread(target=self._poll, args=(stop,), name="monitor poll", daemon=True)
        poller.start()
        try:
            if self._database.shared:
                # Its readings are served by all. SQLite is opened by the one that holds the lease.
                self._open_store(stop)
            while not stop.is_set():
                self._hold(stop)
        finally:
            stop.set()
            self._http.close()
            poller.join(_ABANDON_SECONDS)
            if self._store is not None:
                self._store.close()

    def _hold(self, stop: threading.Event) -> None:
        """Waits for the lease, and works while it is held."""
        lease = Lease(
            Control(self._qdrant),
            lease_name(self._index),
            self._settings.monitor.lease_seconds,
            # Where nobody else could take over there is nothing to give up for.
            patience_seconds=self._patience if self._database.shared else _FOREVER_SECONDS,
        )
        self._waiting = f"waiting for the lease {lease_name(self._index)}"
        try:
            held = lease.acquire(standby=True, stop=stop, on_wait=self._stand_by)
        except PlumblineError as error:
            self._waiting = f"no lease: {describe(error)}"
            _log.warning("monitor_no_lease", message=describe(error))
            stop.wait(_RETRY_SECONDS)
            return
        if not held:
            return
        try:
            self._open_store(stop)
            if self._store is not None and not stop.is_set():
                self._lead(self._store, lease, stop)
        finally:
            self._leader = False
            lease.release()

    def _stand_by(self, holder: str) -> None:
        self._waiting = f"standing by: {holder}"
        _log.info("monitor_standing_by", message=holder)

    def _lead(self, store: Store, lease: Lease, stop: threading.Event) -> None:
        if self._runner is None:
            self._runner = self._make_runner(store)
        if self._other_runner is None:
            self._other_runner = self._make_runner(store, self._look_other)
        runners = (self._runner, self._other_runner)
        for runner in runners:
            runner.resume()
        self._live, self._other = None, NOTHING
        self._refresh()
        started = {name: run.started_at for name, run in self._snapshot.last.items()}
        schedule = Schedule(self._tasks(*runners, store))
        self._leader, self._waiting, self._lease = True, "", lease
        _log.info("monitor_leading", index=self._index)
        self._follow(store)
        if self._snapshot.live is not None and self._live != self._snapshot.live.key:
            started = {}
        if self._snapshot.other is not None:
            started |= {
                _other_task(name): run.started_at for name, run in self._snapshot.other.last.items()
            }
        self._schedule = schedule
        schedule.start(started)
        try:
            while not stop.wait(0.2) and not lease.lost.is_set():
                pass
        finally:
            self._leader = False
            schedule.stop()
            for runner in runners:
                runner.cancel()
            self._schedule, self._rollout, self._other = None, None, NOTHING
        if lease.lost.is_set():
            try:
                lease.check()
            except PlumblineError as error:
                _log.warning("monitor_lost_lease", message=describe(error))

    def _make_runner(self, store: Store, look_at: Callable[[], Look] | None = None) -> Runner:
        """One of the live version, or of the one that is looked at."""
        return Runner(
            self._settings,
            self._qdrant,
            store,
            self._probes,
            self._encoders,
            lag=self._lag,
            look_at=look_at,
            counted=look_at is None,
        )

    def _tasks(self, live: Runner, other: Runner, store: Store) -> list[Task]:
        def task(name: str, probe: str, action: Callable[[], None]) -> Task:
            interval = self._interval(probe)
            return Task(name, action, interval, interval * self._settings.monitor.jitter_ratio)

        return [
            *(task(name, name, self._running(live, name)) for name in self._probes),
            Task("follow", lambda: self._follow(store), self._poll_seconds),
            Task("prune", lambda: self._prune(store), _PRUNE_SECONDS),
            *(
                task(_other_task(name), name, self._running_other(other, name))
                for name in self._probes
            ),
        ]

    def _running(self, runner: Runner, name: str) -> Callable[[], None]:
        def action() -> None:
            finished = runner.run(name)
            self._attempted.add(name)
            self._refresh()
            self._again(name, finished)

        return action

    def _running_other(self, runner: Runner, name: str) -> Callable[[], None]:
        def action() -> None:
            # Its own look decides; without a rollout, Qdrant is not even asked.
            if self._other.allows(name) and (finished := runner.run(name)) is not None:
                self._refresh()
                self._again(_other_task(name), finished)

        return action

    def _again(self, task: str, finished: Finished | None) -> None:
        """A run that was overtaken by a switch had the turn of the one on the new version."""
        schedule = self._schedule
        if finished is not None and finished.outcome is Outcome.VERSION_SWITCHED and schedule:
            schedule.soon([task], _AGAIN_SECONDS)

    def _follow(self, store: Store) -> None:
        """Looks where the alias points, and at the rollout; what is new is probed soon."""
        seen = look(self._qdrant, self._index)
        self._qdrant_up = seen.key is not None
        self._rollout = None if seen.key is None else self._rollouts.read(seen.key.version)
        if seen.key is None:
            return
        due = self._follow_alias(store, seen) + self._follow_rollout(seen.key)
        if due and self._schedule is not None:
            self._schedule.soon(due)

    def _follow_alias(self, store: Store, seen: Look) -> list[str]:
        """Keeps what is live; gives the tasks that are due because it is another."""
        assert seen.key is not None
        problem = "" if seen.error is None else describe(seen.error)
        before, self._live = self._live, seen.key
        if self._runner is not None:
            # Each time: a run may have looked at the alias just before it moved.
            self._runner.leave(seen.key)
        try:
            store.set_live(seen.key, problem, datetime.now(UTC))
        except PlumblineError as error:
            _log.warning("monitor_store", message=describe(error))
        if before == seen.key:
            return []
        if problem:
            _log.warning("monitor_version", version=seen.key.version, message=problem)
        else:
            _log.info("monitor_version", version=seen.key.version)
        self._refresh()
        return [] if before is None else list(self._probes)

    def _follow_rollout(self, live: VersionKey) -> list[str]:
        """Keeps the other version of the rollout; gives the tasks that are due because of it."""
        before = self._other
        if self._rollout is not None:
            other = other_version(self._rollout.rollout, live.version)
            self._other = self._look_other.at(other)
        elif before.key is not None and before.key.version == live.version:
            self._other = NOTHING  # The record cannot be read, and the alias has moved to it.
        found = self._other
        if self._other_runner is not None:
            self._other_runner.leave(found.key)
        if (found.key, found.role, found.probes) == (before.key, before.role, before.probes):
            return []
        if found.key is not None:
            _log.info("monitor_other_version", version=found.key.version, role=found.role)
        elif before.key is not None:
            _log.info("monitor_other_version_left", version=before.key.version)
        self._refresh()
        return [_other_task(name) for name in self._probes if found.allows(name)]

    def _prune(self, store: Store) -> None:
        before = datetime.now(UTC) - timedelta(days=self._settings.monitor.retention_days)
        try:
            removed = store.prune(before)
        except PlumblineError as error:
            _log.warning("monitor_prune", message=describe(error))
            return
        _log.info("monitor_prune", **removed)

    def _open_store(self, stop: threading.Event) -> None:
        """Opens the store; waits while it does not answer."""
        while self._store is None and not stop.is_set():
            try:
                self._store = open_store(self._settings.monitor)
            except TransientError as error:
                self._waiting = f"no store: {error}"
                _log.warning("monitor_store", message=describe(error))
                stop.wait(_RETRY_SECONDS)
        self._refresh()

    def _refresh(self) -> None:
        with self._refresh_lock:
            if self._store is not None:
                self._snapshot = read_snapshot(
                    self._store, self._index, self._snapshot, self._other_runs()
                )

    def _other_runs(self) -> VersionRuns | None:
        other = self._other
        if other.key is None:
            return None
        unreadable = isinstance(other.error, UnreadableVersionError)
        return VersionRuns(other.key, other.role, str(other.error) if unreadable else "")

    def _poll(self, stop: threading.Event) -> None:
        while not stop.wait(min(self._poll_seconds, 1.0)):
            self._pulse.beat()
            read_at = self._snapshot.read_at
            if read_at is None or self._pulse.since(read_at) >= self._poll_seconds:
                self._refresh()

    def _interval(self, name: str) -> float:
        return float(getattr(self._settings.monitor, name).interval_seconds)

    def _state(self) -> MonitorState:
        leader, snapshot = self._leader, self._snapshot
        if not leader:
            # Only who looks at the rollout's record knows of another version.
            snapshot = replace(snapshot, other=None)
        usable = {one.key: self._encoders.state(one.key) for one in snapshot.versions}
        return MonitorState(
            index=self._index,
            release=__version__,
            leader=leader,
            snapshot=snapshot,
            store_opened=self._store is not None,
            qdrant_up=self._qdrant_up if leader else None,
            qdrant_writable=self._lease.taken if leader and self._lease is not None else None,
            rollout=self._rollout if leader else None,
            encoders={key: state for key, state in usable.items() if state is not None},
        )

    def health(self) -> Health:
        """For `/healthz`: does this process do its work?"""
        return health_of(self._pulse, self._schedule)

    def ready(self) -> Health:
        """For `/readyz`: are its metrics worth reading?"""
        return readiness_of(
            self._snapshot,
            probes=list(self._probes),
            attempted=self._attempted,
            leader=self._leader,
            waiting=self._waiting,
            store_needed=self._database.shared or self._leader,
        )
