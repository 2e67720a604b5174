"""What VASP computed: one ``vasprun.xml``, read lean.

atomate2's own job ends with a ``TaskDoc``. A label needs the free energy, forces and stress of one step, and the free
energy is not among the fields of a TaskDoc's output (``energy`` there is the one for sigma -> 0). A TaskDoc also reads
the OUTCAR, densities of states and bands, and a table there that pymatgen cannot read would lose a good label. So the
Maker's input set and ``run_vasp`` are atomate2's, and the result is read here.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomfoundry.engines.base import SinglePoint
from atomfoundry.engines.vasp.inputs import VaspStructure
from atomfoundry.errors import LabelError
from atomfoundry.units import KBAR

if TYPE_CHECKING:
    from ase import Atoms

_SAME_PLACE = 1e-4
"""A; vasprun.xml has eight digits of a fractional coordinate."""


def read_label(path: Path, atoms: Atoms, prepared: VaspStructure) -> SinglePoint:
    """Read the label of a structure.

    Parameters
    ----------
    path
        ``vasprun.xml`` or ``vasprun.xml.gz``.
    atoms
        The frame.
    prepared
        The same structure as VASP was given it.

    Returns
    -------
    SinglePoint
        Free energy (of an isolated atom: without the entropy of its smeared shell), forces in the frame's order,
        stress where all three directions are periodic.

    Raises
    ------
    LabelError
        ``"unconverged"``, ``"no_forces"``, ``"crashed"`` for a file that is broken or of another structure.
    """
    from pymatgen.io.vasp import Vasprun

    formula = atoms.get_chemical_formula()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = Vasprun(str(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
            step = run.ionic_steps[-1]
            electronic = step["electronic_steps"]
            converged = bool(run.converged_electronic)
    # pymatgen raises whatever it stumbles over in a broken file.
    except Exception as error:
        raise LabelError(
            f"{formula}: {path.name} is broken: {type(error).__name__}: {error}", reason="crashed"
        ) from error
    if not converged:
        raise LabelError(
            f"{formula}: {len(electronic)} electronic steps without convergence.",
            reason="unconverged",
            remedy="Raise NELM or change ALGO in user_incar_settings.",
        )
    _check_structure(step, prepared, formula)
    if step.get("forces") is None or "e_fr_energy" not in step:
        raise LabelError(f"{formula}: {path.name} has no forces.", reason="no_forces")
    energy = float(step["e_fr_energy"])
    if len(atoms) == 1 and not atoms.pbc.any():
        # Of the last electronic step: the final block's is wrong in VASP 5.
        energy += float(electronic[-1]["e_wo_entrp"]) - float(electronic[-1]["e_fr_energy"])
    forces = prepared.restore(np.array(step["forces"], dtype=float))
    stress = None
    if atoms.pbc.all() and step.get("stress") is not None:
        # VASP prints kbar, positive where the cell wants to expand.
        tensor = -np.array(step["stress"], dtype=float) * KBAR
        stress = tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return SinglePoint(energy, forces, stress)


def _check_structure(step: dict[str, Any], prepared: VaspStructure, formula: str) -> None:
    """Check that the step is of the structure that was asked for: a repair may have changed the POSCAR."""
    asked, computed = prepared.structure, step["structure"]
    same = len(asked) == len(computed) and [s.specie.symbol for s in asked] == [s.specie.symbol for s in computed]
    if same:
        same = bool(np.allclose(asked.lattice.matrix, computed.lattice.matrix, atol=_SAME_PLACE))
    if same:
        away = asked.frac_coords - computed.frac_coords
        same = bool(np.abs((away - np.round(away)) @ asked.lattice.matrix).max(initial=0.0) < _SAME_PLACE)
    if not same:
        raise LabelError(f"{formula}: VASP computed another structure than it was asked for.", reason="crashed")
