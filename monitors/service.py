"""The monitor as a service: holds the lease or stands by, runs the probes, serves the metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from monitors.encoders import Encoders
from monitors.failures import describe
from monitors.health import Pulse, health_of, readiness_of
from monitors.http import HttpServer
from monitors.live import look
from monitors.metrics import MonitorCollector, MonitorState
from monitors.probes import PROBES
from monitors.runner import Runner
from monitors.schedule import Schedule, Task
from monitors.snapshot import Snapshot, read_snapshot
from monitors.store import Store, VersionKey, open_store
from monitors.store.engine import open_database
from pipelines import __version__
from pipelines.core.control import Control
from pipelines.core.errors import PlumblineError, TransientError
from pipelines.core.lease import Lease
from pipelines.core.qdrant import Qdrant, connect

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

_log = structlog.get_logger()


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
        self._runner: Runner | None = None
        self._schedule: Schedule | None = None
        self._leader = False
        self._qdrant_up: bool | None = None
        self._waiting = "starting"
        self._live: VersionKey | None = None
        self._snapshot = Snapshot()
        self._attempted: set[str] = set()
        self._refresh_lock = threading.Lock()
        self._pulse = Pulse()
        intervals = {name: self._interval(name) for name in self._probes}
        self.registry = registry or CollectorRegistry()
        self.registry.register(MonitorCollector(self._probes, intervals, self._state))
        self._http = HttpServer(
            settings.monitor.host, settings.monitor.port, self.registry, self.health, self.ready
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
            self._runner = Runner(
                self._settings, self._qdrant, store, self._probes, self._encoders, lag=self._lag
            )
        runner = self._runner
        runner.resume()
        self._live = None
        self._refresh()
        started = {name: run.started_at for name, run in self._snapshot.last.items()}
        schedule = self._schedule = Schedule(self._tasks(runner, store))
        self._leader, self._waiting = True, ""
        _log.info("monitor_leading", index=self._index)
        self._follow(store)
        if self._snapshot.live is not None and self._live != self._snapshot.live.key:
            started = {}
        schedule.start(started)
        try:
            while not stop.wait(0.2) and not lease.lost.is_set():
                pass
        finally:
            self._leader = False
            schedule.stop()
            runner.cancel()
            self._schedule = None
        if lease.lost.is_set():
            try:
                lease.check()
            except PlumblineError as error:
                _log.warning("monitor_lost_lease", message=describe(error))

    def _tasks(self, runner: Runner, store: Store) -> list[Task]:
        ratio = self._settings.monitor.jitter_ratio
        tasks = [
            Task(name, self._running(runner, name), interval, interval * ratio)
            for name in self._probes
            for interval in [self._interval(name)]
        ]
        tasks.append(Task("follow", lambda: self._follow(store), self._poll_seconds))
        tasks.append(Task("prune", lambda: self._prune(store), _PRUNE_SECONDS))
        return tasks

    def _running(self, runner: Runner, name: str) -> Callable[[], None]:
        def action() -> None:
            runner.run(name)
            self._attempted.add(name)
            self._refresh()

        return action

    def _follow(self, store: Store) -> None:
        """Looks where the alias points; after a switch every probe runs soon."""
        seen = look(self._qdrant, self._index)
        self._qdrant_up = seen.key is not None
        if seen.key is None:
            return
        problem = "" if seen.error is None else describe(seen.error)
        before, self._live = self._live, seen.key
        try:
            store.set_live(seen.key, problem, datetime.now(UTC))
        except PlumblineError as error:
            _log.warning("monitor_store", message=describe(error))
        if before == seen.key:
            return
        if problem:
            _log.warning("monitor_version", version=seen.key.version, message=problem)
        else:
            _log.info("monitor_version", version=seen.key.version)
        self._refresh()
        if before is not None and self._schedule is not None:
            self._schedule.soon(list(self._probes))

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
                self._snapshot = read_snapshot(self._store, self._index, self._snapshot)

    def _poll(self, stop: threading.Event) -> None:
        while not stop.wait(min(self._poll_seconds, 1.0)):
            self._pulse.beat()
            read_at = self._snapshot.read_at
            if read_at is None or self._pulse.since(read_at) >= self._poll_seconds:
                self._refresh()

    def _interval(self, name: str) -> float:
        return float(getattr(self._settings.monitor, name).interval_seconds)

    def _state(self) -> MonitorState:
        live = self._snapshot.live
        return MonitorState(
            index=self._index,
            release=__version__,
            leader=self._leader,
            snapshot=self._snapshot,
            store_opened=self._store is not None,
            qdrant_up=self._qdrant_up if self._leader else None,
            encoder_usable=None if live is None else self._encoders.state(live.key),
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
