"""Rules and Alertmanager's configuration: as committed, and what wrong objectives say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.alerting import Objectives, generated, load_objectives
from deploy.alerting.alerts import alerts_of
from deploy.alerting.durations import format_duration, parse_duration
from deploy.alerting.inhibitions import INHIBITIONS
from deploy.alerting.known import check_expression, exported_metrics, names_in
from deploy.alerting.objectives import SEVERITIES, Alerts, searchable_buckets
from deploy.alerting.recording import recordings
from pipelines.core.errors import SettingsError
from pipelines.core.monitor_settings import MonitorSettings

REPOSITORY = Path(__file__).parents[2]
DEFAULTS = Objectives()
ALERTS = alerts_of(DEFAULTS)
NAMES = sorted(Alerts.model_fields)


def load(folder: Path, text: str) -> Objectives:
    path = folder / "objectives.yaml"
    path.write_text(text, encoding="utf-8")
    return load_objectives(path)


@pytest.mark.parametrize("name", sorted(generated(DEFAULTS)))
def test_what_is_committed_is_what_the_code_gives(name: str) -> None:
    """`make generate` was run: a difference fails here and not at night."""
    committed = (REPOSITORY / "deploy" / name).read_text("utf-8")
    assert committed == generated(DEFAULTS)[name], "run `make generate`"


def test_every_objective_has_its_alert_and_no_alert_is_without() -> None:
    """An objective of an alert that nobody generates would promise what does not come."""
    assert {alert.name for alert in ALERTS} == set(NAMES)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda a: f"{a.name}{''.join(a.labels.values())}")
def test_an_alert_says_what_is_wrong_and_where_to_look(alert) -> None:
    """Severity, component, a summary, a description with figures, and both links."""
    made = alert.to_yaml(DEFAULTS)
    assert made["labels"]["severity"] in SEVERITIES
    assert made["labels"]["component"] in ("search", "ingest", "monitor", "rollout")
    notes = made["annotations"]
    assert set(notes) == {"summary", "description", "dashboard_url", "runbook_url"}
    assert len(notes["summary"]) < 140
    assert notes["description"].endswith(".") or notes["description"].endswith("{{ end }}.")
    assert notes["runbook_url"].endswith(f"#{alert.name.lower()}")


def test_rules_are_told_apart() -> None:
    """No two rules of one name and labels, no recording twice."""
    keys = [(alert.name, tuple(alert.labels.items())) for alert in ALERTS]
    assert len(keys) == len(set(keys))
    names = [rule.name for rule in recordings(DEFAULTS)]
    assert len(names) == len(set(names))


def test_every_name_in_a_rule_is_exported_or_recorded() -> None:
    """What the generator checks, by the code's own list of metrics."""
    recorded = {rule.name for rule in recordings(DEFAULTS)}
    read = set[str]()
    for alert in ALERTS:
        read |= names_in(alert.expression) | names_in(alert.description)
    for rule in recordings(DEFAULTS):
        read |= names_in(rule.expression)
    assert read <= recorded | set(exported_metrics())
    assert len(read) > 40, "the names are found at all"


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        (
            "rate(plumbline_event_total[5m])",
            r"reads plumbline_event_total,.*plumbline_events_total",
        ),
        ("plumbline:probe_alarms:live == 1", r"reads plumbline:probe_alarms:live"),
        (
            'plumbline_rollout_state{stage="building"}',
            r"by the label stage, which it has not; its labels are .*state",
        ),
        ("plumbline_encode_seconds", r"plumbline_encode_seconds_(bucket|count|sum)"),
    ],
)
def test_a_metric_that_was_renamed_fails_the_generator(expression: str, words: str) -> None:
    """It names the rule, what it reads, and what is near."""
    recorded = [rule.name for rule in recordings(DEFAULTS)]
    with pytest.raises(SettingsError, match=words) as caught:
        check_expression("PlumblineExample", expression, recorded, exported_metrics())
    assert str(caught.value).startswith("PlumblineExample ")


