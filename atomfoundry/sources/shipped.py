"""Structures that ship with the package."""

from __future__ import annotations

from importlib.resources import as_file, files

from ase import Atoms

from atomfoundry.errors import StructureError
from atomfoundry.sources.cells import Cell
from atomfoundry.sources.files import fetch_structures

_PRESETS = {
    "silicon": "silicon.cif",
    "silicon_beta_tin": "silicon_beta_tin.cif",
    "silanes": "silanes.extxyz",
}


def preset_names() -> list[str]:
    """Return the names that ``load_preset`` takes."""
    return sorted(_PRESETS)


def load_preset(name: str, *, cell: Cell = "as_given") -> list[Atoms]:
    """Return shipped structures.

    Parameters
    ----------
    name
        ``"silicon"`` (diamond, 8 atoms, or 2 with ``cell="primitive"``), ``"silicon_beta_tin"`` (4 or 2
        atoms) or ``"silanes"`` (SiH4, Si2H6 and H2, MP2 geometries of the G2 set).
    cell
        As in ``fetch_structures``.

    Raises
    ------
    StructureError
        If there is no such preset.
    """
    if name not in _PRESETS:
        raise StructureError(
            f"There is no preset '{name}'.", remedy=f"Presets: {', '.join(preset_names())}; or name a file."
        )
    with as_file(files("atomfoundry.sources") / "presets" / _PRESETS[name]) as path:
        return fetch_structures(path, cell=cell)
