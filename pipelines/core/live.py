"""Which version a process searches: it follows the alias, and no search waits for a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from pipelines.core.encoder.load import release_encoder
from pipelines.core.errors import IndexMissingError, PlumblineError

if TYPE_CHECKING:
    from pipelines.core.encoder import Encoder
    from pipelines.core.versions import Version

__all__ = ["FollowingState", "LiveVersion", "Opened"]

_RETRY_FIRST_SECONDS = 5.0
_RETRY_MAX_SECONDS = 300.0
"""A model that is missing here is copied by a person or a deployment: minutes, not seconds."""

_NAMED = 2
"""Versions kept beside the live and the previous one because somebody asked for them by name."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Opened:
    """A version with the encoder of its contract; its canaries held in this process."""

    version: Version
    encoder: Encoder

    @property
    def name(self) -> str:
        """The version's name."""
        return self.version.name


@dataclass(frozen=True, slots=True)
class FollowingState:
    """How a process follows the alias.

    Parameters
    ----------
    live
        Version the alias named when it was last asked; empty before the first search.
    serving
        Version that searches go to; empty when there is none.
    loading
        Version whose encoder is being loaded in the background; empty when there is none.
    problem
        Why `live` cannot be served here; empty while it can, or is being loaded.
    retry_in_seconds
        Until it is tried again; `None` without a problem.
    """

    live: str
    serving: str
    loading: str
    problem: str
    retry_in_seconds: float | None


