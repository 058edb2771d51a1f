"""Leases: at most one job works on a thing, and a crashed one does not block the next.

A lease is a control record that its holder rewrites three times within `ttl_seconds`. No clock of
another machine is trusted: a contender takes over when *it* has watched the record stand still
for the holder's `ttl_seconds`, measured on its own monotonic clock, and its write is conditional
on the very record it watched. A holder that was only slow finds its next renewal refused.

A job on a cluster has many processes and none that lives as long as it does. They share one claim:
each renews the lease under the run's id, whoever of them comes first, and it runs out when the last
of them has gone. That the process which made the claim has ended says nothing there.

A lease keeps two jobs from doing the same work twice. What is stored stays right without it: the
conditions on every write see to that, also while a job that has lost its lease is winding up.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipelines.core.control import Control, ControlRecord
from pipelines.core.errors import (
    LeaseHeldError,
    PlumblineError,
    ServiceUnavailableError,
    TransientError,
)
from pipelines.core.process import ProcessIdentity

__all__ = [
    "LEASE",
    "Lease",
    "LeaseTimes",
    "end_lease",
    "end_message",
    "free_lease",
    "holder_of",
    "ingest_lease",
]

LEASE = "lease"
"""Kind of the control records that are leases."""

_RELEASE_SECONDS = 5.0
_ENDED = "ended"
"""Field that says why a lease was taken from its holder for good."""
_LONGEST_POLL_SECONDS = 1.0


def _wait(event: threading.Event, seconds: float) -> bool:
    return event.wait(seconds)


def ingest_lease(version: str) -> str:
    """Name of the lease that the job which writes a version holds."""
    return f"ingest:{version}"


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Where a lease takes the time from; tests bring their own."""

    monotonic: Callable[[], float] = time.monotonic
    wait: Callable[[threading.Event, float], bool] = _wait
    """Waits for the event, this many seconds at most; True when it is set."""


