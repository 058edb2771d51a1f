"""The parts of the Kafka source that need no broker."""

from __future__ import annotations

import inspect
import logging

import pytest
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP
from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

from pipelines.core.errors import (
    CommitError,
    ServiceRefusedError,
    ServiceUnavailableError,
    SettingsError,
    SystemicError,
    TransientError,
)
from pipelines.core.metrics import job_metrics
from pipelines.core.settings import Settings
from pipelines.io.kafka import StopSignal, client_config, translate
from pipelines.io.kafka.connection import consumer_config
from pipelines.io.kafka.feed import Feed
from pipelines.io.kafka.headers import accept_any_header_key
from pipelines.io.kafka.logs import tame_kafka_logging
from pipelines.io.kafka.mark import KafkaMark, KafkaMarkCoder
from pipelines.io.kafka.positions import Ledger, Place
from pipelines.io.kafka.reader import event_time
from pipelines.io.kafka.silence import Silence
from pipelines.io.kafka.topology import unknown_topics
from pipelines.io.kafka.track import Track

ZERO = TopicPartition("documents", 0)


def settings(**kafka):
    return Settings(kafka={"topics": ["documents"], **kafka})


def feed(**kafka):
    return Feed.of(settings(**kafka), "group")


def kafka_exceptions():
    return sorted(
        (
            kind
            for _, kind in inspect.getmembers(kafka_errors, inspect.isclass)
            if issubclass(kind, Exception)
        ),
        key=lambda kind: kind.__name__,
    )


# What kafka-python 3.0.12 can raise and no try will mend, however often.
FINAL = {
    *("BrokerIdNotRegisteredError", "BrokerResponseError", "CommitFailedError"),
    *("CorruptRecordError", "CorruptRecordException", "KafkaError", "KafkaProtocolError"),
    *("DelegationTokenAuthDisabledError", "DelegationTokenExpiredError"),
    *("DelegationTokenNotFoundError", "DelegationTokenOwnerMismatchError"),
    *("DelegationTokenRequestNotAllowedError", "DuplicateBrokerRegistrationError"),
    *("DuplicateResourceError", "DuplicateSequenceNumberError", "DuplicateVoterError"),
    *("FeatureUpdateFailedError", "FencedInstanceIdError", "FencedMemberEpochError"),
    *("FencedStateEpochError", "GroupIdNotFoundError", "GroupMaxSizeReachedError"),
    *("GroupSubscribedToTopicError", "IllegalArgumentError", "IllegalGenerationError"),
    *("IllegalStateError", "IncompatibleBrokerVersion", "InconsistentClusterIdError"),
    *("InconsistentGroupProtocolError", "InconsistentVoterSetError", "IneligibleReplicaError"),
    *("InvalidCommitOffsetSizeError", "InvalidConfigurationError", "InvalidFetchRequestError"),
    *("InvalidPartitionsError", "InvalidPrincipalTypeError", "InvalidProducerEpochError"),
    *("InvalidProducerIdMappingError", "InvalidRecordError"),
    *("InvalidRecordStateError", "InvalidRegistrationError", "InvalidReplicationAssignmentError"),
    *("InvalidReplicationFactorError", "InvalidRequestError", "InvalidRequiredAcksError"),
    *("InvalidSessionTimeoutError", "InvalidTimestampError", "InvalidTransactionTimeoutError"),
    *("InvalidTxnStateError", "InvalidUpdateVersionError", "InvalidVoterKeyError"),
    *("LogDirNotFoundError", "LogTruncationError", "MemberIdRequiredError"),
    *("MessageSizeTooLargeError", "MismatchedEndpointTypeError", "NoError"),
    *("NoOffsetForPartitionError", "NoReassignmentInProgressError", "NonEmptyGroupError"),
    *("OffsetMetadataTooLargeError", "OffsetMovedToTieredStorageError", "OffsetOutOfRangeError"),
    *("OperationNotAttemptedError", "OutOfOrderSequenceNumberError", "PolicyViolationError"),
    *("PositionOutOfRangeError", "PrincipalDeserializationFailureError", "ProducerFencedError"),
    *("QuotaViolationError", "ReassignmentInProgressError", "RecordListTooLargeError"),
    *("ResourceNotFoundError", "SnapshotNotFoundError", "StaleMemberEpochError"),
    *("TelemetryTooLargeError", "TopicAlreadyExistsError", "TopicDeletionDisabledError"),
    *("TransactionAbortableError", "TransactionAbortedError"),
    *("TransactionCoordinatorFencedError", "TransactionalIdNotFoundError"),
    *("UnknownControllerIdError", "UnknownMemberIdError", "UnknownProducerIdError"),
    *("UnknownSubscriptionIdError", "UnrecognizedBrokerVersion", "UnreleasedInstanceIdError"),
    *("UnsupportedAssignorError", "UnsupportedCodecError", "UnsupportedCompressionTypeError"),
    *("UnsupportedEndpointTypeError", "UnsupportedForMessageFormatError"),
    *("UnsupportedVersionError", "VoterNotFoundError"),
}