def test_a_metric_that_the_code_loses_fails_the_generator(monkeypatch) -> None:
    """Not the night: the rule that reads it is named."""
    known = dict(exported_metrics())
    del known["plumbline_probe_alarm"]
    monkeypatch.setattr("deploy.alerting.generate.exported_metrics", lambda: known)
    with pytest.raises(SettingsError, match="plumbline:probe_alarm:live reads plumbline_probe_al"):
        generated(DEFAULTS)


WRONG = [
    (
        "alerts: {PlumblineDrift: {severity: fatal}}",
        "'fatal' is no severity; valid are critical, w",
    ),
    ("alerts: {PlumblineDrfit: {}}", r"alerts\.PlumblineDrfit; did you mean PlumblineDrift\?"),
    ("alerts: {PlumblineDrift: {fro: 1m}}", r"unknown key alerts\.PlumblineDrift\.fro; did you me"),
    ("alerts: {PlumblineDrift: {for: soon}}", r"PlumblineDrift\.for: 'soon' is no duration.*90s"),
    ("alerts: {PlumblineDrift: {for: 8d}}", r"for: .*less than or equal to 604800 \(got '8d'\)"),
    ("alerts: {PlumblineDeadLettersGrowing: {ratio: 3}}", r"ratio: .*less than 1 \(got 3\)"),
    ("alerts: {PlumblineProbeSilent: {intervals: 1}}", r"intervals: .*equal to 1\.5 \(got 1\)"),
    ("freshness: {within_seconds: 42}", r"is 42, and no bucket .* valid are 0\.1, .*300"),
    ("freshness: {ratio: 1}", r"freshness\.ratio: .*less than 1 \(got 1\)"),
    ("burn_rates: {fast: [{rate: 3, long: 5m, short: 1h}]}", r"`short` \(1h\) must be shorter th"),
    ("burn_rates: {fast: [{rate: 0, long: 1h, short: 5m}]}", r"fast\.0\.rate: .*greater than 0"),
    ("scraping: {scrape_interval: 3h}", r"scrape_interval: .*equal to 300 \(got '3h'\)"),
    ("scraping: {jobs: {ingest: 'a\"b'}}", r"scraping\.jobs\.ingest: .*pattern"),
    ("links: {runbook: somewhere}", r"links\.runbook: .*pattern"),
    ("notifications: {repeat: {page: 1h}}", r"'page' is no severity; valid are critical"),
    ("time_scale: 2", r"time_scale: .*less than or equal to 1 \(got 2\)"),
    ("objectives: {}", r"unknown key objectives; valid are time_scale, .*alerts"),
    ("[1, 2]", "expected a mapping such as"),
    ("alerts: {", "is not YAML"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_objectives_that_are_not_valid_say_why(tmp_path: Path, text: str, words: str) -> None:
    """Each names the file, what came and what is valid."""
    with pytest.raises(SettingsError, match=words) as caught:
        load(tmp_path, text)
    assert str(tmp_path) in str(caught.value)


def test_a_file_is_laid_over_the_defaults(tmp_path: Path) -> None:
    """What it says of one alert leaves that alert's other values as they were."""
    given = load(
        tmp_path,
        "alerts: {PlumblineDeadLettersGrowing: {ratio: 0.2}, PlumblineDrift: {enabled: false}, "
        "PlumblineIngestDown: {for: 20m}}\nfreshness: {within_seconds: 60}",
    )
    letters = given.alerts.PlumblineDeadLettersGrowing
    assert (letters.ratio, letters.wait, letters.events) == (0.2, 900.0, 10)
    assert given.alerts.PlumblineIngestDown.severity == "critical"
    files = generated(given)
    assert "PlumblineDrift\n" not in files["prometheus/plumbline.alerts.yml"]
    assert "for: 20m" in files["prometheus/plumbline.alerts.yml"]
    assert 'le="60.0"' in files["prometheus/plumbline.rules.yml"]
    assert "PlumblineDrift|" not in files["alertmanager/alertmanager.yml"]


def test_a_fire_drill_shortens_every_wait(tmp_path: Path) -> None:
    """`for`, windows and Alertmanager's waits; names of series stay."""
    given = load(
        tmp_path,
        "time_scale: 0.01\nscraping: {scrape_interval: 1s, evaluation_interval: 1s}",
    )
    files = {name: yaml.safe_load(text) for name, text in generated(given).items()}
    rules = [
        rule
        for group in files["prometheus/plumbline.alerts.yml"]["groups"]
        for rule in group["rules"]
    ]
    waits = [parse_duration(rule["for"]) for rule in rules if "for" in rule]
    assert min(waits) == 1
    assert max(waits) == 9
    records = files["prometheus/plumbline.rules.yml"]["groups"][0]["rules"]
    by_name = {rule["record"]: rule["expr"] for rule in records}
    assert set(by_name) == {rule.name for rule in recordings(DEFAULTS)}
    assert "[36s]" in by_name["plumbline:freshness_bad:ratio_rate1h"]
    assert "[4s]" in by_name["plumbline:events:rate5m"], "no rate over fewer than four scrapes"
    assert files["alertmanager/alertmanager.yml"]["route"]["group_interval"] == "1s"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("3d", 259_200), ("2w", 1_209_600), ("250ms", 0.25), (7, 7)],
)
def test_durations_are_those_of_prometheus(text: object, seconds: float) -> None:
    """And come back as they were meant."""
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "m5", "5", "5m1h", "-5m", "1.5h", None, True, [1]])
def test_what_is_no_duration_is_refused(text: object) -> None:
    """With an example of one."""
    with pytest.raises(ValueError, match=r"is no duration: .* such as"):
        parse_duration(text)


