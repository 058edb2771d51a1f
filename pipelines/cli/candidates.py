"""Contracts that are not built yet, as the command line names them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.core.settings import ContractSettings

__all__ = ["read_contract"]


def read_contract(path: Path) -> ContractSettings:
    """The contract of a file: the keys of `contract`, at the top or below that key.

    Keys that are left out have their defaults, not the values of `plumbline.yaml`: the file says
    by itself what the candidate is.

    Raises
    ------
    SettingsError
        The file cannot be read, a key is unknown, or a value is not valid.
    """
    import difflib

    from pydantic import ValidationError

    from pipelines.core.errors import SettingsError
    from pipelines.core.settings import ContractSettings
    from pipelines.core.yaml_text import YamlError, load_yaml

    try:
        values: Any = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"cannot read {path}: it is not UTF-8") from None
    except YamlError as error:
        line = f":{error.line}" if error.line is not None else ""
        raise SettingsError(f"{path}{line}: {error.problem}") from None
    if isinstance(values, dict) and "contract" in values:
        values = values["contract"]
    if not isinstance(values, dict):
        raise SettingsError(
            f"{path}: expected the settings of a contract, such as `model: …`, got "
            f"{'nothing' if values is None else type(values).__name__}"
        )
    try:
        return ContractSettings.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_context=False):
            key = ".".join(str(part) for part in problem["loc"]) or "contract"
            words = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "extra_forbidden":
                valid = list(ContractSettings.model_fields)
                near = difflib.get_close_matches(key, valid, n=1)
                hint = f"did you mean {near[0]}?" if near else f"valid are {', '.join(valid)}"
                words = f"unknown key; {hint}"
            lines.append(f"{key}: {words}")
        raise SettingsError(f"{path}: {'; '.join(lines)}") from None
