"""Loads a model once per process, and checks that it can do what the contract asks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import structlog

from pipelines.core.contract import ChunkContract, EmbeddingContract
from pipelines.core.encoder.base import Encoder
from pipelines.core.encoder.sentence_transformer import (
    LoadedModel,
    SentenceTransformerEncoder,
    is_plain,
)
from pipelines.core.encoder.source import ModelSource, find_model
from pipelines.core.errors import ModelError, SettingsError
from pipelines.core.model_hash import is_normalize, model_hash
from pipelines.core.settings import ContractSettings, RuntimeSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["load_encoder", "release_encoder"]

_log = structlog.get_logger()

_TOKENS_PER_BATCH_CPU = 1_024
"""Measured with all-MiniLM-L6-v2 on 2 cores: 1,024 to 2,048 is fastest for long texts, 16,384
takes 1.4 to 2 times as long: the activations leave the cores' caches. On one thread of a busy
machine, short texts in batches of 256 took 12 % less processor time with 1,024 than with 2,048."""

_TOKENS_PER_BATCH_GPU = 65_536
"""Measured with all-MiniLM-L6-v2 on an H200, texts of 256 tokens: 4,096, 16,384, 65,536 and 262,144
gave 2,926, 4,032, 4,339 and 4,067 documents/s in float32, 2,284, 4,923, 8,368 and 8,798 in
bfloat16."""

_LARGEST_LIMIT = 1_000_000
"""Tokenizers that know no limit say so with a number like 10**30."""

_KEPT = 3
"""Encoders kept although nobody uses them now: a command or a test that asks again gets the same.
Those in use are shared however many they are."""

_Key = tuple[ContractSettings, RuntimeSettings]

_lock = threading.Lock()
_loading = threading.Lock()
"""Held while a model is read, one at a time: reading seeds the process's random numbers. Nobody
who asks for an encoder that is there waits for it."""
_models: WeakValueDictionary[tuple[object, ...], LoadedModel] = WeakValueDictionary()
_encoders: WeakValueDictionary[_Key, Encoder] = WeakValueDictionary()
_recent: OrderedDict[_Key, Encoder] = OrderedDict()


def load_encoder(contract: ContractSettings, runtime: RuntimeSettings) -> Encoder:
    """The encoder for these settings: one per process, shared by its threads.

    Encoders that differ in their contract but not in their model share the model. What nobody
    uses any longer is freed, but for the last few.

    Raises
    ------
    ModelError
        The model cannot be found or loaded, or cannot do what the contract asks.
    SettingsError
        The device or the backend is not there.
    """
    key = (contract, runtime)
    found = _known(key)
    if found is not None:
        return found
    with _loading:
        found = _known(key)  # whoever loaded before may have loaded this one
        if found is not None:
            return found
        loaded = _load(contract, runtime)
        made = _contract(contract, loaded)
        encoder: Encoder = SentenceTransformerEncoder(
            loaded, made, _tokens_per_batch(runtime, loaded.device)
        )
        with _lock:
            _encoders[key] = encoder
            _keep(key, encoder)
        _log.info(
            "encoder_loaded",
            model=made.model_name,
            revision=made.model_revision,
            model_hash=made.model_hash[:12],
            fingerprint=made.fingerprint,
            dimension=made.dimension,
            max_tokens=made.max_tokens,
            device=loaded.device,
            dtype=runtime.dtype,
            backend=runtime.backend,
        )
        return encoder


def release_encoder(encoder: Encoder) -> None:
    """Says that this caller will not ask for the encoder again: it is freed with its last user."""
    with _lock:
        for key in [key for key, kept in _recent.items() if kept is encoder]:
            del _recent[key]


def _known(key: _Key) -> Encoder | None:
    with _lock:
        found = _encoders.get(key)
        if found is not None:
            _keep(key, found)
        return found


def _keep(key: _Key, encoder: Encoder) -> None:
    _recent[key] = encoder
    _recent.move_to_end(key)
    while len(_recent) > _KEPT:
        _recent.popitem(last=False)


def _tokens_per_batch(runtime: RuntimeSettings, device: str) -> int:
    given: int | None = runtime.tokens_per_batch
    if given is not None:
        return given
    return _TOKENS_PER_BATCH_CPU if device == "cpu" else _TOKENS_PER_BATCH_GPU


def _load(contract: ContractSettings, runtime: RuntimeSettings) -> LoadedModel:
    device = _device(runtime.device)
    place = (contract.model, contract.revision, contract.trust_remote_code)
    key = (*place, device, runtime.backend, runtime.dtype, runtime.threads)
    found = _models.get(key)
    if found is None:
        found = _models[key] = _load_model(contract, runtime, device)
    return found


def _device(wanted: str) -> str:
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise SettingsError(
            f"runtime.device is {wanted!r}: valid are auto, cpu, cuda, cuda:<number>, mps"
        ) from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise SettingsError(
            f"runtime.device is {wanted!r}, and torch sees no such device here; `auto` takes the "
            "best there is"
        )
    return wanted


def _load_model(contract: ContractSettings, runtime: RuntimeSettings, device: str) -> LoadedModel:
    import torch

    if runtime.backend == "openvino" and (device != "cpu" or runtime.dtype != "float32"):
        raise SettingsError(
            "runtime.backend openvino runs on the CPU in float32: set runtime.device to cpu and "
            "runtime.dtype to float32"
        )
    source = find_model(contract.model, contract.revision)
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    model = _read(source, trust_remote_code=contract.trust_remote_code == contract.model)
    digest = model_hash(model)
    names = list(model._modules)
    normalizes = is_normalize(model[-1])
    if normalizes:
        del model._modules[names[-1]]
    dimension = model.get_embedding_dimension()
    if dimension is None:
        raise ModelError(f"the model {contract.model} does not say how long its vectors are")
    model = model.to(device=device, dtype=getattr(torch, runtime.dtype)).eval()
    modules: Sequence[Callable[[dict[str, Any]], dict[str, Any]]] = list(model.children())
    if runtime.backend == "openvino":
        from pipelines.core.encoder.openvino import OpenVinoTransformer

        if not is_plain(model):
            raise ModelError(f"runtime.backend openvino cannot run {contract.model}; use torch")
        modules = [OpenVinoTransformer(model[0], runtime.threads), *modules[1:]]
    return LoadedModel(
        model=model,
        modules=modules,
        model_hash=digest,
        dimension=int(dimension),
        normalizes=normalizes,
        device=device,
        revision=source.revision,
    )


def _read(source: ModelSource, *, trust_remote_code: bool) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer

    try:
        # A checkpoint may lack a tensor that decides nothing (a pooler); it is then drawn at
        # random. Seeded, so that the hash is the same in every process.
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: SentenceTransformer = SentenceTransformer(
                source.place,
                revision=source.revision,
                device="cpu",
                trust_remote_code=trust_remote_code,
                local_files_only=source.local,
                model_kwargs={"dtype": "auto"},
            )
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"the model {source.place} brings code of its own. Read it, then set "
                "contract.trust_remote_code to the model's name to let it run"
            ) from error
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"cannot load the model from {source.place}: {type(error).__name__}: {lines[0]}"
        ) from error
    tokenizer: Any = getattr(model, "tokenizer", None)
    if not hasattr(getattr(tokenizer, "backend_tokenizer", tokenizer), "encode_batch_fast"):
        raise ModelError(f"the model {source.place} has no fast text tokenizer (tokenizer.json)")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar for reading tensors: it would tear the job's log."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _contract(settings: ContractSettings, loaded: LoadedModel) -> EmbeddingContract:
    dimension = loaded.dimension
    if settings.truncate_dim is not None:
        if settings.truncate_dim > dimension:
            raise ModelError(
                f"contract.truncate_dim is {settings.truncate_dim}, and the model's vectors have "
                f"{dimension} components"
            )
        dimension = settings.truncate_dim
    prompts: dict[str, str] = loaded.model.prompts or {}
    for kind, ours in (("document", settings.document_prompt), ("query", settings.query_prompt)):
        theirs = prompts.get(kind) or ""
        if theirs and theirs != ours:
            _log.warning("prompt_differs_from_model", kind=kind, settings=ours, model=theirs)
    if loaded.normalizes and not settings.normalize:
        _log.warning("model_normalizes", model=settings.model)
    chunk = settings.chunk
    return EmbeddingContract(
        model_hash=loaded.model_hash,
        dimension=dimension,
        max_tokens=_max_tokens(settings, loaded),
        distance=settings.distance,
        normalize=settings.normalize or loaded.normalizes,
        document_prompt=settings.document_prompt,
        query_prompt=settings.query_prompt,
        template=settings.template,
        # All components kept is no truncation.
        truncate_dim=None if dimension == loaded.dimension else dimension,
        chunk=None if chunk is None else ChunkContract(chunk.size, chunk.overlap, chunk.format),
        model_name=settings.model,
        model_revision=loaded.revision,
    )


def _max_tokens(settings: ContractSettings, loaded: LoadedModel) -> int:
    limit = _positions(loaded.model)
    stated: int | None = loaded.model.max_seq_length
    if stated is None or stated > _LARGEST_LIMIT:
        stated = limit
    wanted = settings.max_tokens
    if wanted is None:
        if stated is None:
            raise ModelError(f"the model {settings.model} states no limit: set contract.max_tokens")
        return int(stated if limit is None else min(stated, limit))
    if limit is not None and wanted > limit:
        raise ModelError(
            f"contract.max_tokens is {wanted}, and the model has positions for {limit} tokens"
        )
    return wanted


def _positions(model: SentenceTransformer) -> int | None:
    """Tokens the model has positions for; `None` where it does not say."""
    import torch

    first: Any = model[0]
    config = getattr(getattr(first, "model", None), "config", None)
    if config is None:
        return None
    text: Any = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(text, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    for module in first.model.modules():
        table = getattr(module, "position_embeddings", None)
        padding = getattr(module, "padding_idx", None)
        # RoBERTa and its kin count positions from behind the padding's.
        if isinstance(table, torch.nn.Embedding) and isinstance(padding, int):
            return limit - padding - 1
    return limit
