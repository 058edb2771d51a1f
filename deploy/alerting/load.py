"""Objectives from a file, with errors that say what came and what is valid."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from deploy.alerting.objectives import SEVERITIES, Objectives
from pipelines.core.errors import SettingsError

__all__ = ["load_objectives"]


def load_objectives(path: Path | None = None) -> Objectives:
    """The defaults, with what a YAML file says in their place.

    Raises
    ------
    SettingsError
        The file cannot be read, a key is unknown, or a value is not valid. The message names what
        came and what is valid.
    """
    if path is None:
        return Objectives()
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingsError(f"cannot read {path}: {problem}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return Objectives()
    if not isinstance(values, dict):
        raise SettingsError(
            f"{path}: expected a mapping such as `alerts: …`, got {type(values).__name__}"
        )
    try:
        return Objectives.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_describe(error)}") from None


def _describe(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        location = tuple(part for part in problem["loc"] if part != "[key]")
        key = ".".join(map(str, location))
        given = problem.get("input")
        if problem["type"] == "extra_forbidden":
            valid = _keys_at(location[:-1])
            lines.append(f"unknown key {key}{_nearest(str(location[-1]), valid)}")
        elif problem["type"] == "literal_error":
            valid = list(SEVERITIES)
            lines.append(f"{key}: {given!r} is no severity; valid are {', '.join(valid)}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            quoted = problem["type"] == "value_error" or isinstance(given, dict | list)
            shown = "" if quoted else f" (got {given!r})"
            lines.append(f"{key or 'objectives'}: {message}{shown}")
    return "; ".join(lines)


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    """Names of the keys of a section."""
    model: Any = Objectives
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model is not None else None
        model = None if field is None else _model_in(field.annotation)
    if model is None:
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _nearest(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; valid are {', '.join(valid)}" if valid else ""
