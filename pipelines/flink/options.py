"""What Beam's job server is told, from the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.core.errors import SettingsError
from pipelines.core.settings import Settings

__all__ = ["backfill_name", "backfill_options", "beam_options", "job_name", "portable_options"]

_BUNDLE_MILLISECONDS = 500
_POOL = "localhost:50000"


def job_name(version: str) -> str:
    """Name of a version's job on Flink's page; a version's name begins with its index."""
    return f"plumbline-{version}"


def beam_options(
    settings: Settings, version: str, *, savepoint: str | None = None, more: Sequence[str] = ()
) -> list[str]:
    """Options for Beam's `PortableRunner`, as on its command line.

    Parameters
    ----------
    version
        What is written; the job's name comes from it.
    savepoint
        To start from.
    more
        Further ones; one that is named here takes the place of ours.

    Raises
    ------
    SettingsError
        The settings do not go together.
    """
    flink = settings.flink
    options: dict[str, object] = {
        **_common(settings, job_name(version)),
        "max_parallelism": flink.max_parallelism,
        "checkpointing_interval": round(flink.checkpoint_interval_seconds * 1000),
        "checkpoint_timeout_millis": round(flink.checkpoint_timeout_seconds * 1000),
        # Flink ends a bundle of a source that never ends only when it is told to. What it counts
        # are splits, not records: with more than one, the bundle with the splits is never full,
        # and nothing is read. `ingest.bundle_events` bounds what one of them reads.
        "max_bundle_size": 1,
        # Turns chaining off: the flag is true by default, and named it is not. Flink finds an
        # operator's state by a hash in which chains count, and whether two operators are chained
        # depends on the parallelism: a savepoint could be resumed with the same one alone.
        "operator_chaining": True,
        "max_bundle_time_mills": _BUNDLE_MILLISECONDS,
    }
    if flink.retain_checkpoints:
        options["externalized_checkpoints_enabled"] = True
        options["retain_externalized_checkpoints_on_cancellation"] = True
    if flink.state_backend is not None:
        options["state_backend"] = flink.state_backend
        options["state_backend_storage_path"] = flink.state_path
    if savepoint is not None:
        options["savepoint_path"] = savepoint
    return _flags(options, more)


def portable_options(settings: Settings, version: str, *, more: Sequence[str] = ()) -> list[str]:
    """The same for another runner behind Beam's job API, which knows no option of Flink's."""
    return _flags(_common(settings, job_name(version)), more)


def backfill_options(settings: Settings, version: str, *, more: Sequence[str] = ()) -> list[str]:
    """The same for the batch job that fills a version: it ends, and takes no checkpoints."""
    return _flags(_common(settings, backfill_name(version)), more)


def backfill_name(version: str) -> str:
    """Name of that job on Flink's page."""
    return f"plumbline-backfill-{version}"


def _common(settings: Settings, name: str) -> dict[str, object]:
    flink = settings.flink
    if flink.job_endpoint is None:
        raise SettingsError(
            "a runner elsewhere needs Beam's job server: flink.job_endpoint or --job-endpoint, "
            "such as localhost:8099"
        )
    options: dict[str, object] = {
        "job_endpoint": flink.job_endpoint,
        "job_name": name,
        "environment_type": flink.environment,
        "parallelism": flink.parallelism,
        "sdk_worker_parallelism": flink.workers,
    }
    config = flink.environment_config or (_POOL if flink.environment == "EXTERNAL" else None)
    if config is not None:
        options["environment_config"] = config
    if flink.restart_attempts is not None:
        options["number_of_execution_retries"] = flink.restart_attempts
        if flink.restart_delay_seconds is not None:
            options["execution_retry_delay"] = round(flink.restart_delay_seconds * 1000)
    return options


def _flags(options: Mapping[str, object], more: Sequence[str]) -> list[str]:
    given = {option.partition("=")[0].removeprefix("--") for option in more}
    ours = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in options.items()
        if name not in given
    ]
    return [*ours, *more]
