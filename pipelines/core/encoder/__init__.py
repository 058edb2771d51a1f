"""Encoders make vectors under a contract.

`load_encoder` gives the process's own for the settings; `Encoder` is what every one offers, and
`Encoded` what it returns. Nothing heavy is imported before a model is loaded.
"""

from pipelines.core.encoder.base import Encoded, Encoder
from pipelines.core.encoder.load import load_encoder
from pipelines.core.encoder.source import PACKAGED_MODEL

__all__ = ["PACKAGED_MODEL", "Encoded", "Encoder", "load_encoder"]