@dataclass
class Lease:
    """One process's claim to a name. Not held until `acquire`; not reusable after `release`.

    Parameters
    ----------
    control
        The collection it lives in.
    name
        What is claimed: `ingest:<version>`.
    ttl_seconds
        How long a crashed holder on another machine blocks the next one.
    patience_seconds
        How long renewals may fail because the store is out of reach before the lease counts as
        lost. Longer than `ttl_seconds` on purpose: while the store is out of reach nobody can
        take over either, and an outage is to be waited out. Default: as long as everything else
        waits for the store (`qdrant.outage_timeout_seconds`).
    on_lost
        Called once, on the heartbeat's thread, with the error that `check` raises.
    run
        Id that the processes of a job on a cluster share; `None` for a claim of this process alone.
    owner
        Who holds it, in words, where that is no single process.
    identity, times
        Injected by tests.
    """

    control: Control
    name: str
    ttl_seconds: float
    patience_seconds: float | None = None
    on_lost: Callable[[PlumblineError], None] | None = None
    run: str | None = None
    owner: str = ""
    identity: ProcessIdentity = field(default_factory=ProcessIdentity.current)
    times: LeaseTimes = LeaseTimes()

    def __post_init__(self) -> None:
        self.holder = self.run or uuid.uuid4().hex
        self.lost = threading.Event()
        self.taken = True
        """Whether the store took the last renewal. False while it is away, full or read-only."""
        self._error: PlumblineError | None = None
        self._stop = threading.Event()
        self._left = False
        self._thread: threading.Thread | None = None
        self._record: ControlRecord | None = None
        self._renewed_at = 0.0
        self._acquired_at = ""
        # The heartbeat repeats by itself, so its calls must not sit in a retry loop.
        self._direct = self.control.impatient()
        if self.patience_seconds is None:
            self.patience_seconds = self.control.outage_timeout_seconds

    def acquire(
        self,
        *,
        standby: bool = False,
        stop: threading.Event | None = None,
        on_wait: Callable[[str], None] | None = None,
        heartbeat: bool = True,
    ) -> bool:
        """True once the lease is held, and kept by a heartbeat; False when `stop` was set first.

        A holder that has died on this machine, or has released, is replaced at once. One that
        may be alive is watched: as soon as it renews this raises, or with `standby` goes on
        watching; when it has not renewed for its `ttl_seconds` it is replaced.

        Parameters
        ----------
        standby
            Wait for as long as the holder lives.
        stop
            Ends the wait.
        on_wait
            Called once with a sentence about the holder, before the first wait.
        heartbeat
            False leaves the renewals to the caller (`renew`).

        Raises
        ------
        LeaseHeldError
            Another job holds it and is alive.
        ServiceUnavailableError
            The store stayed out of reach.
        """
        stop = stop or threading.Event()
        watched: ControlRecord | None = None
        still_since = last_look = self.times.monotonic()
        waited = False
        while not stop.is_set():
            seen = self.control.read(LEASE, self.name)
            now = self.times.monotonic()
            ttl = _ttl(seen, self.ttl_seconds)
            poll = min(ttl / 5, _LONGEST_POLL_SECONDS)
            # Time in which this process could not look proves nothing: in an outage of the store
            # the holder could not renew either.
            if (
                watched is None
                or seen is None
                or seen.epoch != watched.epoch
                or now - last_look > 3 * poll + 1
            ):
                if (
                    watched is not None
                    and seen is not None
                    and not standby
                    and self._beats(watched, seen)
                ):
                    raise LeaseHeldError(self._held_by(seen))
                watched, still_since = seen, now
            last_look = now
            if self._is_free(seen) or now - still_since > ttl:
                if self._claim(seen):
                    if heartbeat:
                        self._start()
                    return True
                watched = None
                continue
            if not waited and seen is not None:
                waited = True
                if on_wait is not None:
                    on_wait(self._held_by(seen))
            self.times.wait(stop, poll)
        return False

    def renew(self) -> bool:
        """True while the lease is held; one renewal, without waiting for a store out of reach."""
        if self.lost.is_set() or self._record is None:
            return False
        begun = self.times.monotonic()
        try:
            written = self._direct.swap(
                LEASE, self.name, seen=self._record, fields=self._fields(self.holder)
            )
            if written is None:
                # An earlier renewal whose answer was lost may have moved the epoch on.
                stored = self._direct.read(LEASE, self.name)
                if stored is not None and stored.fields.get("holder") == self.holder:
                    written = stored
                else:
                    self._lose(LeaseHeldError(self._taken_by(stored)))
                    return False
        except (TransientError, ServiceUnavailableError) as error:
            self.taken = False
            assert self.patience_seconds is not None
            if begun - self._renewed_at > self.patience_seconds:
                self._lose(
                    ServiceUnavailableError(
                        f"the lease {self.name} could not be renewed for "
                        f"{self.patience_seconds:g} s: {error}"
                    )
                )
                return False
            return True
        except PlumblineError as error:
            self._lose(error)
            return False
        self._record = written
        self._renewed_at = begun
        self.taken = True
        return True

    def check(self) -> None:
        """Raises what the lease was lost to, if it was lost.

        Raises
        ------
        LeaseHeldError
            Another job has taken over.
        ServiceUnavailableError
            It could not be renewed for `patience_seconds`.
        """
        if self.lost.is_set():
            assert self._error is not None
            raise self._error

    def release(self) -> None:
        """Frees the lease for the next job, if it is still held; never raises.

        Waits a few seconds at most: a lease that could not be freed runs out by itself.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_RELEASE_SECONDS)
            self._thread = None
        else:
            self._free()

    def leave(self) -> None:
        """Renews no longer and frees nothing: other processes of the run go on with the lease."""
        self._left = True
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_RELEASE_SECONDS)
            self._thread = None

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._beat, name=f"lease {self.name}", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self.times.wait(self._stop, self.ttl_seconds / 3):
            if not self.renew():
                return
        self._free()

    def _free(self) -> None:
        record, self._record = self._record, None
        if self.lost.is_set() or self._left:
            return
        try:
            while record is not None and record.fields.get("holder") == self.holder:
                if self._direct.swap(LEASE, self.name, seen=record, fields=self._fields("")):
                    return
                record = self._direct.read(LEASE, self.name)
        except PlumblineError:
            return  # It runs out by itself.

    def _claim(self, seen: ControlRecord | None) -> bool:
        begun = self.times.monotonic()
        self._acquired_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        written = self.control.swap(LEASE, self.name, seen=seen, fields=self._fields(self.holder))
        if written is None:
            return False
        self._record = written
        self._renewed_at = begun
        return True

    def _fields(self, holder: str) -> dict[str, Any]:
        return {
            # Of a shared claim nobody may conclude from the end of one process.
            **({"owner": self.owner} if self.run else self.identity.to_payload()),
            "holder": holder,
            "ttl_seconds": self.ttl_seconds,
            # For people. No process compares these.
            "acquired_at": self._acquired_at,
            "beat_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }

    def _is_free(self, seen: ControlRecord | None) -> bool:
        if seen is None or not seen.fields.get("holder"):
            return True
        if self.run is not None and seen.fields["holder"] == self.run:
            return True
        holder = ProcessIdentity.from_payload(seen.fields)
        if self.control.local and holder != self.identity:
            # The engine's own lock let this process in: whoever held the lease has closed.
            return True
        return holder.has_ended(seen_by=self.identity)

    @staticmethod
    def _beats(before: ControlRecord, after: ControlRecord) -> bool:
        holder = after.fields.get("holder")
        return (
            bool(holder) and holder == before.fields.get("holder") and after.epoch != before.epoch
        )

    def _held_by(self, seen: ControlRecord) -> str:
        fields = seen.fields
        return (
            f"{self.name} is held by {holder_of(fields)}, since "
            f"{fields.get('acquired_at')}, last seen {fields.get('beat_at')} (its clock). Stop "
            "that job, or start this one with --standby to take over when it ends."
        )

    def _taken_by(self, stored: ControlRecord | None) -> str:
        if stored is None:
            return f"the lease {self.name} was removed from the control collection"
        fields = stored.fields
        if fields.get(_ENDED):
            return str(fields[_ENDED])
        return (
            f"{holder_of(fields)} has taken over {self.name} at "
            f"{fields.get('acquired_at')}: this process did not renew its lease in time, or the "
            "lease was reset by hand. Nothing is lost: the other job goes on from the committed "
            "offsets."
        )

    def _lose(self, error: PlumblineError) -> None:
        self._error = error
        self._record = None
        self.lost.set()
        if self.on_lost is not None:
            self.on_lost(error)


def holder_of(fields: Mapping[str, Any]) -> str:
    """Who holds a lease, for people, from its record's fields."""
    return str(fields.get("owner") or f"process {fields.get('pid')} on {fields.get('host')}")


