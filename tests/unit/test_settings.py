"""Settings: where they come from, what is refused, and that no message shows a secret."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipelines.core.errors import ExitCode, SettingsError
from pipelines.core.redact import MASK, is_secret_name, redact, redact_text, remember
from pipelines.core.settings import Settings, load_settings, secret

SECRET = "hunter2-correct-horse"


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    """No file and no variable of the machine's reaches a test."""
    for name in list(os.environ):
        if name.upper().startswith("PLUMBLINE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(text: str) -> Path:
    path = Path("settings.yaml")
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_nothing():
    """Without file, environment and flags there are usable settings with an embedded store."""
    settings = load_settings()
    assert (settings.index, settings.qdrant.path, settings.qdrant.url) == (
        "docs",
        Path("plumbline-data"),
        None,
    )
    assert settings.kafka.isolation_level == "read_committed"


def test_flags_win_over_environment_over_file(monkeypatch):
    """Each key on its own: a flag, else the variable, else the file, else the default."""
    path = write("index: a\nkafka: {bootstrap_servers: 'f:1', splits: 3, max_poll_records: 7}\n")
    monkeypatch.setenv("PLUMBLINE_KAFKA__BOOTSTRAP_SERVERS", "e:2")
    monkeypatch.setenv("PLUMBLINE_KAFKA__SPLITS", "4")
    settings = load_settings(path, {"kafka": {"splits": 5, "topics": None}, "index": None})
    assert settings.index == "a"
    assert settings.kafka.bootstrap_servers == "e:2"
    assert settings.kafka.splits == 5
    assert settings.kafka.max_poll_records == 7


def test_the_file_of_this_folder_is_found():
    """`plumbline.yaml` where the command runs is read without being named."""
    Path("plumbline.yaml").write_text("index: found\n", encoding="utf-8")
    assert load_settings().index == "found"


@pytest.mark.parametrize(
    ("variable", "value", "path", "expected"),
    [
        ("PLUMBLINE_KAFKA__TOPICS", "a", "kafka.topics", ["a"]),
        ("PLUMBLINE_KAFKA__TOPICS", "a, b", "kafka.topics", ["a", "b"]),
        ("PLUMBLINE_KAFKA__TOPICS", '["a", "b"]', "kafka.topics", ["a", "b"]),
        ("PLUMBLINE_KAFKA__API_VERSION", "2,3", "kafka.api_version", (2, 3)),
        ("PLUMBLINE_KAFKA__DEBEZIUM__ID", "a,b", "kafka.debezium.id", ["a", "b"]),
        ("PLUMBLINE_METRICS__PORT", "null", "metrics.port", None),
        ("PLUMBLINE_METRICS__PORT", "", "metrics.port", 9108),
        ("PLUMBLINE_CONTRACT__CHUNK__SIZE", "64", "contract.chunk.size", 64),
        ("PLUMBLINE_CONTRACT__CHUNK", '{"size": 99}', "contract.chunk.size", 99),
        ("plumbline_index", "low", "index", "low"),
    ],
)
def test_every_kind_of_value_fits_into_a_variable(monkeypatch, variable, value, path, expected):
    """Lists, nothing, sections and numbers can be given in the environment; empty is not given."""
    monkeypatch.setenv(variable, value)
    found = load_settings()
    for part in path.split("."):
        found = getattr(found, part)
    assert found == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kafka: {bootstrap_server: x}", "kafka.bootstrap_server; did you mean bootstrap_servers?"),
        ("indx: a", "unknown key indx; did you mean index?"),
        ("contract: {chunk: {sise: 3}}", "unknown key contract.chunk.sise; did you mean size?"),
        ("zzzz: 1", "valid are index, kafka"),
    ],
)
def test_an_unknown_key_names_the_nearest(text, named):
    """A typo in the file is an error that says what was meant."""
    with pytest.raises(SettingsError, match=r"settings\.yaml") as caught:
        load_settings(write(text))
    assert named in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("variable", "named"),
    [
        ("PLUMBLINE_KAFKA__TOPIC", "PLUMBLINE_KAFKA__TOPICS"),
        ("PLUMBLINE_KAFKA_TOPICS", "PLUMBLINE_KAFKA__TOPICS"),
        ("plumbline_kafka__topic", "PLUMBLINE_KAFKA__TOPICS"),
        ("PLUMBLINE_LOGLEVEL", "PLUMBLINE_LOG_LEVEL"),
        ("PLUMBLINE_INDEX__NAME", "PLUMBLINE_INDEX"),
    ],
)
def test_an_unknown_variable_names_the_nearest(monkeypatch, variable, named):
    """A typo in the environment is an error too, and its value is not shown."""
    monkeypatch.setenv(variable, SECRET)
    with pytest.raises(SettingsError, match="unknown environment variable") as caught:
        load_settings()
    assert f"did you mean {named}" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"kafka: {{sasl_password: {SECRET}, security_protocol: SASL}}",
        f"kafka: {{sasl_password: {SECRET}, sasl_password_file: /x}}",
        f"kafka: {{sasl_pasword: {SECRET}}}",
        f"kafka: {{sasl_password: [{SECRET}]}}",
        f"kafka: {{sasl_password: {{a: {SECRET}}}}}",
        f"kafka: {{sasl_password: *{SECRET}}}",
        f"kafka: {{sasl_password: !{SECRET}}}",
        f"kafka: {{sasl_password: %{SECRET}}}",
        f"kafka:\n  sasl_password: '{SECRET}\n",
        f"kafka: sasl_password={SECRET}",
        f"qdrant: {{api_key: {SECRET}, api_key_file: /x}}",
        f"qdrant: {{api_key: {SECRET}, url: 'ftp://x'}}",
        f"qdrant: {{url: 'http://user:{SECRET}@x'}}",
        f"rollout: {{live_metrics_url: 'http://user:{SECRET}@x/metrics'}}",
        f"qdrant: {{url: 'user:{SECRET}@x'}}",
        f"- {SECRET}",
    ],
)
def test_no_error_in_a_file_shows_a_secret(text):
    """Whatever is wrong around a secret, the message does not quote it."""
    with pytest.raises(SettingsError) as caught:
        load_settings(write(text))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PLUMBLINE_KAFKA", f'{{"sasl_password": "{SECRET}"'),
        ("PLUMBLINE_KAFKA", f'["{SECRET}"]'),
        ("PLUMBLINE_QDRANT", f'{{"api_key": "{SECRET}", "nope": 1}}'),
        ("PLUMBLINE_QDRANT__URL", f"http://user:{SECRET}@x"),
    ],
)
def test_no_error_in_a_variable_shows_a_secret(monkeypatch, variable, value):
    """Malformed JSON and unknown keys in a variable are named without their content."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_secret_is_in_no_repr_and_no_dump(monkeypatch):
    """repr, str and JSON of the settings show stars."""
    monkeypatch.setenv("PLUMBLINE_KAFKA__SASL_PASSWORD", SECRET)
    monkeypatch.setenv("PLUMBLINE_QDRANT__API_KEY", SECRET)
    settings = load_settings()
    assert settings.kafka.sasl_password == SecretStr(SECRET)
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert SECRET not in shown


def test_pickled_settings_carry_no_secret(monkeypatch):
    """What travels in a pipeline has no secret in it, and the process that made it still does."""
    monkeypatch.setenv("PLUMBLINE_QDRANT__API_KEY", SECRET)
    settings = load_settings()
    pickled = pickle.dumps(settings)
    assert SECRET.encode() not in pickled
    restored = pickle.loads(pickled)
    assert isinstance(restored, Settings)
    assert restored.qdrant.api_key == SecretStr(SECRET)


def test_a_secret_file_is_read_and_trimmed(tmp_path):
    """`…_file` gives the secret without its line end; one that is missing is named."""
    path = tmp_path / "key"
    path.write_text(f"{SECRET}\n", encoding="utf-8")
    assert secret(None, path, "qdrant.api_key") == SECRET
    with pytest.raises(SettingsError, match=r"qdrant.api_key_file: cannot read .*No such file"):
        secret(None, tmp_path / "none", "qdrant.api_key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index: a--b", "index"),
        ("index: a/b", "index"),
        ("kafka: {topics: ['a b']}", "not a Kafka topic name"),
        ("kafka: {pattern: '('}", "not a regular expression"),
        ("kafka: {topics: [a], pattern: a}", "`topics` or `pattern`, not both"),
        ("kafka: {start: yesterday}", "valid are committed, earliest, latest"),
        ("kafka: {format: debezium, order_by: version}", "debezium.version"),
        ("kafka: {security_protocol: SASL_SSL}", "sasl_mechanism"),
        ("qdrant: {path: a, url: 'http://x'}", "not both"),
        ("contract: {template: '{title}'}", "must contain {text}"),
        ("contract: {template: '{text} {body}'}", "valid fields are {title} and {text}"),
        ("contract: {chunk: {size: 20, overlap: 10}}", "less than half"),
        ("contract: {trust_remote_code: 'other/model'}", "must name the model itself"),
        ("limits: {text_bytes: many}", 'got "many"'),
        ("metrics: {port: 99999}", "metrics.port"),
        ("1: 2", "keys are names"),
        ("a: [", "line"),
        ("index: a\n  b: c", "line 2"),
    ],
)
def test_values_that_cannot_be_used_are_refused_by_name(text, message):
    """The message says which key, what came and what is valid."""
    with pytest.raises(SettingsError) as caught:
        load_settings(write(text))
    assert message in str(caught.value)


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    """A file that was asked for and cannot be read is no silent default."""
    with pytest.raises(SettingsError, match=r"cannot read .*nowhere.yaml: No such file"):
        load_settings(tmp_path / "nowhere.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load_settings(bad)


def test_a_later_source_chooses_the_other_alternative(monkeypatch):
    """`--qdrant-url` over a file with `path`, or over the variable, is no contradiction."""
    path = write("qdrant: {path: here}\nkafka: {pattern: 'a.*'}\n")
    settings = load_settings(path, {"qdrant": {"url": "http://x"}, "kafka": {"topics": ["t"]}})
    assert (settings.qdrant.path, settings.qdrant.url) == (None, "http://x")
    assert (settings.kafka.pattern, settings.kafka.topics) == (None, ["t"])
    monkeypatch.setenv("PLUMBLINE_QDRANT__URL", "http://y")
    assert load_settings(path).qdrant.url == "http://y"
    assert load_settings(path).qdrant.path is None
    settings = load_settings(path, {"qdrant": {"path": "there"}})
    assert (settings.qdrant.path, settings.qdrant.url) == (Path("there"), None)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("committed", None),
        ("1700000000000", 1_700_000_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
    ],
)
def test_a_start_is_a_name_or_a_time(start, expected):
    """Times without a zone are UTC, as in the log."""
    assert load_settings(None, {"kafka": {"start": start}}).kafka.start_timestamp == expected


def test_topics_of_our_own_have_names():
    """Dead letters and replay go beside the first topic unless the settings say otherwise."""
    settings = load_settings(None, {"kafka": {"topics": ["a", "b"]}})
    assert settings.dead_letter_topic == "a.dead-letters"
    assert settings.replay_topic == "a.dead-letters.replay"
    assert load_settings(None, {"index": "i"}).dead_letter_topic == "i.dead-letters"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sasl_password", True),
        ("api_key", True),
        ("apiKey", True),
        ("Authorization", True),
        ("access_token", True),
        ("token", True),
        ("tokens", False),
        ("max_tokens", False),
        ("tokens_per_batch", False),
        ("text_hash", False),
    ],
)
def test_secrets_are_known_by_their_names(name, expected):
    """Counts of tokens are no secrets."""
    assert is_secret_name(name) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("login with password=abc, then", f"login with password={MASK}, then"),
        ("{'sasl_plain_password': 'a b', 'x': 1}", f"{{'sasl_plain_password': {MASK}, 'x': 1}}"),
        ("Authorization: Bearer abc.def", f"Authorization: Bearer {MASK}"),
        ("at https://u:p@host/x", f"at https://{MASK}@host/x"),
        ("kafka.sasl_password: is needed", "kafka.sasl_password: is needed"),
        ("sasl_password_file=/run/secrets/x", "sasl_password_file=/run/secrets/x"),
    ],
)
def test_secrets_inside_a_message_are_masked(text, expected):
    """Libraries quote logins in several ways; our own prose about a key stays readable."""
    assert redact_text(text) == expected


def test_known_secrets_are_masked_wherever_they_stand():
    """A secret's value is masked in any text, and document text under its names."""
    remember(["swordfish-42"])
    masked = redact(
        {
            "message": "tried swordfish-42",
            "deep": [{"password": "x", "count": 3}],
            "text": "a document",
            "title": "its title",
            "key": b"bytes",
        }
    )
    assert masked == {
        "message": f"tried {MASK}",
        "deep": [{"password": MASK, "count": 3}],
        "text": MASK,
        "title": MASK,
        "key": "5 bytes",
    }
