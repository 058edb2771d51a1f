"""The transformer itself on OpenVINO; pooling and what follows stay with torch."""

from __future__ import annotations

from typing import Any

from pipelines.core.errors import SettingsError

__all__ = ["OpenVinoTransformer"]


class OpenVinoTransformer:
    """Stands in for the model's Transformer module. Converts it from memory, writes no file.

    Parameters
    ----------
    transformer
        The library's Transformer module, on the CPU, in float32.
    threads
        Threads to compute with; `None`: OpenVINO's own choice.

    Raises
    ------
    SettingsError
        The `openvino` extra is not installed.
    """

    def __init__(self, transformer: Any, threads: int | None) -> None:
        import torch

        try:
            import openvino
        except ImportError:
            raise SettingsError(
                "runtime.backend is openvino, which is not installed: pip install "
                "'plumbline[openvino]', or use the torch backend"
            ) from None

        ones = torch.ones((2, 8), dtype=torch.int64)
        names = ("input_ids", "attention_mask", "token_type_ids")
        known = set(transformer.tokenizer.model_input_names)
        self._names = [name for name in names if name in known]
        self._output = transformer.module_output_name
        converted = openvino.convert_model(
            transformer.model,
            example_input={name: ones * (name != "token_type_ids") for name in self._names},
        )
        # Without the hint, processors that can would compute in bfloat16, which moves vectors
        # beyond what the canaries allow.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._compiled = openvino.compile_model(converted, "CPU", options)

    def __call__(self, features: dict[str, Any]) -> dict[str, Any]:
        """Puts the token embeddings into the features, as the module it stands in for does."""
        import torch

        found = self._compiled({name: features[name].numpy() for name in self._names})
        return {**features, self._output: torch.from_numpy(found[0].copy())}