def free_lease(control: Control, name: str, run: str) -> bool:
    """Frees the lease that the processes of a run share, once the run has ended.

    Returns
    -------
    bool
        Whether the run held it.
    """
    while True:
        seen = control.read(LEASE, name)
        if seen is None or seen.fields.get("holder") != run:
            return False
        if control.swap(LEASE, name, seen=seen, fields={**seen.fields, "holder": ""}):
            return True


def end_lease(control: Control, name: str, why: str) -> bool:
    """Takes a lease from whoever holds it: nobody's any longer, and its holder is told why.

    The holder finds out at its next heartbeat, within a third of its `ttl_seconds`, and stops
    with `LeaseHeldError`. A later job of the same name may claim the lease as any free one.

    Returns
    -------
    bool
        Whether a process that may be alive held it. Where none did, the record is removed; else
        it stays, because a heartbeat would make a record that is missing anew.
    """
    here = ProcessIdentity.current()
    while True:
        seen = control.read(LEASE, name)
        if seen is None:
            return False
        told = bool(seen.fields.get(_ENDED))
        holder = ProcessIdentity.from_payload(seen.fields)
        if not told and (not seen.fields.get("holder") or holder.has_ended(seen_by=here)):
            control.remove(LEASE, [name])
            return False
        if told or control.swap(
            LEASE, name, seen=seen, fields={**seen.fields, "holder": "", _ENDED: why}
        ):
            return True


def end_message(control: Control, name: str) -> str:
    """Why `end_lease` took the lease; empty when nobody did."""
    seen = control.read(LEASE, name)
    return "" if seen is None else str(seen.fields.get(_ENDED) or "")


def _ttl(seen: ControlRecord | None, default: float) -> float:
    value = None if seen is None else seen.fields.get("ttl_seconds")
    return float(value) if isinstance(value, int | float) and 0 < value <= 3600 else default