@pytest.mark.parametrize("kind", kafka_exceptions(), ids=lambda kind: kind.__name__)
def test_every_exception_of_kafka_python_has_its_place(kind):
    """A class that a new kafka-python adds fails here until somebody has said what it means."""
    error = kind({}) if kind is kafka_errors.LogTruncationError else kind()
    ours = translate(error, "testing")
    if isinstance(ours, TransientError | ServiceRefusedError | SettingsError):
        return
    assert isinstance(ours, SystemicError)
    assert kind.__name__ in FINAL


def test_translation_keeps_our_errors_and_hides_foreign_content():
    """Our own errors pass as they are, and a parser's message never shows a record's bytes."""
    mine = TransientError("mine")
    assert translate(mine, "testing") is mine
    for error in (
        kafka_errors.CorruptRecordError("UnicodeDecodeError('utf-8', b'secret')"),
        RuntimeError("b'secret' does not decompress"),
    ):
        assert "secret" not in str(translate(error, "testing"))
    assert isinstance(translate(ConnectionResetError("reset"), "testing"), TransientError)


def test_tls_refusals_are_told_from_lost_handshakes():
    """A bad certificate is a refusal, a broker that goes away during the handshake is not."""
    refused = kafka_errors.KafkaConnectionError(
        "Handshake failed: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"
    )
    lost = kafka_errors.KafkaConnectionError(
        "Handshake failed: [SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred"
    )
    assert isinstance(translate(refused, "connecting"), ServiceRefusedError)
    assert isinstance(translate(lost, "connecting"), TransientError)


