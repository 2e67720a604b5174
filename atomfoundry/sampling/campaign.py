"""A whole sampling campaign: strained, sheared, rattled and larger cells of a set of structures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ase import Atoms

from atomfoundry.datasets import unique_frames
from atomfoundry.sampling.deformation import Strains, strain_structures, supercell
from atomfoundry.sampling.enlarge import enlarge
from atomfoundry.sampling.rattle import rattle_structures


def sample_structures(
    structures: Iterable[Atoms],
    *,
    hydrostatic: Strains | None = None,
    shear: Strains | None = None,
    shear_planes: Sequence[str] = ("yz", "xz", "xy"),
    rattle_stdevs: Sequence[float] = (),
    n_rattle: int = 0,
    n_rattle_sheared: int = 0,
    supercells: Sequence[tuple[int, int, int]] = (),
    enlarge_to: int | None = None,
    n_rattle_supercell: int = 0,
    supercell_strains: Sequence[float] = (0.0,),
    keep_input: bool = True,
    seed: int = 0,
) -> list[Atoms]:
    """Sample structures.

    Structures periodic in three directions are strained hydrostatically and sheared, and every strained cell is
    rattled; the others are only rattled. Larger cells of the former are rattled besides.

    Parameters
    ----------
    structures
        What to start from.
    hydrostatic, shear
        Strains, as in ``strain_structures``.
    shear_planes
        Planes of the shear.
    rattle_stdevs
        Standard deviations (A) of the displacements.
    n_rattle, n_rattle_sheared
        Copies of each (hydrostatically strained; sheared) structure and standard deviation.
    supercells
        Repetitions of larger cells.
    enlarge_to
        Also a nearly cubic cell of at least so many atoms.
    n_rattle_supercell
        Copies of each larger cell, strain and standard deviation.
    supercell_strains
        Hydrostatic strains of the larger cells.
    keep_input
        Keep the structures themselves.
    seed
        Seed of the displacements.

    Returns
    -------
    list of ase.Atoms
        Without repetitions; all copies of one deformed cell share a ``group_id``.
    """
    frames: list[Atoms] = []
    for atoms in structures:
        if keep_input:
            frames.append(atoms)
        if not atoms.pbc.all():
            frames += rattle_structures(atoms, stdev=rattle_stdevs, n=n_rattle, seed=seed)
            continue
        plain = strain_structures(atoms, hydrostatic=hydrostatic) if hydrostatic else [atoms]
        sheared = strain_structures(atoms, shear=shear, shear_planes=shear_planes) if shear else []
        if hydrostatic:
            frames += plain
        frames += sheared
        frames += rattle_structures(plain, stdev=rattle_stdevs, n=n_rattle, seed=seed)
        frames += rattle_structures(sheared, stdev=rattle_stdevs, n=n_rattle_sheared, seed=seed)
        larger = [supercell(atoms, repeats) for repeats in supercells]
        if enlarge_to is not None and len(atoms) < enlarge_to:
            larger.append(enlarge(atoms, enlarge_to))
        for cell in larger:
            strained = strain_structures(cell, hydrostatic=list(supercell_strains))
            frames += rattle_structures(strained, stdev=rattle_stdevs, n=n_rattle_supercell, seed=seed)
    return unique_frames(frames)
