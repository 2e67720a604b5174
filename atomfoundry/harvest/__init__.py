"""Finished calculations become labelled frames, or a reason why not. Names load when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.harvest.collect import HarvestReport, harvest, harvest_dataset
    from atomfoundry.harvest.convergence import (
        convergence_table,
        molecular_dynamics,
        resubmission_list,
        write_resubmission_list,
    )
    from atomfoundry.harvest.exports import write_atompronet_npz, write_atompronet_xyz
    from atomfoundry.harvest.plots import convergence_page, write_convergence_page
    from atomfoundry.harvest.store import harvest_store, harvest_store_dataset

_HOMES = {
    "HarvestReport": "collect",
    "convergence_page": "plots",
    "convergence_table": "convergence",
    "harvest": "collect",
    "harvest_dataset": "collect",
    "harvest_store": "store",
    "harvest_store_dataset": "store",
    "molecular_dynamics": "convergence",
    "resubmission_list": "convergence",
    "write_atompronet_npz": "exports",
    "write_atompronet_xyz": "exports",
    "write_convergence_page": "plots",
    "write_resubmission_list": "convergence",
}

__all__ = [
    "HarvestReport",
    "convergence_page",
    "convergence_table",
    "harvest",
    "harvest_dataset",
    "harvest_store",
    "harvest_store_dataset",
    "molecular_dynamics",
    "resubmission_list",
    "write_atompronet_npz",
    "write_atompronet_xyz",
    "write_convergence_page",
    "write_resubmission_list",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
