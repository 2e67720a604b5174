"""The input files of one structure: what atomate2's Maker is given, and in which order VASP has the atoms."""

from __future__ import annotations

from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from atomfoundry.engines.atoms import unpaired_electrons
from atomfoundry.engines.espresso.cell import boxed, kpoint_grid
from atomfoundry.errors import LabelError

if TYPE_CHECKING:
    from ase import Atoms
    from atomate2.vasp.jobs.base import BaseVaspMaker
    from pymatgen.core import Structure

WORKING_FOLDER = RLock()
"""Held while the process stands in a calculation's folder: atomate2 and custodian work where the process is."""

_TETRAHEDRON_POINTS = 4


@dataclass(frozen=True)
class VaspStructure:
    """A structure as VASP gets it.

    Attributes
    ----------
    structure
        Periodic, atoms grouped by element, right-handed cell; Cartesian positions as in the frame, up to a shift of
        the whole where the frame was not periodic.
    order
        Row of the frame for every row of VASP, shape (n_atoms,).
    """

    structure: Structure
    order: np.ndarray

    def restore(self, rows: np.ndarray) -> np.ndarray:
        """Return one row an atom in the frame's order, from VASP's."""
        restored = np.empty_like(rows)
        restored[self.order] = rows
        return restored


def vasp_structure(atoms: Atoms, *, vacuum: float) -> VaspStructure:
    """Prepare a structure.

    The rows of a left-handed cell are reordered, which VASP refuses and custodian would repair in the POSCAR: the
    crystal, and with it Cartesian forces and stress, stays the same.

    Parameters
    ----------
    atoms
        The frame; never changed. Its initial magnetic moments are not used: a frame's id does not know them.
    vacuum
        Empty space on each side where it is not periodic, A.

    Returns
    -------
    VaspStructure
        The structure and the order of its atoms.
    """
    from pymatgen.core import Lattice, Structure

    copy = boxed(atoms, vacuum=vacuum)
    cell = np.array(copy.cell.array)
    if np.linalg.det(cell) < 0:
        cell = cell[[0, 2, 1]]
    plain = Structure(
        Lattice(cell),
        copy.get_chemical_symbols(),
        copy.get_positions(),
        coords_are_cartesian=True,
        site_properties={"row": list(range(len(copy)))},
    )
    # As pymatgen's sets sort; sorting again changes nothing.
    grouped = plain.get_sorted_structure()
    order = np.array(grouped.site_properties["row"], dtype=int)
    grouped.remove_site_property("row")
    return VaspStructure(grouped, order)


def adapt(maker: BaseVaspMaker, atoms: Atoms, prepared: VaspStructure) -> None:
    """Set what depends on one structure and is no part of pymatgen's sets.

    One k-point along directions that are not periodic; no tetrahedron method with fewer than four k-points also
    where ``KSPACING`` makes them (pymatgen has this rule for KPOINTS files only); the moment of an isolated atom and
    of a frame with a spin multiplicity.

    Parameters
    ----------
    maker
        Of this structure alone; changed.
    atoms
        The frame.
    prepared
        The same structure for VASP; an isolated atom gets its magnetic moment.

    Raises
    ------
    LabelError
        ``"unsupported"`` for a charge, or for a spin in a calculation without spin.
    """
    from pymatgen.io.vasp import Kpoints

    generator: Any = maker.input_set_generator
    formula = atoms.get_chemical_formula()
    if atoms.info.get("charge", 0):
        raise LabelError(
            f"{formula}: charge {atoms.info['charge']} in a periodic box.",
            reason="unsupported",
            remedy="Compute charged molecules with engine 'pyscf'.",
        )
    generator.structure = prepared.structure
    tags = generator.incar
    mesh = generator.kpoints
    settings = dict(generator.user_incar_settings)
    grid: tuple[int, ...]
    if mesh is None:
        grid = kpoint_grid(atoms, spacing=float(tags.get("KSPACING", 0.5)))
        # The same grid, written out: a left-handed cell's axes and an empty direction's points are ours.
        if not atoms.pbc.all():
            settings["KSPACING"] = None
            generator.user_kpoints_settings = Kpoints.gamma_automatic(grid)
    else:
        grid = tuple(int(n) for n in mesh.kpts[0])
        if not atoms.pbc.all():
            grid = tuple(n if periodic else 1 for n, periodic in zip(grid, atoms.pbc, strict=True))
            generator.user_kpoints_settings = Kpoints.gamma_automatic(grid)
    if tags.get("ISMEAR") == -5 and np.prod(grid) < _TETRAHEDRON_POINTS:
        settings["ISMEAR"] = 0
    unpaired = _unpaired(atoms)
    if unpaired is not None:
        if int(tags.get("ISPIN", 1)) == 2:
            settings.setdefault("NUPDOWN", unpaired)
        elif unpaired and not _isolated_atom(atoms):
            raise LabelError(
                f"{formula}: {unpaired} unpaired electrons in a calculation without spin.",
                reason="unsupported",
                remedy="Leave ISPIN as the preset has it.",
            )
    if _isolated_atom(atoms):
        # An open shell breaks the symmetry of its box.
        settings.setdefault("ISYM", 0)
        prepared.structure.add_site_property("magmom", [float(unpaired or 0)])
    generator.user_incar_settings = settings


def _isolated_atom(atoms: Atoms) -> bool:
    return len(atoms) == 1 and not atoms.pbc.any()


def _unpaired(atoms: Atoms) -> int | None:
    multiplicity = atoms.info.get("spin_multiplicity")
    if multiplicity is not None:
        return int(multiplicity) - 1
    return unpaired_electrons(atoms.get_chemical_symbols()[0]) if _isolated_atom(atoms) else None


def write_input_files(maker: BaseVaspMaker, structure: Structure, directory: Path, *, potcar: bool) -> list[Path]:
    """Write POSCAR, INCAR, KPOINTS and POTCAR or POTCAR.spec with atomate2's own function.

    Parameters
    ----------
    maker
        Adapted to the structure.
    structure
        For VASP.
    directory
        Existing folder.
    potcar
        Write the POTCAR; else only ``POTCAR.spec``, its symbols.

    Returns
    -------
    list of Path
        The files there are.
    """
    from atomate2.vasp.files import write_vasp_input_set

    with WORKING_FOLDER, chdir(directory):
        write_vasp_input_set(
            structure, maker.input_set_generator, **{**maker.write_input_set_kwargs, "potcar_spec": not potcar}
        )
    names = ("POSCAR", "INCAR", "KPOINTS", "POTCAR", "POTCAR.spec")
    return [directory / name for name in names if (directory / name).is_file()]
