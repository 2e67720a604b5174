"""Flows made of Makers, and their presets."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.workflows.flow_file import list_presets, load_flow_file, load_preset
    from atomfoundry.workflows.foundation import FoundationFlowMaker

_HOMES = {
    "FoundationFlowMaker": "foundation",
    "list_presets": "flow_file",
    "load_flow_file": "flow_file",
    "load_preset": "flow_file",
}

__all__ = ["FoundationFlowMaker", "list_presets", "load_flow_file", "load_preset"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
