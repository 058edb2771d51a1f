"""`plumbline doctor`: is everything there that a job needs? One line each, with the fix."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipelines.cli.flags import (
    BootstrapServers,
    Config,
    IndexName,
    Json,
    QdrantPath,
    QdrantUrl,
    State,
    Topics,
    impatient,
    settings_from,
)
from pipelines.cli.output import print_json, say
from pipelines.core.errors import ExitCode, PlumblineError

if TYPE_CHECKING:
    from pipelines.cli.checks import Finding
    from pipelines.core.settings import Settings

__all__ = ["register"]

_MARKS = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "·"}
_PLAIN_MARKS = {"ok": "ok", "warning": "!!", "failed": "no", "skipped": "--"}
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "bright_black"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        short_help="Check settings, broker, topics, Qdrant, model, contract.",
        epilog="Example: plumbline doctor --config plumbline.yaml",
    )(doctor)


def doctor(
    context: typer.Context,
    json: Json = False,
    config: Config = None,
    index: IndexName = None,
    bootstrap_servers: BootstrapServers = None,
    topic: Topics = None,
    qdrant_url: QdrantUrl = None,
    qdrant_path: QdrantPath = None,
) -> None:
    """Check settings, broker, topics, Qdrant, model, contract and version; one line each.

    Every check runs, whatever the others found. Nothing is created or changed. Exit code 0 when
    nothing failed (warnings do not count), 2 for settings, 3 when a service is out of reach, else
    1.
    """
    try:
        settings = settings_from(
            context,
            config=config,
            index=index,
            bootstrap_servers=bootstrap_servers,
            topics=topic,
            qdrant_url=qdrant_url,
            qdrant_path=qdrant_path,
            log_level="error",  # a client's "connection lost" is the finding itself
        )
    except PlumblineError as error:
        from pipelines.cli.checks import Finding, Status

        found = [Finding("settings", Status.FAILED, str(error), exit_code=error.exit_code)]
        if json:
            _print_json(found, None)
        else:
            _print(found[0])
        raise typer.Exit(error.exit_code) from None
    findings = []
    for finding in _examine(impatient(settings), _source(context, config)):
        findings.append(finding)
        if not json:
            _print(finding)
    if json:
        _print_json(findings, settings)
    raise typer.Exit(_exit_code(findings))


def _examine(settings: Settings, source: str) -> Iterator[Finding]:
    from pipelines.cli.checks import CHECKS, Finding, Patient, Status, settings_finding

    yield settings_finding(settings, source)
    patient = Patient(settings)
    for name, check in CHECKS:
        try:
            yield from check(patient)
        except Exception as error:  # noqa: BLE001 - one check's fault must not hide the others
            yield Finding(
                name,
                Status.FAILED,
                f"the check itself failed: {type(error).__name__}",
                "Please report this; PLUMBLINE_LOG_LEVEL=debug shows more.",
                ExitCode.NO,
            )


def _source(context: typer.Context, config: Path | None) -> str:
    state = context.obj if isinstance(context.obj, State) else State()
    path = config or state.config
    if path is None and Path("plumbline.yaml").is_file():
        path = Path("plumbline.yaml")
    return str(path) if path is not None else "no file, environment and defaults"


def _exit_code(findings: list[Finding]) -> int:
    codes = {finding.exit_code for finding in findings}
    # What the user must mend first comes first.
    for code in (ExitCode.USAGE, ExitCode.UNAVAILABLE, ExitCode.NO):
        if code in codes:
            return code
    return ExitCode.OK


def _print(finding: Finding) -> None:
    from pipelines.core.redact import redact_text

    marks = _MARKS
    try:
        "".join(_MARKS.values()).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        marks = _PLAIN_MARKS
    mark = typer.style(marks[finding.status], fg=_COLOURS[finding.status])
    typer.echo(f"{mark} {finding.check:<12} {redact_text(finding.message)}")
    if finding.fix and finding.status != "ok":
        say(f"{'':>{len(marks['ok']) + 14}}fix: {finding.fix}")
    sys.stdout.flush()


def _print_json(findings: list[Finding], settings: Settings | None) -> None:
    from pipelines.core.redact import redact_text

    print_json(
        {
            "exit_code": _exit_code(findings),
            "findings": [
                {**asdict(finding), "message": redact_text(finding.message)} for finding in findings
            ],
            # SecretStr prints as stars.
            "settings": settings.model_dump(mode="json") if settings is not None else None,
        }
    )
