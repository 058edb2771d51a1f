"""What Beam's job server is told of the settings, and which settings are refused."""

from __future__ import annotations

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions

from pipelines.core.errors import SettingsError
from pipelines.core.settings import Settings, load_settings
from pipelines.flink.options import beam_options, job_name
from pipelines.flink.submit import check_cluster_settings


def settings(**flink) -> Settings:
    return Settings(
        kafka={"topics": ["documents"], "splits": 4},
        qdrant={"url": "http://localhost:6333"},
        flink={"job_endpoint": "localhost:8099", **flink},
    )


def test_defaults_leave_the_rest_to_flink():
    """Checkpoints are taken and kept; backend and restarts are the cluster's own business."""
    options = beam_options(settings(), "docs--minilm--0123456789ab")
    assert {
        "--job_endpoint=localhost:8099",
        "--job_name=plumbline-docs--minilm--0123456789ab",
        "--environment_type=LOOPBACK",
        "--parallelism=1",
        "--max_parallelism=128",
        "--checkpointing_interval=5000",
        "--externalized_checkpoints_enabled",
        "--retain_externalized_checkpoints_on_cancellation",
        "--max_bundle_size=1",
        "--operator_chaining",
    } <= set(options)
    names = {option.partition("=")[0] for option in options}
    assert not names & {"--state_backend", "--number_of_execution_retries", "--savepoint_path"}


def test_everything_that_is_set_is_handed_on():
    """Each setting reaches Beam under the name that its Flink runner gives it."""
    options = beam_options(
        settings(
            environment="EXTERNAL",
            parallelism=2,
            max_parallelism=64,
            workers=3,
            checkpoint_interval_seconds=0.5,
            checkpoint_timeout_seconds=20,
            retain_checkpoints=False,
            state_backend="rocksdb",
            state_path="s3://bucket/state",
            restart_attempts=7,
            restart_delay_seconds=1.5,
        ),
        "docs--minilm--0123456789ab",
        savepoint="s3://bucket/savepoint-1",
    )
    assert {
        "--environment_type=EXTERNAL",
        "--environment_config=localhost:50000",
        "--parallelism=2",
        "--max_parallelism=64",
        "--sdk_worker_parallelism=3",
        "--checkpointing_interval=500",
        "--checkpoint_timeout_millis=20000",
        "--state_backend=rocksdb",
        "--state_backend_storage_path=s3://bucket/state",
        "--number_of_execution_retries=7",
        "--execution_retry_delay=1500",
        "--savepoint_path=s3://bucket/savepoint-1",
    } <= set(options)
    assert "--externalized_checkpoints_enabled" not in options
    parsed = PipelineOptions(options).view_as(PortableOptions)
    assert parsed.environment_config == "localhost:50000"


def test_an_option_on_the_command_line_takes_the_place_of_a_setting():
    """`--beam-option` has the last word, and no option comes twice."""
    options = beam_options(
        settings(parallelism=2), "v", more=["--parallelism=4", "--max_bundle_size=9"]
    )
    assert [
        option for option in options if "parallelism=" in option[:14] or "bundle_size" in option
    ] == ["--parallelism=4", "--max_bundle_size=9"]


def test_the_job_is_named_after_its_version():
    """The name on Flink's page begins like the version's, so with the index."""
    assert job_name("docs--minilm--0123456789ab") == "plumbline-docs--minilm--0123456789ab"


@pytest.mark.parametrize(
    ("flink", "message"),
    [
        ({"job_endpoint": "http://localhost:8099"}, "localhost:8099"),
        ({"rest_url": "localhost:8081"}, "http://localhost:8081"),
        ({"rest_url": "http://user:secret@host:8081"}, "without a login"),
        ({"state_backend": "rocksdb"}, "state_path"),
        ({"restart_delay_seconds": 3}, "restart_attempts"),
        ({"parallelism": 4, "max_parallelism": 2}, "max_parallelism"),
        ({"checkpoint_interval_seconds": 0}, "greater than or equal"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(flink, message, tmp_path):
    """The message says what is valid, and shows no login."""
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(overrides={"flink": flink})
    assert "secret" not in str(caught.value)


def test_more_subtasks_than_splits_are_refused():
    """A subtask without a split would look like capacity and be none."""
    with pytest.raises(SettingsError, match=r"kafka\.splits"):
        check_cluster_settings(settings(parallelism=5))
    check_cluster_settings(settings(parallelism=4, environment="EXTERNAL"))


def test_workers_of_a_cluster_need_a_server():
    """The embedded store cannot be shared, which is said before anything is submitted."""
    embedded = Settings(
        kafka={"topics": ["documents"]}, qdrant={"path": "x"}, flink={"environment": "EXTERNAL"}
    )
    with pytest.raises(SettingsError, match=r"qdrant\.url"):
        check_cluster_settings(embedded)


def test_a_job_without_a_job_server_is_refused():
    """Nobody guesses an address that jobs are sent to."""
    with pytest.raises(SettingsError, match=r"flink\.job_endpoint"):
        beam_options(Settings(), "v")