def test_alert_and_probe_mean_the_same_freshness() -> None:
    """Both objectives are one number, and a bucket of the histogram ends there."""
    assert DEFAULTS.freshness.within_seconds == MonitorSettings().freshness.objective_seconds
    assert DEFAULTS.freshness.within_seconds in searchable_buckets()


def test_the_canary_is_told_before_the_job_that_it_ended() -> None:
    """Else its consequence pages first: the probe's interval, its jitter, and both `for`s."""
    monitor = MonitorSettings()
    interval = monitor.canary.interval_seconds * (1 + monitor.jitter_ratio)
    alerts, scraping = DEFAULTS.alerts, DEFAULTS.scraping
    first = interval + alerts.PlumblineCanaryMismatch.wait
    late = 3 * (scraping.scrape_interval + scraping.evaluation_interval)
    assert first + late < alerts.PlumblineIngestDown.wait


def test_inhibitions_name_alerts_that_exist_and_no_circles() -> None:
    """Two alerts that silence each other would both be silent."""
    edges = {
        (one.source.split(" ")[0], target.split(" ")[0])
        for one in INHIBITIONS
        for target in one.targets
    }
    assert {name for edge in edges for name in edge} <= set(NAMES)
    reached = set(edges)
    for middle in NAMES:
        into = {a for a, b in reached if b == middle}
        out = {b for a, b in reached if a == middle}
        reached |= {(a, b) for a in into for b in out}
    assert not [name for name in NAMES if (name, name) in reached]
    assert all(one.why.endswith(".") for one in INHIBITIONS)


def test_consequences_are_evaluated_before_their_causes() -> None:
    """So that their end is sent first, and they are not told in between."""
    order = [alert.name for alert in ALERTS]
    for one in INHIBITIONS:
        first = order.index(one.source.split(" ")[0])
        for target in one.targets:
            last = len(order) - 1 - order[::-1].index(target.split(" ")[0])
            assert last < first, (one.source, target)


def test_the_command_writes_and_refuses(tmp_path: Path) -> None:
    """`python -m deploy.alerting`: files at 0, a message and no file at 2."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("alerts: {PlumblineDrift: {severity: loud}}")
    command = [sys.executable, "-m", "deploy.alerting", "--out", str(tmp_path / "out")]
    refused = subprocess.run(
        [*command, "--objectives", str(wrong)], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert refused.returncode == 2
    assert "'loud' is no severity" in refused.stderr
    assert not (tmp_path / "out").exists()
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    written = sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in map(Path, done.stdout.split())
    )
    assert written == sorted(generated(DEFAULTS))


def test_no_secret_and_no_place_is_in_the_files() -> None:
    """What is committed names loopback and names reserved for examples."""
    text = "\n".join(generated(DEFAULTS).values())
    hosts = set(re.findall(r"https?://([^/:\s]+)", text))
    assert hosts == {"localhost", "plumbline.example"}
