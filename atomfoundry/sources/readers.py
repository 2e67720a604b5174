"""Read one structure file, and say what is wrong with it where that fails."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import numpy as np
from ase import Atoms

from atomfoundry.errors import StructureError
from atomfoundry.sources.poscar import apply_scale

SMALLEST_DISTANCE = 0.3
"""A. Nearer than this no two nuclei are in any structure."""


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", errors="replace")


def _refuse(path: Path, what: str, remedy: str) -> StructureError:
    return StructureError(f"'{path}' {what}.", remedy=remedy)


def _read_cif(path: Path) -> list[Atoms]:
    # pymatgen and not ASE: it sees disorder and missing atoms where ASE returns a wrong structure.
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.cif import CifParser

    parser = CifParser.from_str(_text(path))
    frames = []
    for structure in parser.parse_structures(primitive=False, on_error="raise"):
        if not structure.is_ordered:
            raise _refuse(
                path,
                f"has partially occupied sites ({structure.composition.formula})",
                "Choose an ordered structure, or order it first.",
            )
        mismatch = parser.check(structure) or ""
        if mismatch.startswith(("Missing elements", "Incorrect stoichiometry")):
            raise _refuse(
                path,
                "holds other atoms than its formula says: " + " ".join(mismatch.split()),
                "Add the missing atoms (often hydrogen), or correct the formula.",
            )
        frames.append(AseAtomsAdaptor.get_atoms(structure, msonable=False))
    return frames


def _read_poscar(path: Path) -> list[Atoms]:
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.vasp import Poscar

    try:
        text = apply_scale(_text(path))
    except StructureError as error:
        raise _refuse(path, error.message, error.remedy or "") from None
    lines = [line.split() for line in text.splitlines()[5:7]]
    counts = lines[1] if len(lines) == 2 else []
    if counts and all(word.isdigit() for word in counts) and len(lines[0]) != len(counts):
        raise _refuse(
            path,
            f"names {len(lines[0])} species ({' '.join(lines[0])}) but has {len(counts)} counts",
            "Correct lines 6 and 7.",
        )
    poscar = Poscar.from_str(text, read_velocities=False)
    if not poscar.true_names:
        raise _refuse(path, "names no species (VASP 4 format)", "Insert a line with the element symbols.")
    return [AseAtomsAdaptor.get_atoms(poscar.structure, msonable=False)]


def _read_any(path: Path) -> list[Atoms]:
    from ase.io import read

    frames = read(str(path), index=":")
    return frames if isinstance(frames, list) else [frames]


def read_structures(path: Path) -> list[Atoms]:
    """Read all structures of a file.

    CIF and POSCAR/CONTCAR go through pymatgen, everything else through ASE.

    Raises
    ------
    StructureError
        If the file is missing, empty, unreadable, disordered or incomplete, or a structure is impossible.
    """
    if not path.exists():
        raise StructureError(f"There is no structure file '{path}'.", remedy="Check the path.")
    if path.is_dir():
        raise StructureError(f"'{path}' is a folder.", remedy=f"Name its files, e.g. '{path}/*.cif'.")
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".cif", ".mcif")):
        reader, kind = _read_cif, "CIF"
    elif name.startswith(("poscar", "contcar")) or name.endswith((".poscar", ".vasp")):
        reader, kind = _read_poscar, "POSCAR"
    else:
        reader, kind = _read_any, "structure file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames = reader(path)
    except StructureError:
        raise
    # The readers of two libraries for dozens of formats raise whatever they stumble over.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _refuse(
            path,
            f"cannot be read as a {kind}: {reason}",
            "Correct the file, or convert it to CIF, POSCAR or extended XYZ.",
        ) from error
    if not frames:
        raise _refuse(path, "holds no structure", "Check the file.")
    for number, atoms in enumerate(frames):
        problem = structure_problem(atoms)
        if problem:
            where = f"structure {number} " if len(frames) > 1 else ""
            raise _refuse(path, f"is refused: {where}cannot exist, {problem}", "Correct or remove it.")
    return frames


_FOLDER_SUFFIXES = (".cif", ".mcif", ".xyz", ".extxyz", ".vasp", ".poscar", ".traj", ".xsf", ".res", ".cell", ".pdb")


def structure_files(folder: Path) -> list[Path]:
    """Return the structure files in a folder and the folders below it, by name; hidden ones are left out.

    POSCAR and CONTCAR files of any ending, and files that end as structures do (``.cif``, ``.extxyz``, ...), also
    with ``.gz`` behind. Others must be named.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.name.lower().removesuffix(".gz")
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        named = name.endswith(_FOLDER_SUFFIXES) or name.startswith(("poscar", "contcar"))
        if named and not hidden and path.is_file():
            found.append(path)
    return found


def structure_problem(atoms: Atoms) -> str | None:
    """Return why a structure cannot exist, None if it can.

    Looks for no atoms, unknown elements, coordinates that are not finite, a periodic cell without volume, and
    atoms (or periodic images) nearer than 0.3 A.
    """
    from ase.neighborlist import neighbor_list

    if len(atoms) == 0:
        return "it has no atoms"
    if (atoms.numbers < 1).any():
        return "it has atoms of unknown element"
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return "a coordinate is not a finite number"
    periodic = atoms.cell.array[atoms.pbc]
    if len(periodic) and np.linalg.matrix_rank(periodic, tol=1e-3) < len(periodic):
        return "its periodic cell has no volume"
    if atoms.pbc.all() and atoms.get_volume() < 0.5 * len(atoms):
        return f"its {len(atoms)} atoms share {atoms.get_volume():.3g} A^3"
    first, second, distances = neighbor_list("ijd", atoms, SMALLEST_DISTANCE)
    if len(distances):
        near = int(distances.argmin())
        return f"atoms {first[near]} and {second[near]} are {distances[near]:.3f} A apart"
    return None
