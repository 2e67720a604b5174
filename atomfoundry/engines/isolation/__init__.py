"""Engines in a process of their own: a crash, a hang or an exhausted memory costs one label."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.engines.isolation.current import stop_process
    from atomfoundry.engines.isolation.engine import IsolatedEngine, isolated

_HOMES = {"IsolatedEngine": "engine", "isolated": "engine", "stop_process": "current"}

__all__ = ["IsolatedEngine", "isolated", "stop_process"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
