"""pymatgen's ``Vasprun`` with plain arrays for ionic steps: its structures take most of the time of a long run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray
from pymatgen.io.vasp import Vasprun


@dataclass(frozen=True)
class Geometry:
    """A structure: atomic numbers, cartesian positions (A) and cell vectors (A)."""

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]


class FrameVasprun(Vasprun):  # type: ignore[misc]
    """A ``vasprun.xml`` whose structures are ``Geometry``."""

    def _parse_structure(self, elem: Any) -> Geometry:
        """Read a ``<structure>``; pymatgen calls this for each."""
        numbers = _numbers(tuple(self.atomic_symbols))
        cell = _rows(elem.find("crystal").find("varray"))
        fractional = _rows(elem.find("varray"))
        if cell.shape != (3, 3) or fractional.shape != (len(numbers), 3):
            raise ValueError(f"{len(numbers)} atoms, positions {fractional.shape}, cell {cell.shape}")
        return Geometry(numbers, fractional @ cell, cell)

    def _parse_ionic_step(self, elem: Any) -> dict[str, Any]:
        """Read what a frame needs of a ``<calculation>``; pymatgen calls this for each."""
        energy, structure = elem.find("energy"), elem.find("structure")
        step: dict[str, Any] = {} if energy is None else _energies(energy)
        electronic = [cycle.find("energy") for cycle in elem.iterfind("scstep")]
        step["electronic_steps"] = [_energies(energies) for energies in electronic if energies is not None]
        step["structure"] = None if structure is None else self._parse_structure(structure)
        for table in elem.iterfind("varray"):
            if table.get("name") in ("forces", "stress"):
                step[table.get("name")] = _rows(table)
        elem.clear()
        return step


@lru_cache(maxsize=16)
def _numbers(symbols: tuple[str, ...]) -> NDArray[np.int64]:
    return np.array([atomic_numbers[symbol] for symbol in symbols])


def _energies(elem: Any) -> dict[str, float]:
    return {item.attrib["name"]: np.nan if "*" in item.text else float(item.text) for item in elem.iterfind("i")}


def _rows(elem: Any) -> NDArray[np.float64]:
    """Return the rows of numbers of an element; stars (an overflow) are NaN, as pymatgen has it."""
    rows = [row.text.split() for row in elem]
    try:
        return np.array([[float(word) for word in row] for row in rows])
    except ValueError:
        return np.array([[np.nan if "*" in word else float(word) for word in row] for row in rows])
