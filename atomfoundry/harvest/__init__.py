"""Finished calculations become labelled frames, or a reason why not. Names load when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.harvest.collect import HarvestReport, harvest, harvest_dataset

_HOMES = {
    "HarvestReport": "collect",
    "harvest": "collect",
    "harvest_dataset": "collect",
}

__all__ = [
    "HarvestReport",
    "harvest",
    "harvest_dataset",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
