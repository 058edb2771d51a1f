"""The encoders of the versions that are monitored, each loaded and checked once."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from monitors.store.records import VersionKey
from pipelines.core.errors import PlumblineError
from pipelines.core.index import encoder_for
from pipelines.core.versions import check_process

if TYPE_CHECKING:
    from pipelines.core.encoder import Encoder
    from pipelines.core.settings import Settings
    from pipelines.core.versions import Version

__all__ = ["Encoders"]

_VERSIONS = 2
"""The live one and the one beside it in a rollout: the candidate, or the one before."""

_AGAIN_SECONDS = 60.0
"""How long a failure stands before it is tried again: a missing model may take long to miss."""


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the model is loaded and checked; the other version's probes do not wait for it."""
    encoder: Encoder | None = None
    checked: bool = False
    error: PlumblineError | None = None
    failed_at: float = 0.0


class Encoders:
    """Encoders by version. Safe to share between threads: one loads, the others wait.

    Parameters
    ----------
    settings
        Runtime, and where a contract's model is found here.
    monotonic
        Injected by tests.
    """

    def __init__(
        self, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._entries: OrderedDict[VersionKey, _Entry] = OrderedDict()

    def checked(self, version: Version) -> Encoder:
        """The version's encoder; its canaries held when it was loaded.

        Raises
        ------
        ModelError, ContractMismatchError, CanaryMismatchError
            This process cannot encode for the version.
        """
        entry = self._entry(version)
        with entry.lock:
            if entry.encoder is None:
                self._load(entry, version)
            assert entry.encoder is not None
            if not entry.checked:
                self._fresh(entry)
                try:
                    check_process(version, entry.encoder, None)
                except PlumblineError as error:
                    self._fail(entry, error)
                    raise
                entry.checked, entry.error = True, None
            return entry.encoder

    def unchecked(self, version: Version) -> Encoder:
        """The same without the canaries.

        Raises
        ------
        ModelError, ContractMismatchError
            It cannot be loaded.
        """
        entry = self._entry(version)
        with entry.lock:
            if entry.encoder is None:
                self._load(entry, version)
            assert entry.encoder is not None
            return entry.encoder

    def state(self, key: VersionKey) -> bool | None:
        """Whether the version's encoder can be used; `None` when nobody has asked for it."""
        # Without the lock: a scrape must not wait for a model to load.
        entry = self._entries.get(key)
        if entry is None or (entry.encoder is None and entry.error is None):
            return None
        return entry.error is None

    def _entry(self, version: Version) -> _Entry:
        key = VersionKey.of(version)
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > _VERSIONS:
                self._entries.popitem(last=False)
            return entry

    def _load(self, entry: _Entry, version: Version) -> None:
        self._fresh(entry)
        try:
            entry.encoder = encoder_for(version, self._settings)
        except PlumblineError as error:
            self._fail(entry, error)
            raise
        entry.error = None

    def _fresh(self, entry: _Entry) -> None:
        """Raises the last failure while it stands."""
        if entry.error is not None and self._monotonic() - entry.failed_at < _AGAIN_SECONDS:
            raise entry.error

    def _fail(self, entry: _Entry, error: PlumblineError) -> None:
        entry.error, entry.failed_at = error, self._monotonic()
