"""A hash of what a model computes, the same however the model was named or saved."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

__all__ = ["canonical_tokenizer", "is_normalize", "model_hash"]

_VOLATILE = frozenset(
    {
        # Where the model came from, which library wrote it, how it is run.
        *("_name_or_path", "name_or_path", "transformers_version", "architectures", "auto_map"),
        *("dtype", "torch_dtype", "tokenizer_class", "_commit_hash", "is_local"),
        *("_attn_implementation", "_attn_implementation_autoset", "attn_implementation"),
        *("_experts_implementation", "experts_implementation", "use_cache", "return_dict"),
        *("output_attentions", "output_hidden_states", "gradient_checkpointing"),
        # Only training looks at these.
        *("attention_probs_dropout_prob", "hidden_dropout_prob", "classifier_dropout"),
        *("attention_dropout", "hidden_dropout", "dropout", "embd_pdrop", "attn_pdrop"),
        *("resid_pdrop", "embedding_dropout", "mlp_dropout", "classifier_dropout_prob"),
        *("initializer_range", "initializer_factor", "router_jitter_noise"),
        *("problem_type", "finetuning_task", "task_specific_params"),
        # Heads that an encoder does not have.
        *("id2label", "label2id", "num_labels", "bos_token_id", "eos_token_id", "sep_token_id"),
        *("decoder_start_token_id", "tie_word_embeddings"),
    }
)
"""Keys of a transformer's configuration that do not decide its vectors."""

_TRANSFORMER_KEYS = ("transformer_task", "module_output_name", "processing_kwargs")
"""Keys of the Transformer module that decide its vectors. Its sequence length and the model's
prompts are fields of the contract."""


def model_hash(model: SentenceTransformer) -> str:
    """SHA-256 of a loaded sentence-transformers model, 64 hex digits.

    It covers every tensor by name, dtype, shape and bytes, the tokenizer, and each module's kind
    and configuration. Hash the model before it is cast to the dtype it will run in. A Normalize
    module at the end is left out: `EmbeddingContract.normalize` says whether vectors have unit
    length. So are values that equal the library's defaults, so that a release which adds a
    setting changes no hash.

    Parameters
    ----------
    model
        Loaded with `dtype="auto"`, that is with the tensors of the checkpoint.
    """
    modules = list(model.children())
    if modules and is_normalize(modules[-1]):
        modules.pop()
    described = [_describe(module) for module in modules]
    tensors: dict[str, list[object]] = {}
    for number, module in enumerate(modules):
        for name, tensor in _tensors(module):
            tensors[f"{number}.{name}"] = _tensor(tensor)
    return _sha256({"modules": described, "tensors": tensors})


def is_normalize(module: nn.Module) -> bool:
    """Whether this is the library's Normalize module."""
    return type(module).__name__ == "Normalize" and _is_library(module)


def canonical_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """The tokenizer as JSON without the state that a call leaves behind (truncation, padding).

    Parameters
    ----------
    tokenizer
        `tokenizers.Tokenizer`, a fast or a slow tokenizer of transformers.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        described: dict[str, Any] = json.loads(backend.to_str())
        described.pop("truncation", None)
        described.pop("padding", None)
    else:
        described = {
            "class": type(tokenizer).__name__,
            "vocabulary": tokenizer.get_vocab(),
            "lower_case": bool(getattr(tokenizer, "do_lower_case", False)),
            "special_tokens": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        }
    side = getattr(tokenizer, "truncation_side", "right")
    if side != "right":
        described["truncation_side"] = side
    return described


def _describe(module: nn.Module) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": _kind(module)}
    if _is_transformer(module):
        config = module.get_config_dict()  # type: ignore[operator]
        values = {key: config[key] for key in _TRANSFORMER_KEYS if config.get(key)}
        text = (config.get("modality_config") or {}).get("text")
        described["config"] = {**values, "text": text}
        described["transformer"] = _transformer_config(module.model.config)  # type: ignore[union-attr]
        described["model"] = type(module.model).__name__
    elif hasattr(module, "get_config_dict"):
        described["config"] = _without_defaults(module, module.get_config_dict())  # type: ignore[operator]
    tokenizer = getattr(module, "tokenizer", None)
    if tokenizer is not None:
        described["tokenizer"] = _sha256(canonical_tokenizer(tokenizer))
        template = getattr(tokenizer, "chat_template", None)
        if template and "message" in (getattr(module, "modality_config", None) or {}):
            described["chat_template"] = template
    return described


def _kind(module: nn.Module) -> str:
    """Name of the class; the library moves its classes between its own folders."""
    kind = type(module)
    return kind.__name__ if _is_library(module) else f"{kind.__module__}.{kind.__name__}"


def _is_library(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] == "sentence_transformers"


def _is_transformer(module: nn.Module) -> bool:
    return _is_library(module) and type(module).__name__ == "Transformer"


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # The inner model's own names: the attribute that holds it was renamed between releases.
    inner = module.model if _is_transformer(module) else module
    state = inner.state_dict()  # type: ignore[union-attr]
    for name in sorted(state):
        yield name, state[name]


def _tensor(tensor: Tensor) -> list[object]:
    import torch

    data: Any = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    return [
        str(tensor.dtype).removeprefix("torch."),
        list(tensor.shape),
        hashlib.sha256(data).hexdigest(),
    ]


def _transformer_config(config: Any) -> dict[str, Any]:
    try:
        defaults = type(config)().to_dict()
    except Exception:  # noqa: BLE001 - some classes of models cannot be made without arguments
        defaults = {}
    described = _deciding(config.to_dict(), defaults)
    return {**described, "model_type": config.model_type}


def _deciding(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that decide vectors and differ from the default, in nested configurations too."""
    return {
        key: _deciding(value, defaults.get(key) or {}) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _VOLATILE and (key not in defaults or defaults[key] != value)
    }


def _without_defaults(module: nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(type(module).__init__).parameters
    return {
        key: value
        for key, value in config.items()
        if key not in parameters or parameters[key].default != value
    }


def _sha256(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
