"""Read published data sets in their own JSON: mlearn, MPtrj, MatPES. Streamed, whatever the size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from atomfoundry.datasets.conventions import stress_from_vasp
from atomfoundry.datasets.frame import attach_labels, default_info
from atomfoundry.datasets.jsonstream import stream_items
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError

MP_HUBBARD_U = {"Co": 3.32, "Cr": 3.7, "Fe": 5.3, "Mn": 3.9, "Mo": 4.38, "Ni": 6.2, "V": 3.25, "W": 6.2}
"""U (eV) of the Materials Project's PBE+U, applied where O or F is present."""

MPTRJ_PBE = LevelOfTheory(code="vasp", method="PBE", cutoff=520.0, extra={"set": "MPRelaxSet"})
MPTRJ_PBE_U = MPTRJ_PBE.model_copy(update={"hubbard_u": MP_HUBBARD_U})
MPTRJ_CORRECTED = MPTRJ_PBE.model_copy(
    update={"extra": {"set": "MPRelaxSet", "energy": "PBE and PBE+U joined by the MP2020 corrections"}}
)
MPTRJ_LEVELS = (MPTRJ_PBE, MPTRJ_PBE_U, MPTRJ_CORRECTED)

MATPES_LEVELS = {
    "PBE": LevelOfTheory(code="vasp", method="PBE", cutoff=680.0, extra={"set": "MatPESStaticSet"}),
    "r2SCAN": LevelOfTheory(code="vasp", method="r2SCAN", cutoff=680.0, extra={"set": "MatPESStaticSet"}),
}

_VASP_ORDER, _LAMMPS_ORDER = [0, 1, 2, 4, 5, 3], [0, 1, 2, 5, 4, 3]
"""Where xx yy zz yz xz xy stand in xx yy zz xy yz zx and in xx yy zz xy xz yz."""


def _mlearn_order(symbols: set[str], group: str) -> list[int]:
    """Return where the components of a stress of mlearn stand; its files do not say, and differ.

    Found by strained cells, and for the others by pair potentials fitted to the forces, whose virial follows.
    """
    mostly_lammps = symbols <= {"Cu", "Ge", "Mo", "Ni", "Si"}
    return _LAMMPS_ORDER if mostly_lammps and not (symbols <= {"Ge", "Si"} and group == "Elastic") else _VASP_ORDER


