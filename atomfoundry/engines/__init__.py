"""Engines: what computes labels, each with its level of theory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.engines.base import Engine, SinglePoint
    from atomfoundry.engines.espresso.install import install_espresso
    from atomfoundry.engines.foreign import calculator_of, calculator_spec, engine_settings, read_calculator_spec
    from atomfoundry.engines.gpaw.install import install_gpaw
    from atomfoundry.engines.inputs import structure_of, write_campaign
    from atomfoundry.engines.registry import get_engine, list_engines

_HOMES = {
    "Engine": "atomfoundry.engines.base",
    "SinglePoint": "atomfoundry.engines.base",
    "calculator_of": "atomfoundry.engines.foreign",
    "calculator_spec": "atomfoundry.engines.foreign",
    "engine_settings": "atomfoundry.engines.foreign",
    "get_engine": "atomfoundry.engines.registry",
    "install_espresso": "atomfoundry.engines.espresso.install",
    "install_gpaw": "atomfoundry.engines.gpaw.install",
    "list_engines": "atomfoundry.engines.registry",
    "read_calculator_spec": "atomfoundry.engines.foreign",
    "structure_of": "atomfoundry.engines.inputs",
    "write_campaign": "atomfoundry.engines.inputs",
}

__all__ = [
    "Engine",
    "SinglePoint",
    "calculator_of",
    "calculator_spec",
    "engine_settings",
    "get_engine",
    "install_espresso",
    "install_gpaw",
    "list_engines",
    "read_calculator_spec",
    "structure_of",
    "write_campaign",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
