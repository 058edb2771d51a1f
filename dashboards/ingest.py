"""Does every event get in, how fast, and what holds the others up?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.bounds import CANARY, NEUTRAL, WAITING, ZERO, Bounds
from dashboards.common import Section, dashboard_of
from dashboards.panels import Panel, graph, number, table
from dashboards.queries import Query, grown, ingest, live, newest, quantile, rate, select
from deploy.alerting.objectives import Objectives

__all__ = ["ingest_job"]

_INDEX = {"index": "$index"}


def ingest_job(objectives: Objectives) -> Dashboard:
    """The dashboard of the job that writes the live version."""
    return dashboard_of(
        "plumbline-ingest",
        "Does every event get in, and how fast? The live version's ingest job by its own metrics, "
        "and what Kafka says of its consumer group. A candidate's job is in Rollout.",
        [
            Section("", [_answers(), _flow()]),
            Section("Is every event accounted for?", [_accounts(), _nothing(), _wrong_world()]),
            Section("Where does the time go?", [_batches(), _services()], collapsed=True),
            Section("What waits in Kafka", [_waiting(), _brokers()], collapsed=True),
            Section("Workers", [_encoders(), _processes()], collapsed=True),
        ],
        objectives=objectives,
    )


def _answers() -> list[Panel]:
    return [
        number(
            "Events consumed",
            "Records read from Kafka in a second. 0 is right where nobody sends; where events "
            "wait, the job is down or stuck.",
            Query(select("plumbline:events:rate5m", **_INDEX), "{{index}}"),
            unit="eps",
            bounds=NEUTRAL,
            alert="PlumblineIngestDown",
        ),
        number(
            "Records not read yet",
            "Between the job's position and the end of the topics, over all partitions.",
            Query(
                ingest("sum", "plumbline_consumer_lag_records"),
                "{{index}}",
            ),
            unit="short",
            bounds=NEUTRAL,
            alert="PlumblineIngestStalled",
        ),
        number(
            "Time until searchable, p99",
            "99 of 100 events can be found sooner after their timestamp. Red from the default "
            "of monitor.freshness.objective_seconds on; a replay of old events counts as well.",
            Query(select("plumbline:event_to_searchable_seconds:p99_5m", **_INDEX), "{{index}}"),
            unit="s",
            bounds=WAITING,
            alert="PlumblineFreshnessBudgetBurnFast",
        ),
        number(
            "Dead letters in the last hour",
            "Events that could not be applied. They are kept: `plumbline dead-letters list "
            "--count` names the reasons.",
            Query(grown("plumbline_dead_letters_total", window="1h"), "{{index}}"),
            unit="short",
            bounds=Bounds("green", ((1.0, "orange"),)),
            decimals=0,
            alert="PlumblineDeadLettersGrowing",
        ),
    ]


def _flow() -> list[Panel]:
    return [
        graph(
            "Events by what became of them",
            "Events a second by outcome. Unchanged and stale ones cost no embedding: many of "
            "them are a replay. Payload-only are changes of metadata.",
            [Query(select("plumbline:events_outcome:rate5m", **_INDEX), "{{outcome}}")],
            unit="eps",
            stacked=True,
        ),
        graph(
            "Time until searchable",
            "From an event's timestamp until a search can find it.",
            [
                Query(select(f"plumbline:event_to_searchable_seconds:{name}_5m", **_INDEX), name)
                for name in ("p50", "p99")
            ],
            unit="s",
            bounds=WAITING,
            alert="PlumblineFreshnessBudgetBurnSlow",
        ),
        graph(
            "Records not read yet, by topic",
            "The partition that lags most, of each topic. Rising steadily: more comes in than one "
            "job can embed.",
            [Query(select("plumbline:consumer_lag_records:max", **_INDEX), "{{topic}}")],
            unit="short",
            alert="PlumblineIngestStalled",
        ),
    ]


def _accounts() -> list[Panel]:
    consumed = ingest("sum", "plumbline_consumed_events_total")
    known = ingest("sum", "plumbline_events_total")
    return [
        graph(
            "Events in flight",
            "Read, and not yet embedded, skipped, deleted or dead-lettered: a batch or two. It "
            "comes back to 0 when nothing is sent. A level that stays is an event unaccounted "
            "for.",
            [Query(f"{consumed} - {known}", "in flight")],
            unit="short",
        ),
        graph(
            "Dead letters by reason",
            "Events a second that could not be applied. One reason rising is a producer that "
            "changed; the README lists all reasons.",
            [Query(select("plumbline:dead_letters:rate5m", **_INDEX), "{{reason}}")],
            unit="eps",
            stacked=True,
            alert="PlumblineDeadLettersGrowing",
        ),
        graph(
            "Offsets committed",
            "Records a second by which the consumer group moves. Standing still while events are "
            "consumed: they are not durable yet, or commits fail.",
            [Query(rate("plumbline_committed_offset", "topic"), "{{topic}}")],
            unit="cps",
            alert="PlumblineCommitFailing",
        ),
    ]


def _stays(title: str, description: str, metric: str, alert: str, width: int = 6) -> Panel:
    return number(
        title,
        description + " In the time that the dashboard shows; should stay at 0.",
        Query(grown(metric, window="$__range"), "{{index}}"),
        unit="short",
        bounds=ZERO,
        decimals=0,
        alert=alert,
        width=width,
    )


def _wrong_world() -> list[Panel]:
    return [
        _stays(
            "Records that vanished",
            "Acknowledged records that the job had read and that are gone from the topic since.",
            "plumbline_truncated_records_total",
            "PlumblineLogTruncated",
            width=8,
        ),
        _stays(
            "Events from the future",
            "Events stamped more than a second ahead of the job's clock. They are in no figure of "
            "freshness.",
            "plumbline_future_events_total",
            "PlumblineClockAhead",
            width=8,
        ),
        _stays(
            "Events that lost to the future",
            "Events left out as stale for a stored state that is stamped in the future: the "
            "document stays at that state until its time has come.",
            "plumbline_shadowed_events_total",
            "PlumblineClockAhead",
            width=8,
        ),
    ]


def _nothing() -> list[Panel]:
    return [
        _stays(
            "Commits that failed",
            "Offset commits that Kafka refused or did not answer.",
            "plumbline_commit_failures_total",
            "PlumblineCommitFailing",
        ),
        _stays(
            "Records lost unread",
            "Records that the topic's retention dropped first: publish them anew, or build the "
            "version anew.",
            "plumbline_data_loss_records_total",
            "PlumblineDataLoss",
        ),
        _stays(
            "Topics re-created",
            "Topics that were deleted and made anew, so that their offsets begin again.",
            "plumbline_recreated_topics_total",
            "PlumblineTopicRecreated",
        ),
        number(
            "Worst canary of the workers",
            "Greatest cosine distance of a canary to its stored vector, as the workers measure "
            "it. From 1e-4 on a warning; from 1e-3 on a worker refuses to write.",
            Query(ingest("max", "plumbline_canary_distance"), "{{index}}"),
            unit="sci",
            bounds=CANARY,
            alert="PlumblineCanaryMismatch",
        ),
    ]


def _batches() -> list[Panel]:
    def mean(metric: str) -> str:
        return " / ".join(rate(f"{metric}_{part}") for part in ("sum", "count"))

    return [
        graph(
            "Time of a batch, p95",
            "Encoding is the model's time, writing Qdrant's with the read-back of heads. The "
            "larger one bounds the throughput.",
            [
                Query(quantile(0.95, "plumbline_encode_seconds"), "encode"),
                Query(quantile(0.95, "plumbline_write_seconds"), "write"),
            ],
            unit="s",
        ),
        graph(
            "Share of the time",
            "Seconds in a second that all workers together encode and write. Encoding near the "
            "number of workers: the model is the limit.",
            [
                Query(rate("plumbline_encode_seconds_sum"), "encode"),
                Query(rate("plumbline_write_seconds_sum"), "write"),
            ],
            unit="percentunit",
        ),
        graph(
            "Size of a batch",
            "Mean of events and of tokens in a batch. Small batches waste the model; they are "
            "right where little comes in.",
            [
                Query(mean("plumbline_batch_events"), "events"),
                Query(mean("plumbline_batch_tokens"), "tokens"),
            ],
            unit="short",
        ),
    ]


def _services() -> list[Panel]:
    return [
        graph(
            "Tokens encoded",
            "Tokens a second: what the model costs, whatever the lengths of texts; and the "
            "documents that they were of, each time that one was encoded.",
            [
                Query(rate("plumbline_tokens_total"), "tokens"),
                Query(rate("plumbline_encoded_documents_total"), "documents"),
            ],
            unit="cps",
        ),
        graph(
            "Requests repeated, by service",
            "Requests a second that were sent again because a service did not answer. Bounded: "
            "after outage_timeout_seconds the job stops with nothing committed.",
            [Query(rate("plumbline_retries_total", "service"), "{{service}}")],
            unit="reqps",
        ),
        graph(
            "Texts cut off",
            "Texts a second that are longer than the model's max tokens: what is beyond has no "
            "vector. Set contract.chunk, which makes a new version.",
            [Query(rate("plumbline_truncated_texts_total"), "texts")],
            unit="cps",
        ),
    ]


def _waiting() -> list[Panel]:
    return [
        graph(
            "Longest wait, by partition",
            "How long the first record that is not committed has waited, in the ten partitions "
            "where it is longest, as the monitor reads it from Kafka. One partition alone: a "
            "poisoned or very large batch, or a worker that died.",
            [
                Query(
                    "topk(10, "
                    + newest("plumbline_freshness_partition_oldest_seconds", "topic", "partition")
                    + ")",
                    "{{topic}} {{partition}}",
                )
            ],
            unit="s",
            bounds=WAITING,
            alert="PlumblineIngestStalled",
        ),
        graph(
            "Records not committed, by partition",
            "In the ten partitions that lag most, by the monitor. Where the job has read further, "
            "the difference is not durable yet.",
            [
                Query(
                    "topk(10, "
                    + newest("plumbline_freshness_partition_lag_records", "topic", "partition")
                    + ")",
                    "{{topic}} {{partition}}",
                )
            ],
            unit="short",
        ),
        graph(
            "Stalled partitions and expired records",
            "Partitions whose offset stands still while events older than the objective wait, and "
            "records that the topic dropped before they were committed.",
            [
                Query(live("plumbline_freshness_stalled_partitions"), "stalled partitions"),
                Query(live("plumbline_freshness_expired_records"), "expired records"),
            ],
            unit="short",
            bounds=ZERO,
            alert="PlumblineDataLoss",
        ),
    ]


def _brokers() -> list[Panel]:
    return [
        graph(
            "Kafka does not answer",
            "Seconds for which a broker has not answered what the job asked; below 1 while all "
            "do. The job waits for kafka.outage_timeout_seconds, then stops with nothing "
            "committed.",
            [Query(ingest("max", "plumbline_kafka_silence_seconds"), "longest silence")],
            unit="s",
            alert="PlumblineBrokerSilent",
            width=12,
        ),
        graph(
            "Records read, by topic",
            "Records a second from each topic. One that stands still while others move: its "
            "producer has stopped, or its partitions stall.",
            [Query(rate("plumbline_consumed_events_total", "topic"), "{{topic}}")],
            unit="cps",
            stacked=True,
            width=12,
        ),
    ]


def _encoders() -> list[Panel]:
    return [
        table(
            "Encoders of the workers",
            "What each worker computes vectors with. One fingerprint a version; devices and dtypes "
            "may differ, as long as the canaries agree.",
            [
                Query(
                    ingest(
                        "max",
                        "plumbline_encoder_info",
                        *("instance", "version", "fingerprint", "model", "device", "dtype"),
                    )
                )
            ],
            columns={
                "instance": "Worker",
                "version": "Version",
                "fingerprint": "Fingerprint",
                "model": "Model",
                "device": "Device",
                "dtype": "Dtype",
            },
            width=16,
        ),
        graph(
            "Canaries by worker",
            "Greatest cosine distance of a canary to its stored vector. A worker that stands apart "
            "has another device, library or model file.",
            [
                Query(
                    ingest("max", "plumbline_canary_distance", "instance", "kind"),
                    "{{kind}} {{instance}}",
                )
            ],
            unit="sci",
            bounds=CANARY,
            alert="PlumblineCanaryMismatch",
        ),
    ]


def _processes() -> list[Panel]:
    return [
        graph(
            "Workers that answer",
            "Processes of the job that Prometheus reaches. Fewer than you started: see their logs.",
            [Query(ingest("sum", "up"), "workers")],
            unit="short",
            alert="PlumblineIngestDown",
        ),
        graph(
            "Memory of each worker",
            "Resident memory. Not there where many workers of a host share one endpoint.",
            [Query(ingest("max", "process_resident_memory_bytes", "instance"), "{{instance}}")],
            unit="bytes",
        ),
        graph(
            "Processors used by each worker",
            "Processors that are busy. At the number of runtime.threads the model is the limit.",
            [Query(rate("process_cpu_seconds_total", "instance"), "{{instance}}")],
            unit="short",
        ),
    ]