@pytest.mark.parametrize(
    ("openssl", "words"),
    [
        ("CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired", "clock"),
        (
            "CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch, not for 'a'",
            "kafka.bootstrap_servers",
        ),
        (
            "CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate",
            "kafka.ssl_cafile",
        ),
        ("WRONG_VERSION_NUMBER] wrong version number", "does not speak TLS"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", "ssl_certfile"),
        ("NO_CIPHERS_AVAILABLE] no ciphers available", "kafka.ssl_"),
    ],
)
def test_a_tls_refusal_names_its_remedy(openssl, words):
    """What OpenSSL says is kept, where in its source it said so is not, and the fix follows."""
    error = kafka_errors.KafkaConnectionError(f"Handshake failed: [SSL: {openssl} (_ssl.c:1006)")
    message = str(translate(error, "connecting"))
    assert words in message
    assert "_ssl.c" not in message
    assert "KafkaConnectionError" not in message


def test_mark_survives_its_coder_in_equal_bytes():
    """Equal marks give equal bytes, and every field comes back."""
    places = {
        TopicPartition("b", 1): Place(2**60, "", 3),
        TopicPartition("a", 0): Place(0, "f" * 32),
        TopicPartition("a", 2): Place(7, "f" * 32, 0, 41),
        TopicPartition("a", 3): Place(8, "f" * 32),
    }
    coder = KafkaMarkCoder(feed())
    encoded = coder.encode(KafkaMark(feed(), places))
    assert coder.decode(encoded).places == places
    backwards = KafkaMark(feed(), dict(reversed(places.items())))
    assert coder.encode(backwards) == encoded
    assert coder.is_deterministic()
    assert coder.decode(coder.encode(KafkaMark(feed(), {}))).places == {}


def test_a_thousand_partitions_make_a_small_mark():
    """The mark travels with every bundle."""
    places = {
        TopicPartition("documents", n): Place(10**9, "f" * 32, 0, n % 20) for n in range(1000)
    }
    assert len(KafkaMarkCoder(feed()).encode(KafkaMark(feed(), places))) < 20_000


def test_feed_survives_json_without_secrets():
    """What travels is equal on the other side, canonical, and holds no password."""
    with_secrets = feed(
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username="me",
        sasl_password="hush-hush",
        ssl_key_password="hush-hush",
        api_version=(2, 3),
    )
    text = with_secrets.to_json()
    assert "hush-hush" not in text
    assert "hush-hush" not in repr(with_secrets)
    assert Feed.from_json(text) == with_secrets
    assert Feed.from_json(text).to_json() == text


def test_topics_of_a_feed():
    """Named topics and the replay topic are read, the dead-letter topic never, each once."""
    existing = ["other", "documents", "documents.dead-letters", "documents.dead-letters.replay"]
    assert feed().topics(existing) == ["documents", "documents.dead-letters.replay"]
    pattern = Feed.of(Settings(kafka={"pattern": "docu.*", "dead_letter_topic": "docu.dead"}), "g")
    assert pattern.topics(["docu.a", "docu.dead", "docu.dead.replay", "mydocu.a", "docu.a"]) == [
        "docu.a",
        "docu.dead.replay",
    ]


def test_every_partition_belongs_to_one_split_for_ever():
    """The owner depends on names alone, goes round the splits, and is what it always was."""
    of = feed(splits=4)
    owners = [of.split_of(TopicPartition("documents", n)) for n in range(8)]
    assert owners == [2, 3, 0, 1, 2, 3, 0, 1]


def test_ledger_commits_forward_only_within_an_incarnation():
    """A lower position is never due, unless the partition was begun anew."""
    ledger = Ledger()
    ledger.begin([ZERO], {ZERO: Place(5)})
    assert ledger.due({ZERO: Place(5)}) == {}
    assert ledger.due({ZERO: Place(4)}) == {}
    assert ledger.due({ZERO: Place(6)}) == {ZERO: Place(6)}
    assert ledger.due({ZERO: Place(1, "", 1)}) == {ZERO: Place(1, "", 1)}
    ledger.committed({ZERO: Place(1, "", 1)})
    assert ledger.due({ZERO: Place(9, "", 0)}) == {}


def test_ledger_leaves_out_topics_that_were_recreated():
    """The late commit of a topic that is gone is not made for the one that took its name."""
    ledger = Ledger()
    ledger.know_topic("documents", "new")
    assert ledger.due({ZERO: Place(5, "old")}) == {}
    assert ledger.due({ZERO: Place(5, "new")}) == {ZERO: Place(5, "new")}
    assert ledger.due({ZERO: Place(5, "")}) == {ZERO: Place(5, "")}


def test_ledger_raises_a_failure_once():
    """A failed commit fails one reader; the next may commit what is due."""
    ledger = Ledger()
    ledger.fail(CommitError("no"))
    assert ledger.failure is not None
    with pytest.raises(CommitError):
        ledger.raise_failure()
    ledger.raise_failure()
    assert ledger.failure is None


def test_ledger_reports_what_differs():
    """Emitted and committed are compared within one incarnation."""
    ledger = Ledger()
    ledger.emit({ZERO: Place(8)})
    assert ledger.report() == {("documents", 0): (8, None)}
    ledger.committed({ZERO: Place(8)})
    assert ledger.report() == {("documents", 0): (8, 8)}
    ledger.emit({ZERO: Place(8, "", 1)})
    assert ledger.report() == {("documents", 0): (8, None)}
    ledger.forget(ZERO)
    assert ledger.report() == {}


def test_watermark_of_a_partition():
    """Its last event time; at its end for long enough, the broker's last answer less the wait."""
    track = Track(0)
    assert track.low_ms(5, 100, 1000) is None
    track.event_ms = 50_000
    assert track.low_ms(5, 100, 1000) == 50_000
    track.confirm_end(90)
    assert track.low_ms(5, 100, 1000) == 50_000
    track.confirm_end(96)
    assert track.low_ms(5, 100, 1000) == 991_000
    # An outage: time goes on, no answer comes.
    assert track.low_ms(5, 200, 1100) == 991_000
    track.not_at_end()
    assert track.low_ms(5, 200, 1100) == 50_000


def test_watermark_never_passes_the_present():
    """A producer whose clock is far ahead does not end the stream."""
    assert Track(0, event_ms=10**15).low_ms(5, 100, 1000) == 1_000_000


@pytest.mark.parametrize("milliseconds", [-1, 0, 1_700_000_000_000, 2**63 - 1, -(2**63)])
def test_event_times_fit_beams_range(milliseconds):
    """Any timestamp that Kafka can hold becomes one that Beam can, below the end of the stream."""
    assert MIN_TIMESTAMP <= event_time(milliseconds) < MAX_TIMESTAMP


def test_silence_is_bounded_and_ends_with_an_answer():
    """Waiting adds up and shows, an answer clears it, too much of it stops the job."""
    silence = Silence(10, "group")
    shown = job_metrics().kafka_silence._value
    silence.heard("node", 1.0)
    assert silence.add("node", 6) == 6
    silence.heard("node", 1.0)
    assert silence.add("node", 1) == shown.get() == 7
    silence.heard("node", 2.0)
    assert shown.get() == 0
    assert silence.add("node", 9) == shown.get() == 9
    silence.keep({"another"})
    assert shown.get() == 0
    silence.add("node", 9)
    with pytest.raises(ServiceUnavailableError, match="10 s"):
        silence.add("node", 2)


def batch_with_header(key):
    """Bytes of a batch of three records, the second with that header key of four bytes."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 10_000)
    builder.append(0, 1, b"k", b"before", [])
    builder.append(1, 2, None, b"odd", [("h", b"1"), ("ABCD", None)])
    builder.append(2, 3, b"k", None, [])
    raw = bytearray(bytes(builder.build()).replace(b"ABCD", key))
    raw[17:21] = calc_crc32c(memoryview(raw)[21:]).to_bytes(4, "big")
    return bytes(raw)


@pytest.mark.parametrize(
    ("key", "text"), [(b"ABCD", "ABCD"), (b"\xff\xfeCD", "\\xff\\xfeCD"), (b"\xc3(CD", "\\xc3(CD")]
)
def test_header_keys_that_are_not_utf8_are_escaped(key, text):
    """One odd header key neither stops the partition nor changes a record."""
    accept_any_header_key()
    accept_any_header_key()
    batch = MemoryRecords(batch_with_header(key)).next_batch()
    assert batch.validate_crc()
    records = list(batch)
    assert [record.value for record in records] == [b"before", b"odd", None]
    assert [record.key for record in records] == [b"k", None, b"k"]
    assert [record.timestamp for record in records] == [1, 2, 3]
    assert [record.offset for record in records] == [0, 1, 2]
    assert records[1].headers == [("h", b"1"), (text, None)]


def login(**more):
    return settings(
        security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", sasl_username="me", **more
    )


def test_password_is_used_and_never_shown():
    """The client gets the password; neither the configuration nor the settings print it."""
    config = client_config(login(sasl_password="hush-hush"))
    assert config["sasl_plain_password"] == "hush-hush"
    assert "hush-hush" not in repr(config)
    assert "hush-hush" not in f"{config}"
    assert "hush-hush" not in repr(login(sasl_password="hush-hush"))


def test_password_comes_from_its_file_or_the_environment(tmp_path, monkeypatch):
    """A worker in another process finds the secret where the settings or its environment say."""
    path = tmp_path / "password"
    path.write_text("from-file\n")
    config = client_config(login(sasl_password_file=str(path)))
    assert config["sasl_plain_password"] == "from-file"
    monkeypatch.setenv("PLUMBLINE_KAFKA__SASL_PASSWORD", "from-environment")
    other = login(bootstrap_servers="elsewhere:9092")
    assert client_config(other)["sasl_plain_password"] == "from-environment"


def test_incomplete_logins_are_errors_of_the_settings():
    """Missing passwords, unusable mechanisms and unreadable files name their key."""
    with pytest.raises(SettingsError, match="sasl_password"):
        client_config(login(bootstrap_servers="nobody:9092"))
    with pytest.raises(SettingsError, match="OAUTHBEARER"):
        client_config(settings(security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER"))
    with pytest.raises(SettingsError, match="ssl_cafile"):
        client_config(settings(security_protocol="SSL", ssl_cafile="/nonexistent/ca.pem"))


def test_consumer_reads_within_bounds_and_skips_nothing():
    """Fetch sizes and isolation are the settings', and no offset is reset behind our back."""
    config = consumer_config(settings(fetch_max_bytes=2048, max_poll_records=7).kafka, "docs")
    assert config["fetch_max_bytes"] == 2048
    assert config["max_partition_fetch_bytes"] == 2048
    assert config["max_poll_records"] == 7
    assert config["isolation_level"] == "read_committed"
    assert config["auto_offset_reset"] == "none"
    assert config["enable_auto_commit"] is False
    assert config["client_id"] == "plumbline-docs"


def test_kafka_python_logs_no_requests():
    """Its debug log writes logins; its level stays above that whatever the root's is."""
    tame_kafka_logging()
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    try:
        assert not logging.getLogger("kafka.net.connection").isEnabledFor(logging.DEBUG)
        assert not logging.getLogger("kafka").propagate
    finally:
        root.setLevel(before)


def test_unknown_topics_are_named_with_the_nearest():
    """The message says what is missing and what is there."""
    message = str(unknown_topics(["documnts"], ["documents", "orders"]))
    assert "documnts" in message
    assert "did you mean documents?" in message
    assert "no topics" in str(unknown_topics(["a"], []))


def test_stop_signal():
    """It is set, seen, waited for and cleared."""
    stop = StopSignal()
    assert not stop.wait(0)
    stop.set()
    assert stop.is_set()
    assert stop.wait(0)
    stop.clear()
    assert not stop.is_set()
