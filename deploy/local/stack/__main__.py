"""`make up`, `make down`, `make status` and `make send`."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from deploy.local.stack.errors import StackError
from deploy.local.stack.options import DEFAULT_CONFIG, DEFAULT_STATE, Options

_PORTS = {
    "kafka_controller_port": "of Kafka's own listener",
    "qdrant_port": "of the Qdrant that is started where the settings name none",
    "prometheus_port": "of Prometheus",
    "alertmanager_port": "of Alertmanager",
}


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; gives the exit code."""
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: what has started runs on, `make down` stops it", file=sys.stderr)
        return 130


def _run(given: argparse.Namespace) -> int:
    # Imported here, so that --help and `down` do not wait for what only `up` needs.
    options = Options(
        **{name: value for name, value in vars(given).items() if name in Options.__match_args__}
    )
    if given.do == "up":
        from deploy.local.stack.up import up

        with _alone(options):
            up(options, _say)
        _say(_farewell(options))
        return 0
    if given.do == "send":
        return _send(options, given.topic)
    from deploy.local.stack.down import down, status

    if given.do == "status":
        return 0 if status(options, _say) else 1
    with _alone(options):
        down(options, _say)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.stack",
        description="Plumbline with everything it needs, on this machine and on loopback alone.",
    )
    commands = parser.add_subparsers(dest="do", required=True)
    state = argparse.ArgumentParser(add_help=False)
    state.add_argument(
        "--state",
        type=Path,
        default=DEFAULT_STATE,
        help="folder of data, logs and records (default: %(default)s)",
    )
    up = commands.add_parser("up", parents=[state], help="start what does not run, in order")
    up.add_argument(
        "--config",
        type=Path,
        default=Path(os.environ.get("PLUMBLINE_CONFIG") or DEFAULT_CONFIG),
        help="Plumbline's settings (default: PLUMBLINE_CONFIG, else deploy/local/plumbline.yaml)",
    )
    up.add_argument(
        "--objectives",
        type=Path,
        help="thresholds of the alerts, as `python -m deploy.alerting` reads them",
    )
    for name, what in _PORTS.items():
        default = getattr(Options, name)
        up.add_argument(
            f"--{name.replace('_', '-')}", type=_port, default=default, help=f"{what} ({default})"
        )
    up.add_argument(
        "--timeout",
        dest="timeout_seconds",
        type=float,
        default=Options.timeout_seconds,
        help="seconds that each service may take (%(default)g)",
    )
    commands.add_parser("down", parents=[state], help="stop what was started, and nothing else")
    commands.add_parser("status", parents=[state], help="say what runs and whether it answers")
    send = commands.add_parser(
        "send", parents=[state], help="send events from standard input, one JSON object a line"
    )
    send.add_argument("--topic", help="default: the first of the settings")
    return parser


def _port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65_535:
        raise ValueError
    return number


def _send(options: Options, topic: str | None) -> int:
    from deploy.local.stack.send import send
    from pipelines.core.errors import SettingsError
    from pipelines.core.settings import load_settings

    if not options.settings.exists():
        raise StackError(f"{options.settings} is not there: `make up` writes it")
    try:
        settings = load_settings(options.settings)
    except SettingsError as error:
        raise StackError(str(error)) from None
    wanted = topic or next(iter(settings.kafka.topics), None)
    if wanted is None:
        raise StackError("the settings name no topic but a pattern: give --topic")
    _say(f"{send(settings, wanted, sys.stdin):,} sent to {wanted}")
    return 0


@contextlib.contextmanager
def _alone(options: Options) -> Iterator[None]:
    """One `up` or `down` at a time in a state folder; a second one waits."""
    options.state.mkdir(parents=True, exist_ok=True)
    with (options.state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another `make up` or `make down` is at work: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _farewell(options: Options) -> str:
    program, more = "python -m deploy.local.stack", f" --state {options.state}"
    usual = options.state == DEFAULT_STATE
    do = {
        name: f"make{' -s' if name == 'send' else ''} {name}"
        if usual
        else f"{program} {name}{more}"
        for name in ("send", "status", "down")
    }
    settings = options.settings
    return f"""
Send a document, and find it:
  echo '{{"id": "kb/42", "text": "A parcel can be returned within thirty days."}}' | {do["send"]}
  plumbline search --config {settings} "how long may I keep it"
Settings: {settings}   Logs: {options.state / "logs"}
What runs: {do["status"]}   Stop it: {do["down"]}"""


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
