"""Interstitial atoms in the holes of a crystal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray

from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.errors import StructureError
from atomfoundry.sampling.deformation import _as_list
from atomfoundry.sampling.symmetry import symmetry_operations

_MERGE = 0.1
"""A. Voronoi corners nearer than this are one hole: Qhull splits corners where more than four cells meet."""

_SHELL = 12.0
"""A. Thickness of the periodic images around the cell; a larger hole is vacuum."""


def holes(atoms: Atoms, *, symprec: float = 1e-2) -> list[tuple[NDArray[np.float64], float]]:
    """Return the corners of the Voronoi cells: the points that are farthest from all atoms around them.

    Parameters
    ----------
    atoms
        Periodic in three directions.
    symprec
        Symmetry tolerance, A: of equivalent holes the first counts.

    Returns
    -------
    list of (ndarray, float)
        Position ``[3]`` in the cell (A) and distance to the nearest atoms (A), the widest hole first.

    Raises
    ------
    StructureError
        If the structure is not periodic in three directions.
    """
    if not atoms.pbc.all():
        raise StructureError(
            f"{atoms.get_chemical_formula()} is not periodic in three directions, so it has no interstitial sites.",
            remedy="Use a crystal.",
        )
    from scipy.spatial import Voronoi, cKDTree

    cell = atoms.cell.array
    heights = atoms.get_volume() / np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    reach = np.maximum(1, np.ceil(_SHELL / heights)).astype(int)
    shifts = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    scaled = atoms.get_scaled_positions()
    images = (scaled[None] + shifts[:, None]).reshape(-1, 3)
    keep = ((images @ cell - 0.5 * cell.sum(axis=0)) ** 2).sum(axis=1) <= (
        _SHELL + 0.5 * np.linalg.norm(cell, axis=1).sum()
    ) ** 2
    points = images[keep] @ cell
    corners = Voronoi(points).vertices @ np.linalg.inv(cell)
    corners = corners[(corners > -1e-4).all(axis=1) & (corners < 1 - 1e-4).all(axis=1)]
    if len(corners) == 0:
        return []
    radii = cKDTree(points).query(corners @ cell)[0]
    rotations, translations = symmetry_operations(atoms, symprec=symprec)
    found: list[tuple[NDArray[np.float64], float]] = []
    known = np.zeros((0, 3))
    # Rounded, so that the order of equally wide holes does not hang on the last digit.
    for index in np.lexsort((*corners.round(4).T[::-1], -radii.round(4))):
        difference = known - corners[index]
        difference -= np.rint(difference)
        if (np.linalg.norm(difference @ cell, axis=1) < max(_MERGE, 2 * symprec)).any():
            continue
        found.append((corners[index] @ cell, float(radii[index])))
        known = np.concatenate([known, rotations @ corners[index] + translations])
    return found


def interstitials(
    atoms: Atoms | Iterable[Atoms],
    *,
    symbols: Sequence[str],
    min_distance_factor: float = 0.6,
    max_sites: int | None = None,
    symprec: float = 1e-2,
) -> list[Atoms]:
    """Return crystals with one atom more, one for each class of holes that is wide enough.

    Parameters
    ----------
    atoms
        One or several structures, periodic in three directions.
    symbols
        Elements of the added atom.
    min_distance_factor
        A hole is wide enough if its nearest atoms are not nearer than this times the sum of the covalent radii.
    max_sites
        Only so many of the widest holes.
    symprec
        Symmetry tolerance, A.

    Returns
    -------
    list of ase.Atoms
        The added atom is the last one; the widest hole comes first. ``sampling`` is ``"interstitial"``.

    Raises
    ------
    StructureError
        If a structure is not periodic, an element is unknown or no hole is wide enough.
    """
    unknown = [symbol for symbol in symbols if atomic_numbers.get(symbol, 0) < 1]
    if unknown:
        raise StructureError(f"There is no element '{unknown[0]}'.")
    frames = []
    for parent in _as_list(atoms):
        base = with_metadata(clean_frame(parent))
        sites = holes(base, symprec=symprec)
        for symbol in symbols:
            allowed = []
            for position, radius in sites:
                grown = base + Atoms(symbol, positions=[position])
                lengths = grown.get_distances(-1, list(range(len(base))), mic=True)
                sums = covalent_radii[atomic_numbers[symbol]] + covalent_radii[base.numbers]
                if (lengths >= min_distance_factor * sums).all():
                    allowed.append((grown, radius))
            if not allowed:
                raise StructureError(
                    f"{base.get_chemical_formula()} has no hole for {symbol} at {min_distance_factor:g} times the "
                    "covalent radii.",
                    remedy="Lower min_distance_factor.",
                )
            for number, (grown, radius) in enumerate(allowed[:max_sites]):
                grown.info = dict(base.info)
                record = {"kind": "interstitial", "symbols": [symbol], "radius": radius, "site": number}
                frames.append(
                    with_metadata(
                        grown,
                        sampling="interstitial",
                        group_id=f"{base.info['group_id']}:interstitial_{symbol}_{number}",
                        deformation=record,
                    )
                )
    return unique_frames(frames)
