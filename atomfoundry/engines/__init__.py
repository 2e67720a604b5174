"""Engines: what computes labels, each with its level of theory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.engines.base import Engine, SinglePoint
    from atomfoundry.engines.espresso.install import install_espresso
    from atomfoundry.engines.gpaw.install import install_gpaw
    from atomfoundry.engines.inputs import structure_of, write_campaign
    from atomfoundry.engines.registry import get_engine, list_engines

_HOMES = {
    "Engine": "atomfoundry.engines.base",
    "SinglePoint": "atomfoundry.engines.base",
    "get_engine": "atomfoundry.engines.registry",
    "install_espresso": "atomfoundry.engines.espresso.install",
    "install_gpaw": "atomfoundry.engines.gpaw.install",
    "list_engines": "atomfoundry.engines.registry",
    "structure_of": "atomfoundry.engines.inputs",
    "write_campaign": "atomfoundry.engines.inputs",
}

__all__ = [
    "Engine",
    "SinglePoint",
    "get_engine",
    "install_espresso",
    "install_gpaw",
    "list_engines",
    "structure_of",
    "write_campaign",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
