"""Put frames together from arrays, many times faster than through ASE's constructors."""

from __future__ import annotations

from functools import cache
from types import MethodType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cell import Cell
from numpy.typing import NDArray


@cache
def _templates() -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return the attributes ASE gives an Atoms and a calculator, so that ours have them whatever the ASE version.

    The third dictionary names the attributes that are methods bound to the calculator itself.
    """
    atoms = Atoms()
    calculator = SinglePointCalculator(atoms)
    bound = {
        name: value.__func__.__name__
        for name, value in calculator.__dict__.items()
        if isinstance(value, MethodType) and value.__self__ is calculator
    }
    return dict(atoms.__dict__), dict(calculator.__dict__), bound


def _bare(
    numbers: NDArray[np.int64], positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> Atoms:
    cellobj = Cell.__new__(Cell)
    cellobj.array = cell
    atoms = Atoms.__new__(Atoms)
    atoms.__dict__ = {
        **_templates()[0],
        "_cellobj": cellobj,
        "_pbc": pbc,
        "arrays": {"numbers": numbers, "positions": positions},
        "_celldisp": np.zeros((3, 1)),
        "_constraints": [],
        "info": {},
        "_calc": None,
    }
    return atoms


def assemble(
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    *,
    info: dict[str, Any],
    energy: float | None = None,
    forces: NDArray[np.float64] | None = None,
    stress: NDArray[np.float64] | None = None,
) -> Atoms:
    """Return a frame that owns the arrays it is given; nothing is copied for it, nothing is checked.

    Parameters
    ----------
    numbers, positions, cell, pbc
        ``[N]`` int64, ``[N, 3]``, ``[3, 3]``, ``[3]`` bool.
    info
        Metadata.
    energy, forces, stress
        Labels, eV, ``[N, 3]`` eV/A, ``[6]`` eV/A^3; None: absent.
    """
    atoms = _bare(numbers, positions, cell, pbc)
    if not (energy is None and forces is None and stress is None):
        _, template, bound = _templates()
        calculator = SinglePointCalculator.__new__(SinglePointCalculator)
        results: dict[str, Any] = {}
        if energy is not None:
            results["energy"] = energy
        if forces is not None:
            results["forces"] = forces
        if stress is not None:
            results["stress"] = stress
        attributes = {
            **template,
            # The calculator remembers the geometry it belongs to, which must survive changes of the frame.
            "atoms": _bare(numbers.copy(), positions.copy(), cell.copy(), pbc.copy()),
            "results": results,
            "parameters": {},
        }
        for name, method in bound.items():
            attributes[name] = getattr(calculator, method)
        calculator.__dict__ = attributes
        atoms._calc = calculator
    atoms.info = info
    return atoms
