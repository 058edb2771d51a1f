"""Kubernetes: kustomize's base, components and overlays; the Prometheus Operator's rules generated.

`python -m deploy.kubernetes` writes what is generated.
"""

from __future__ import annotations

from deploy.kubernetes.generate import GENERATED, generated

__all__ = ["GENERATED", "generated"]
