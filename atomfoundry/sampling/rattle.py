"""Random displacements of atoms, seeded and guarded against collisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.errors import StructureError
from atomfoundry.sampling.deformation import Strains, _as_list, strain_structures
from atomfoundry.sampling.distances import collides

_TRIES = 100


def rattle_structures(
    atoms: Atoms | Iterable[Atoms],
    *,
    stdev: float | Sequence[float],
    n: int,
    seed: int,
    min_distance_factor: float = 0.6,
) -> list[Atoms]:
    """Return copies with normally distributed displacements.

    Parameters
    ----------
    atoms
        One or several structures.
    stdev
        Standard deviation of each Cartesian component, A; several values give ``n`` copies each.
    n
        Copies of each structure at each ``stdev``.
    seed
        The displacements depend on it, the structure and the copy's number alone: another parent in the list
        or more copies change nothing.
    min_distance_factor
        Copies in which two atoms are nearer than this times the sum of their covalent radii are drawn again;
        0 allows everything.

    Returns
    -------
    list of ase.Atoms
        ``group_id`` is the parent's, so that no split parts siblings. ``info["deformation"]`` is the parent's
        with ``rattle`` (A), ``seed`` and ``copy``; ``sampling`` is ``"rattle"`` or ``"strain+rattle"``. The
        centre of the atoms does not move.

    Raises
    ------
    StructureError
        If no allowed copy is found in 100 draws, or an argument is impossible.
    """
    widths = [float(width) for width in np.atleast_1d(stdev)]
    if n < 0 or min(widths, default=0.0) < 0:
        raise StructureError(f"{n} copies rattled by {stdev} A are not possible.")
    frames = []
    for parent in _as_list(atoms):
        base = with_metadata(clean_frame(parent))
        origin = dict(parent.info.get("deformation") or {})
        strained = parent.info.get("sampling") == "strain" and bool(np.any(origin.get("strain", 0.0)))
        for width in widths:
            for copy in range(n):
                # A molecule's or cell's own stream of random numbers, whatever else is sampled with it.
                key = [seed, int(base.info["frame_id"][:16], 16), round(width * 1e6), copy]
                record: dict[str, Any] = {**origin, "rattle": width, "seed": seed, "copy": copy}
                frames.append(
                    with_metadata(
                        _rattled(base, width, np.random.default_rng(key), min_distance_factor),
                        sampling="strain+rattle" if strained else "rattle",
                        deformation=record,
                    )
                )
    return unique_frames(frames)


def _rattled(base: Atoms, width: float, rng: np.random.Generator, factor: float) -> Atoms:
    for _ in range(_TRIES):
        displacements = rng.normal(scale=width, size=base.positions.shape)
        copy = base.copy()
        copy.positions += displacements - displacements.mean(axis=0)
        if not collides(copy, factor):
            return copy
    raise StructureError(
        f"{base.get_chemical_formula()} rattled by {width:g} A has atoms nearer than {factor:g} times the "
        f"sum of their covalent radii in each of {_TRIES} draws.",
        remedy="Lower stdev or min_distance_factor, or check the structure.",
    )


def strain_and_rattle(
    atoms: Atoms | Iterable[Atoms],
    *,
    hydrostatic: Strains | None = None,
    uniaxial: Strains | None = None,
    triaxial: Strains | None = None,
    shear: Strains | None = None,
    uniaxial_axes: Sequence[str] = ("x", "y", "z"),
    shear_planes: Sequence[str] = ("yz", "xz", "xy"),
    stdev: float | Sequence[float],
    n: int,
    seed: int,
    min_distance_factor: float = 0.6,
    keep_unrattled: bool = True,
) -> list[Atoms]:
    """Return strained crystals and rattled copies of each.

    Parameters
    ----------
    atoms, hydrostatic, uniaxial, triaxial, shear, uniaxial_axes, shear_planes
        As in ``strain_structures``.
    stdev, n, seed, min_distance_factor
        As in ``rattle_structures``.
    keep_unrattled
        Return the strained cells themselves too, each before its copies.
    """
    frames = []
    for strained in strain_structures(
        atoms,
        hydrostatic=hydrostatic,
        uniaxial=uniaxial,
        triaxial=triaxial,
        shear=shear,
        uniaxial_axes=uniaxial_axes,
        shear_planes=shear_planes,
    ):
        if keep_unrattled:
            frames.append(strained)
        frames.extend(rattle_structures(strained, stdev=stdev, n=n, seed=seed, min_distance_factor=min_distance_factor))
    return unique_frames(frames)
