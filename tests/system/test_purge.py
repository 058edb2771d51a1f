"""Purging tombstones by what Apache Kafka says of its topics and of the consumer group."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from pipelines.core.control import Control
from pipelines.core.purge import PurgeLog, PurgeReport, purge_tombstones
from pipelines.core.replay import Verdict
from pipelines.core.settings import Settings
from pipelines.io.kafka.admin import topic_retentions
from pipelines.io.kafka.dead_letters import plan_replay_of_topic, read_dead_letters, replay
from pipelines.io.kafka.lag import lag_reader
from pipelines.io.kafka.producer import close_producers
from tests.support.jobs import COMMAND, write_config
from tests.support.scenario import Scenario, merged
from tests.support.stream import Message

DAY = 86_400


def message(document_id: str, **body: Any) -> Message:
    value = json.dumps({"id": document_id, **body}).encode()
    return Message(document_id.encode(), value)


def deletion(document_id: str) -> Message:
    return Message(document_id.encode(), None)


def purge(scenario: Scenario, *, days: float, **arguments: Any) -> PurgeReport:
    """As the command does it, so many days from now."""
    assert scenario.version is not None
    return purge_tombstones(
        scenario.qdrant,
        scenario.settings,
        scenario.version,
        topics=topic_retentions(scenario.settings),
        lag=lag_reader(scenario.settings),
        now=lambda: time.time() + days * DAY,
        **arguments,
    )


def refusals(report: PurgeReport) -> list[str]:
    return [one.name for one in report.conditions if not one.ok]


def command(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [*COMMAND, *arguments, "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def set_config(scenario: Scenario, **values: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=scenario.topic.bootstrap)
    configs = {name.replace("_", "."): value for name, value in values.items()}
    resource = ConfigResource(ConfigResourceType.TOPIC, scenario.topic.name, configs=configs)
    try:
        admin.alter_configs([resource])
    finally:
        admin.close()


def catch_up(scenario: Scenario) -> None:
    with scenario.job("--until-caught-up") as job:
        job.done()


def test_a_purge_on_kafka_and_the_replays_after_it(
    scenario: Callable[..., Scenario], tmp_path: Path
) -> None:
    """Ages come from the topics, positions from the group, and what is older stays out."""
    one = scenario(settings={"limits": {"text_bytes": 100}})
    one.topic.produce(
        [
            *(message(f"d{number}", text=f"text {number}") for number in range(6)),
            message("d0", text="far too long " * 20),
            *(deletion(f"d{number}") for number in range(3)),
        ]
    )
    catch_up(one)
    log = PurgeLog(Control(one.qdrant))

    # The source keeps 7 days and a segment of 7, the dead letters 30 and 7: the latter decides.
    status, shown = command("index", "purge-tombstones", "--dry-run", "--config", str(one.config))
    assert (status, shown["held"], shown["tombstones"]) == (0, {"too_young": 3}, 3)
    assert "37.0 d" in next(
        row["figure"] for row in shown["conditions"] if row["name"] == "retention"
    )
    assert purge(one, days=36.9).purged == 0

    # A topic that is compacted, and one that keeps all.
    set_config(one, cleanup_policy="compact")
    assert refusals(purge(one, days=40)) == ["retention"]
    status, shown = command("index", "purge-tombstones", "--config", str(one.config))
    assert (status, shown["refused"]) == (1, True)
    set_config(one, cleanup_policy="delete", retention_ms="-1")
    assert refusals(purge(one, days=40)) == ["retention"]
    set_config(one, cleanup_policy="delete", retention_ms=str(7 * DAY * 1000))

    # A group that is behind.
    one.topic.produce([message("d5", text="newer")])
    assert refusals(purge(one, days=40)) == ["committed"]
    assert log.of_index(one.settings.index) == []
    catch_up(one)

    report = purge(one, days=40)
    assert (report.purged, report.came_back, refusals(report)) == (3, 0, [])
    (record,) = log.of_index(one.settings.index)
    assert record.purged == 3

    # The dead letter of d0 is older than its deletion was.
    raised = merged(one.values, {"limits": {"text_bytes": 10_000}})
    config = write_config(tmp_path / "raised.yaml", raised)
    status, shown = command("dead-letters", "replay", "--config", str(config))
    assert (status, shown["to_send"]) == (0, 0)
    assert [row["verdict"] for row in shown["counts"]] == ["too_old"]

    # Whoever sends it all the same, or did before, meets the job's own look at the record.
    settings = Settings(**raised)
    plan = plan_replay_of_topic(settings)
    assert plan.count(Verdict.SEND) == 1
    assert replay(settings, plan).sent == 1
    close_producers()
    one.config = config
    assert refusals(purge(one, days=40)) == ["replays"]
    catch_up(one)
    reasons = [letter.reason for letter in read_dead_letters(settings)]
    assert reasons == ["text_too_large", "behind_purge"]
    assert "d0" not in {
        point.payload["_plumbline"]["document_id"]
        for point in one.qdrant.call("scroll", one.version.name, limit=100)[0]  # type: ignore[union-attr]
    }