class LiveVersion:
    """The version behind an alias, asked for at a bounded age. Safe to share between threads.

    When the alias names a version that is not open here, `get` goes on giving the one before,
    which still receives every event, while a thread opens the new one. When that fails it says so
    once, keeps the reason, and tries again with growing pauses.

    No lock is held while Qdrant is asked or a model is loaded, but for the two cases in which
    there is nothing to search meanwhile: the very first version, and one whose predecessor was
    dropped. Then threads wait for the one that opens it.

    Parameters
    ----------
    ask
        Name of the version that is live now; raises when there is no such index.
    open_version
        Opens a version by name: loads its encoder and checks the canaries.
    alias_seconds
        How old an answer of `ask` may be.
    clock
        Monotonic; injected by tests.
    """

    def __init__(
        self,
        ask: Callable[[], str],
        open_version: Callable[[str], Opened],
        *,
        alias_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._open = open_version
        self._alias_seconds = alias_seconds
        self._clock = clock
        self._lock = threading.Lock()
        """Guards what follows; held for moments only."""
        self._opened: dict[str, Opened] = {}
        self._current: Opened | None = None
        self._previous = ""
        self._asked_at = float("-inf")
        self._wanted = ""
        self._loading: tuple[str, threading.Thread] | None = None
        self._failed: tuple[str, PlumblineError] | None = None
        self._retry_at = float("-inf")
        self._pause = _RETRY_FIRST_SECONDS
        self._asking = threading.Lock()
        self._nothing = threading.Lock()
        """Held by the thread that opens a version while there is none to search."""

    def get(self) -> Opened:
        """What to search now.

        Raises
        ------
        IndexMissingError
            There is no such index.
        ContractMismatchError, CanaryMismatchError, ModelError
            Nothing is open yet, and the live version cannot be opened here.
        """
        current = self._current
        if current is None:
            with self._nothing:
                return self._open_first()
        if self._clock() - self._asked_at < self._alias_seconds:
            return current
        # One thread asks; the others need not wait for its answer.
        if not self._asking.acquire(blocking=False):
            return current
        try:
            began = self._clock()
            name = self._ask()
        finally:
            self._asking.release()
        return self._follow(name, began) or current

    def named(self, name: str) -> Opened:
        """A version by name, live or not; opens it now. Raises as `get` does."""
        found = self._opened.get(name)
        if found is None:
            found = self._open(name)
            with self._lock:
                self._put(found)
        return found

    def under(self, fingerprint: str) -> Opened | None:
        """The live version if its contract has this fingerprint, or another that is open."""
        current = self.get()
        if current.version.fingerprint == fingerprint:
            return current
        with self._lock:
            for opened in self._opened.values():
                if opened.version.fingerprint == fingerprint:
                    return opened
        return None

    def put(self, opened: Opened) -> None:
        """Takes in a version that somebody has opened and checked already."""
        with self._lock:
            self._put(opened)

    def after(self, lost: Opened) -> Opened:
        """What to search now that the collection of `lost` is gone.

        Asks the alias at once, and waits for the encoder where it is not loaded yet: there is
        nothing else to search.

        Raises
        ------
        IndexMissingError
            There is nothing: names both versions, and why the second cannot be opened.
        """
        with self._lock:
            if self._opened.get(lost.name) is lost:
                del self._opened[lost.name]
                release_encoder(lost.encoder)
            if self._current is lost:
                self._current = None
        with self._nothing:
            try:
                return self._open_first()
            except PlumblineError as error:
                wanted = self._wanted
                if not wanted:
                    raise
                raise IndexMissingError(
                    f"the version {lost.name}, which this process searched, is gone, and "
                    f"{wanted}, which is live, cannot be opened here: {error}"
                ) from error

    def state(self) -> FollowingState:
        """How this process follows the alias; asks nobody."""
        with self._lock:
            failed = self._failed
            problem = str(failed[1]) if failed is not None and failed[0] == self._wanted else ""
            return FollowingState(
                live=self._wanted,
                serving="" if self._current is None else self._current.name,
                loading="" if self._loading is None else self._loading[0],
                problem=problem,
                retry_in_seconds=max(0.0, self._retry_at - self._clock()) if problem else None,
            )

    def _follow(self, name: str, asked_at: float) -> Opened | None:
        """The version to search if the alias names `name`; begins to open it where it is not."""
        with self._lock:
            if asked_at < self._asked_at:
                return self._current  # somebody has asked since
            self._asked_at, self._wanted = asked_at, name
            found = self._opened.get(name)
            if found is not None:
                self._serve(found)
            elif self._loading is None and not self._pausing(name):
                thread = threading.Thread(
                    target=self._load, args=(name,), name="plumbline-open-version", daemon=True
                )
                self._loading = (name, thread)
                thread.start()
            return self._current

    def _pausing(self, name: str) -> bool:
        return (
            self._failed is not None and self._failed[0] == name and self._clock() < self._retry_at
        )

    def _load(self, name: str) -> None:
        try:
            opened = self._open(name)
        except Exception as error:  # noqa: BLE001 - a thread's error is for those who search
            with self._lock:
                self._loading = None
                self._fail(name, error)
            return
        with self._lock:
            self._loading = None
            self._put(opened)
            # The alias may have moved on meanwhile; the next search asks it in any case.
            if self._wanted == name:
                self._serve(opened)

    def _open_first(self) -> Opened:
        """Opens the live version while there is nothing to search. Holds `_nothing`."""
        current = self._current
        if current is not None:
            return current  # another thread was quicker
        began = self._clock()
        name = self._ask()
        with self._lock:
            self._asked_at, self._wanted = began, name
            loading = self._loading
        if loading is not None:
            loading[1].join()
        with self._lock:
            found = self._opened.get(name)
            if found is not None:
                self._serve(found)
                return found
            if self._pausing(name):
                assert self._failed is not None, "a pause follows a failure"
                raise self._failed[1]
        try:
            opened = self._open(name)
        except PlumblineError as error:
            with self._lock:
                self._fail(name, error)
            raise
        with self._lock:
            self._put(opened)
            self._serve(opened)
        return opened

    def _serve(self, opened: Opened) -> None:
        if self._failed is not None:
            self._failed, self._pause = None, _RETRY_FIRST_SECONDS
        if self._current is opened:
            return
        if self._current is not None:
            self._previous = self._current.name
            _log.info("version_followed", before=self._previous, after=opened.name)
        self._current = opened
        self._trim()

    def _fail(self, name: str, error: Exception) -> None:
        problem = (
            error
            if isinstance(error, PlumblineError)
            else PlumblineError(f"{type(error).__name__}: {error}")
        )
        known = self._failed
        if known is None or known[0] != name:
            self._pause = _RETRY_FIRST_SECONDS
        if known is None or (known[0], str(known[1])) != (name, str(problem)):
            _log.warning(
                "version_not_served",
                version=name,
                serving="" if self._current is None else self._current.name,
                error=str(problem),
            )
        self._failed = (name, problem)
        self._retry_at = self._clock() + self._pause
        self._pause = min(2 * self._pause, _RETRY_MAX_SECONDS)

    def _put(self, opened: Opened) -> None:
        # The newest last.
        self._opened.pop(opened.name, None)
        self._opened[opened.name] = opened
        self._trim()

    def _trim(self) -> None:
        """Frees encoders of versions that are neither live nor previous, nor lately named."""
        kept = {self._wanted, self._previous}
        if self._current is not None:
            kept.add(self._current.name)
        others = [name for name in self._opened if name not in kept]
        for name in others[: max(0, len(others) - _NAMED)]:
            release_encoder(self._opened.pop(name).encoder)