def _atoms(structure: Mapping[str, Any], where: str) -> Atoms:
    """Return a pymatgen structure dictionary as Atoms with default metadata."""
    try:
        lattice = structure["lattice"]
        sites = structure["sites"]
        symbols = []
        for site in sites:
            (kind,) = site["species"]
            if kind.get("occu", 1) != 1:
                raise ValueError(f"a site is occupied by {kind['occu']}")
            symbols.append(kind["element"].rstrip("0123456789+-"))
        cell = np.array(lattice["matrix"], dtype=np.float64)
        positions = np.array(
            [site["xyz"] if "xyz" in site else np.asarray(site["abc"]) @ cell for site in sites], dtype=np.float64
        )
        atoms = Atoms(
            numbers=[atomic_numbers[symbol] for symbol in symbols],
            positions=positions.reshape(-1, 3),
            cell=cell,
            pbc=lattice.get("pbc", True),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise DatasetError(f"{where} has no structure that can be read: {type(error).__name__} {error}.") from error
    atoms.info = default_info() | {"charge": round(structure.get("charge") or 0)}
    return atoms


def _labelled(atoms: Atoms, energy: float | None, forces: Any, stress: Any, where: str) -> Atoms:
    try:
        return attach_labels(atoms, energy, forces if forces is None else np.array(forces, dtype=np.float64), stress)
    except (DatasetError, ValueError, TypeError) as error:
        raise DatasetError(f"{where} has labels that do not fit: {error}") from error


def read_mlearn(path: str | Path, *, level: str = "") -> Iterator[Atoms]:
    """Read mlearn's ``training.json`` and ``test.json``.

    ``virial_stress`` is in kBar as VASP prints it (positive where the cell wants to expand). The order is xx yy zz xy
    xz yz for Cu, Ge, Mo, Ni and Si, but xx yy zz xy yz zx for Li and the strained cells (``Elastic``) of Ge and Si. The
    files do not say so, but energies of strained cells and virials of potentials fitted to the forces do.

    Parameters
    ----------
    path
        JSON, also compressed.
    level
        Level id of the labels.

    Raises
    ------
    DatasetError
        If the file breaks off or a frame cannot be read.
    """
    file = Path(path)
    for number, item in stream_items(file):
        where = f"Frame {number} of '{file}'"
        if not isinstance(item, dict) or "outputs" not in item or "structure" not in item:
            raise DatasetError(f"{where} is none of mlearn.", remedy="Check the format of the file.")
        outputs = item["outputs"]
        atoms = _atoms(item["structure"], where)
        group = str(item.get("group", ""))
        atoms.info.update(
            level=level,
            source=f"mlearn/{item.get('element', '')}",
            sampling=group,
            description=str(item.get("description", "")),
            mlearn_tag=str(item.get("tag", "")),
        )
        virial = outputs.get("virial_stress")
        order = _mlearn_order(set(atoms.symbols), group)
        stress = None if virial is None else stress_from_vasp(np.asarray(virial, dtype=float)[order])
        yield _labelled(atoms, outputs.get("energy"), outputs.get("forces"), stress, where)


def read_mptrj(
    path: str | Path, *, energy: Literal["uncorrected", "corrected"] = "uncorrected", magmoms: bool = True
) -> Iterator[Atoms]:
    """Read the Materials Project trajectories (``MPtrj_2022.9_full.json``, 12 GB), one material in memory at a time.

    Raw energies are of two levels, PBE and PBE+U (U where O or F stands beside Co, Cr, Fe, Mn, Mo, Ni, V or W), which
    never mix in one model head; each frame says which, and frames with U carry the flag ``hubbard_u``. Corrected
    energies join the two as the Materials Project does. Stress is in kBar as VASP prints it. ``group_id`` is the
    material's id.

    Parameters
    ----------
    path
        JSON, also compressed.
    energy
        ``"uncorrected"``: what VASP computed, to which forces and stress belong. ``"corrected"``: with MP2020.
    magmoms
        Keep the atoms' magnetic moments (``info["magmoms"]``, Bohr magnetons).

    Raises
    ------
    DatasetError
        If the file breaks off or a frame cannot be read.
    """
    file = Path(path)
    key = f"{energy}_total_energy"
    for material, frames in stream_items(file):
        if not isinstance(frames, dict):
            raise DatasetError(f"'{material}' of '{file}' holds no frames.", remedy="Check the format of the file.")
        for name, item in frames.items():
            where = f"Frame '{name}' of '{file}'"
            if not isinstance(item, dict) or "structure" not in item or key not in item:
                raise DatasetError(f"{where} has no '{key}' or no structure.", remedy="Check the format of the file.")
            atoms = _atoms(item["structure"], where)
            symbols = set(atoms.symbols)
            with_u = bool(symbols & {"O", "F"} and symbols & set(MP_HUBBARD_U))
            level = MPTRJ_CORRECTED if energy == "corrected" else MPTRJ_PBE_U if with_u else MPTRJ_PBE
            atoms.info.update(
                group_id=str(material),
                level=level.id,
                source="MPtrj",
                sampling="relaxation",
                flags=["hubbard_u"] if with_u else [],
                mptrj_frame=str(name),
                bandgap=item.get("bandgap"),
            )
            if magmoms and item.get("magmom") is not None:
                atoms.info["magmoms"] = item["magmom"]
            stress = item.get("stress")
            yield _labelled(
                atoms, item[key], item.get("force"), None if stress is None else stress_from_vasp(stress), where
            )


def read_matpes(path: str | Path) -> Iterator[Atoms]:
    """Read MatPES (PBE or r2SCAN), a list of entries or, as its element references, an object of them.

    Stress is in kBar as VASP prints it, order xx yy zz yz xz xy. ``group_id`` is the entry of the Materials Project
    that the structure descends from, else the entry's own id.

    Raises
    ------
    DatasetError
        If the file breaks off, a frame cannot be read, or its functional is neither PBE nor r2SCAN.
    """
    file = Path(path)
    for number, item in stream_items(file):
        where = f"Frame {number} of '{file}'"
        if not isinstance(item, dict) or "structure" not in item or "energy" not in item:
            raise DatasetError(f"{where} is none of MatPES.", remedy="Check the format of the file.")
        functional = str(item.get("functional", ""))
        if functional not in MATPES_LEVELS:
            raise DatasetError(f"{where} is of functional '{functional}', which MatPES does not have.")
        atoms = _atoms(item["structure"], where)
        provenance = item.get("provenance") or {}
        own = str(item.get("matpes_id") or number)
        atoms.info.update(
            group_id=str(provenance.get("original_mp_id") or own),
            level=MATPES_LEVELS[functional].id,
            source=f"MatPES-{functional}",
            sampling="md" if provenance.get("md_temperature") else "relaxed",
            matpes_id=own,
            bandgap=item.get("bandgap"),
        )
        if item.get("bader_magmoms") is not None:
            atoms.info["magmoms"] = item["bader_magmoms"]
        stress = item.get("stress")
        yield _labelled(
            atoms, item["energy"], item.get("forces"), None if stress is None else stress_from_vasp(stress), where
        )
