"""Put a model of the hub into the image, and prove that Plumbline can encode with it.

    python bake.py MODEL [REVISION]

It goes to the cache that HF_HOME names. The revision becomes what is found without one, so that
settings that name none find the baked state offline.
"""

from __future__ import annotations

import sys
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE

from pipelines.core.encoder import load_encoder
from pipelines.core.settings import ContractSettings, RuntimeSettings


def main() -> int:
    """Load the model once, as a job does."""
    if not 2 <= len(sys.argv) <= 3:
        print(__doc__, file=sys.stderr)
        return 2
    model, revision = sys.argv[1], (sys.argv[2:] or [""])[0] or None
    encoder = load_encoder(
        ContractSettings(model=model, revision=revision), RuntimeSettings(device="cpu")
    )
    commit = encoder.contract.model_revision
    if commit is None:
        print(f"{model} is no model of the hub: mount a folder instead", file=sys.stderr)
        return 2
    main_ref = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}" / "refs" / "main"
    main_ref.parent.mkdir(parents=True, exist_ok=True)
    main_ref.write_text(commit, encoding="ascii")
    print(f"{model} at {commit}: {encoder.contract.dimension} dimensions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
