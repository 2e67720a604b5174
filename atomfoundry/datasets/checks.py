"""Quality checks of labelled frames: which ones must not be trained on, and why (ALGORITHMS 1.5, 9.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from pydantic import BaseModel, ConfigDict, Field

from atomfoundry.datasets.frame import frame_id, labels_of
from atomfoundry.documents import LabelFailure
from atomfoundry.units import EV_PER_A3_IN_GPA

NOBLE_GASES = ("He", "Ne", "Ar", "Kr", "Xe", "Rn")
"""What the Allegro-FM profile leaves out; pass it as ``excluded_elements``."""


class CurationSettings(BaseModel):
    """Limits of the quality checks."""

    model_config = ConfigDict(extra="forbid")

    require_energy: bool = True
    require_forces: bool = True
    max_force: float = Field(default=50.0, gt=0, description="eV/A, largest |F_i|; Allegro-FM uses 12.86")
    max_stress: float = Field(default=100.0, gt=0, description="GPa, largest component")
    min_distance_factor: float = Field(default=0.5, ge=0, description="of the sum of the covalent radii")
    max_net_force_periodic: float = Field(
        default=5e-3,
        gt=0,
        description="eV/A per atom; sets of converged plane waves use 1e-3, coarse grids leave more",
    )
    max_net_force_molecule: float = Field(default=1e-2, gt=0, description="eV/A per atom")
    drop_duplicates: bool = Field(default=True, description="Same structure at the same level: the first stays")
    excluded_elements: tuple[str, ...] = Field(default=(), description="e.g. the noble gases")


def _finite_structure(atoms: Atoms) -> bool:
    return bool(np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all())


def _too_close(atoms: Atoms, factor: float) -> str | None:
    if factor == 0:
        return None
    from vesin import NeighborList  # ten times faster here than ASE, which counts for long trajectories

    radii = factor * covalent_radii[atoms.numbers]
    first, second, distances = NeighborList(cutoff=2 * float(radii.max()), full_list=False, n_threads=1).compute(
        points=np.ascontiguousarray(atoms.positions),
        box=np.where(atoms.pbc[:, None], atoms.cell.array, 0.0),
        periodic=atoms.pbc,
        quantities="ijd",
    )
    near = distances < radii[first] + radii[second]
    if not near.any():
        return None
    worst = int(np.where(near, distances, np.inf).argmin())
    pair = "-".join(sorted(atoms.symbols[int(index[worst])] for index in (first, second)))
    return f"{pair} at {distances[worst]:.3f} A, less than {factor:g} of the sum of the covalent radii"


def _problems(atoms: Atoms, settings: CurationSettings) -> Iterator[tuple[str, str]]:
    """Yield reason code and message of everything that is wrong, the most basic first."""
    if not _finite_structure(atoms):
        yield "nan", "positions or cell are not finite"
        return
    energy, forces, stress = labels_of(atoms)
    labels = {"energy": energy, "forces": forces, "stress": stress}
    for name, label in labels.items():
        if label is not None and not np.isfinite(label).all():
            yield "nan", f"the {name} is not finite"
            return
    if energy is None and settings.require_energy:
        yield "no_energy", "there is no energy for this geometry"
    if forces is None and settings.require_forces:
        yield "no_forces", "there are no forces for this geometry"
    excluded = sorted(set(atoms.symbols) & set(settings.excluded_elements))
    if excluded:
        yield "excluded_element", ", ".join(excluded)
    close = _too_close(atoms, settings.min_distance_factor)
    if close:
        yield "too_close", close
    if forces is not None:
        largest = float(np.linalg.norm(forces, axis=1).max(initial=0.0))
        if largest > settings.max_force:
            yield "exploded", f"largest force {largest:.3g} eV/A > {settings.max_force:g}"
        net = float(np.linalg.norm(forces.sum(axis=0)) / max(len(atoms), 1))
        limit = settings.max_net_force_periodic if atoms.pbc.any() else settings.max_net_force_molecule
        if net > limit:
            yield "net_force", f"net force {net:.2g} eV/A per atom > {limit:g}"
    if stress is not None:
        largest = float(np.abs(stress).max()) * EV_PER_A3_IN_GPA
        if largest > settings.max_stress:
            yield "large_stress", f"stress component {largest:.3g} GPa > {settings.max_stress:g}"


def check_frame(atoms: Atoms, settings: CurationSettings | None = None) -> tuple[str, str] | None:
    """Return reason code and message of the first thing wrong with a frame, None if it is good.

    Parameters
    ----------
    atoms
        A labelled frame.
    settings
        Limits; the defaults if None.

    Returns
    -------
    tuple or None
        Codes: ``nan``, ``no_energy``, ``no_forces``, ``excluded_element``, ``too_close``, ``exploded``,
        ``net_force``, ``large_stress``.
    """
    return next(_problems(atoms, settings or CurationSettings()), None)


def curate(frames: Iterable[Atoms], settings: CurationSettings | None = None) -> tuple[list[Atoms], list[LabelFailure]]:
    """Sort frames into good ones and refused ones.

    Parameters
    ----------
    frames
        Labelled frames.
    settings
        Limits; the defaults if None.

    Returns
    -------
    kept : list of ase.Atoms
        The same objects, in order.
    rejections : list of LabelFailure
        One per refused frame; reasons as in ``check_frame``, and ``duplicate``.
    """
    settings = settings or CurationSettings()
    kept: list[Atoms] = []
    rejections: list[LabelFailure] = []
    seen: set[tuple[str, str]] = set()
    for atoms in frames:
        problem = check_frame(atoms, settings)
        identity = frame_id(atoms) if _finite_structure(atoms) else str(atoms.info.get("frame_id", ""))
        key = (identity, str(atoms.info.get("level", "")))
        if problem is None and settings.drop_duplicates and key in seen:
            problem = ("duplicate", "the same structure at the same level came before")
        if problem is None:
            seen.add(key)
            kept.append(atoms)
            continue
        rejections.append(
            LabelFailure(
                frame_id=identity,
                reason=problem[0],
                message=problem[1],
                formula=atoms.get_chemical_formula(),
                source=str(atoms.info.get("source", "")),
            )
        )
    return kept, rejections
