"""Exceptions from the audit: each names what it excuses, why, and until when."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

__all__ = ["AuditError", "Exceptions", "Excuse", "load_exceptions"]

LONGEST = timedelta(days=366)
"""An excuse is looked at once a year, at least."""


class AuditError(Exception):
    """The audit cannot be carried out. Operator action: the message names what to mend."""


class Excuse(BaseModel):
    """One exception.

    Parameters
    ----------
    check
        Whose finding it excuses.
    what
        Id of a vulnerability, or a package's name; `*` stands for any letters.
    reason
        Why it does no harm here, in a sentence.
    expires
        Last day on which it holds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: Literal["licences", "vulnerabilities", "yanked"]
    what: Annotated[str, Field(min_length=2)]
    reason: Annotated[str, Field(min_length=20)]
    expires: date

    @field_validator("what", "reason")
    @classmethod
    def _words(cls, value: str) -> str:
        if not value.strip(" .*"):
            raise ValueError("says nothing")
        return value.strip()


class Exceptions:
    """The file's exceptions, which note what they have excused.

    Parameters
    ----------
    excuses
        In the order of the file.
    """

    def __init__(self, excuses: Iterable[Excuse]) -> None:
        self._excuses = tuple(excuses)
        self._used: set[Excuse] = set()

    def __len__(self) -> int:
        return len(self._excuses)

    def excuse(self, check: str, *names: str) -> Excuse | None:
        """The exception for a finding known by any of these names; `None` without one."""
        for excuse in self._excuses:
            if excuse.check == check and any(
                fnmatchcase(name.lower(), excuse.what.lower()) for name in names
            ):
                self._used.add(excuse)
                return excuse
        return None

    def unused(self, checks: Iterable[str]) -> list[Excuse]:
        """Exceptions that excused nothing, of the checks that were carried out."""
        done = set(checks)
        return [one for one in self._excuses if one.check in done and one not in self._used]


def load_exceptions(path: Path, today: date) -> Exceptions:
    """The exceptions of a file.

    Parameters
    ----------
    path
        YAML: a list under `exceptions`.
    today
        Against which `expires` counts.

    Raises
    ------
    AuditError
        An exception lacks its reason or its date, is past its date, or is to hold for more than
        a year.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AuditError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict) or set(values) != {"exceptions"}:
        raise AuditError(f"{path}: expected one key, `exceptions`, with a list")
    excuses = []
    for number, value in enumerate(values["exceptions"] or [], 1):
        named = value.get("what", "without `what`") if isinstance(value, dict) else value
        where = f"{path}, exception {number} ({named})"
        try:
            excuse = Excuse.model_validate(value)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in one['loc']) or 'it'}: {one['msg']}"
                for one in error.errors(include_url=False)
            )
            raise AuditError(
                f"{where}: {problems}. Needed are check, what, a reason of a sentence, and the "
                "date on which it expires."
            ) from None
        if excuse.expires < today:
            raise AuditError(
                f"{where} expired on {excuse.expires}: mend what it excuses, or decide again and "
                "write a new date and reason"
            )
        if excuse.expires - today > LONGEST:
            raise AuditError(
                f"{where} is to hold until {excuse.expires}: a year is the most, so that somebody "
                "looks again"
            )
        excuses.append(excuse)
    return Exceptions(excuses)
