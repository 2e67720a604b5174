"""Structures from files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ase import Atoms

from atomfoundry.datasets import clean_frame, unique_frames
from atomfoundry.datasets.exchange import METADATA_FIELD
from atomfoundry.errors import StructureError
from atomfoundry.sources.cells import Cell, standard_cell
from atomfoundry.sources.readers import read_structures, structure_files

_SUFFIXES = {".gz", ".cif", ".mcif", ".xyz", ".extxyz", ".vasp", ".poscar", ".traj", ".json"}


def fetch_structures(
    paths: Iterable[str | Path] | str | Path, *, cell: Cell = "as_given", symprec: float = 1e-3
) -> list[Atoms]:
    """Read structures from files: CIF, POSCAR/CONTCAR, extended XYZ, anything ASE reads.

    Parameters
    ----------
    paths
        Files, patterns such as ``"data/*.cif"``, or folders: all structure files in and below them (POSCAR and
        CONTCAR, and whatever ends as structures do).
    cell
        Turn periodic structures into their ``"primitive"`` or ``"conventional"`` cell.
    symprec
        Symmetry tolerance for that, A.

    Returns
    -------
    list of ase.Atoms
        Bare structures (labels in the files are of unknown level and are left out) without repetitions.
        ``source`` is the file's name, with ``#number`` where the file has several; ``group_id`` is the file's
        stem, with the formula where the file holds several formulas, so that frames of one trajectory share a
        group.

    Raises
    ------
    StructureError
        If a file is missing, unreadable, disordered or holds an impossible structure: nothing is returned
        then.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise StructureError("No structure file was named.", remedy="Name at least one file.")
    files = list(dict.fromkeys(expand_paths(given)))
    names = short_names(files)
    frames: list[Atoms] = []
    for file, name in zip(files, names, strict=True):
        structures = read_structures(file)
        formulas = {atoms.get_chemical_formula() for atoms in structures}
        for number, atoms in enumerate(structures):
            group = name if len(formulas) == 1 else f"{name}:{atoms.get_chemical_formula()}"
            own = _own_metadata(atoms)
            atoms.info.update(own)
            atoms.info.update(
                source=file.name if len(structures) == 1 else f"{file.name}#{number}",
                group_id=own.get("group_id") or group,
                sampling=own.get("sampling") or "",
                level="",
                weight=own.get("weight", 1.0),
                flags=own.get("flags", []),
            )
            frames.append(standard_cell(clean_frame(atoms), cell, symprec=symprec))
    return unique_frames(frames)


def _own_metadata(atoms: Atoms) -> dict[str, Any]:
    """Return the metadata that ``write_extxyz`` left in the file."""
    own = atoms.info.get(METADATA_FIELD, {})
    return json.loads(own) if isinstance(own, str) else dict(own)


def expand_paths(paths: Iterable[str | Path] | str | Path) -> list[Path]:
    """Return the files that names, patterns and folders stand for, in order.

    Raises
    ------
    StructureError
        If a pattern matches nothing, or a folder holds no structure file. Whether a named file exists is not checked.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    return [file for path in given for file in _expand(path)]


def _expand(path: str | Path) -> list[Path]:
    file = Path(path).expanduser()
    if file.is_dir():
        return _in_folder(file)
    if file.exists() or not any(sign in str(path) for sign in "*?["):
        return [file]
    matches = sorted(Path(file.anchor or ".").glob(str(file.relative_to(file.anchor) if file.anchor else file)))
    if not matches:
        raise StructureError(f"No file matches '{path}'.", remedy="Check the pattern.")
    files = [match for match in matches if match.is_file()]
    if files:
        return files
    # A pattern of folders alone, such as "runs/*".
    return [found for match in matches for found in _in_folder(match)]


def _in_folder(folder: Path) -> list[Path]:
    found = structure_files(folder)
    if not found:
        raise StructureError(
            f"'{folder}' is a folder without structure files.", remedy=f"Name the files, e.g. '{folder}/*.dat'."
        )
    return found


def short_names(files: list[Path]) -> list[str]:
    """Return a name for each file: its stem, with as many parent folders as tell it from the others."""

    def stem(file: Path) -> Path:
        while file.suffix.lower() in _SUFFIXES:
            file = file.with_suffix("")
        return file

    stems = [stem(file) for file in files]
    names = [path.name for path in stems]
    for depth in range(2, 10):
        repeated = {name for name in names if len({files[i] for i, n in enumerate(names) if n == name}) > 1}
        if not repeated:
            break
        names = [
            "/".join(path.parts[-depth:]) if name in repeated else name for path, name in zip(stems, names, strict=True)
        ]
    return names
