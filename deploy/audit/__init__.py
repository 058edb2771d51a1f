"""The audit of what Plumbline is built from: pins, yanked releases, licences, vulnerabilities.

`make audit` runs all of it. What needs the network says so when it could not be done: an audit that
did not happen must not look like one that found nothing.
"""

from __future__ import annotations

from deploy.audit.exceptions import AuditError, Exceptions, load_exceptions
from deploy.audit.findings import Finding, Verdict

__all__ = ["AuditError", "Exceptions", "Finding", "Verdict", "load_exceptions"]
