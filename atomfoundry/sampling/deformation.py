"""Strained cells and supercells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.errors import StructureError

LARGEST_STRAIN = 0.5
_AXES = "xyz"
_PLANES = ("yz", "xz", "xy")

Strains = Sequence[float] | Mapping[str, float]
"""Values; ``(start, stop, n)`` with a whole number n: n values from start to stop, both included; or a mapping of
``start``, ``stop`` and ``step``, see ``strain_grid``."""


def _as_list(atoms: Atoms | Iterable[Atoms]) -> list[Atoms]:
    return [atoms] if isinstance(atoms, Atoms) else list(atoms)


def strain_values(strains: Strains | None) -> list[float]:
    """Return the values that ``strains`` stands for.

    A strain of 1 and more is never meant, so a whole number in the third place is a count.

    Raises
    ------
    StructureError
        If a strain is not between -0.5 and 0.5.
    """
    if strains is None:
        return []
    if isinstance(strains, Mapping):
        if set(strains) != {"start", "stop", "step"}:
            raise StructureError(
                f"A strain grid has start, stop, step, not {', '.join(sorted(strains))}.",
                remedy="E.g. {start: -0.1, stop: 0.1, step: 0.01}.",
            )
        values = strain_grid(strains["start"], strains["stop"], strains["step"])
    else:
        values = list(strains)
    if len(values) == 3 and isinstance(values[2], int) and values[2] >= 1 and not isinstance(strains, Mapping):
        # Rounded, so that a grid through zero has the zero itself.
        values = [round(float(value), 12) for value in np.linspace(values[0], values[1], values[2])]
    for value in values:
        if not -LARGEST_STRAIN < value < LARGEST_STRAIN:
            raise StructureError(
                f"A strain of {value} is not between -{LARGEST_STRAIN} and {LARGEST_STRAIN}.",
                remedy="Strains are fractions: 10 % is 0.1.",
            )
    return [float(value) + 0.0 for value in values]


def strain_grid(start: float, stop: float, step: float) -> list[float]:
    """Return the strains from ``start`` to ``stop`` in steps of ``step``, both ends included.

    Parameters
    ----------
    start, stop
        First and last strain, fractions (10 % is 0.1). Where ``stop`` is not a whole number of steps away, the last
        strain is the one before it.
    step
        Positive.

    Returns
    -------
    list of float
        Multiples of the step, not sums: the last of two thousand has no accumulated rounding error, and a grid
        through zero has the zero itself.

    Raises
    ------
    StructureError
        If the step is not positive or ``stop`` is below ``start``.
    """
    if not step > 0 or stop < start:
        raise StructureError(
            f"There is no strain grid from {start} to {stop} in steps of {step}.",
            remedy="Give start <= stop and a positive step.",
        )
    count = int(np.floor((stop - start) / step + 1e-6)) + 1
    return [round(start + index * step, 12) + 0.0 for index in range(count)]


ALUMINA_GRID = (-0.1, 0.1, 0.0001)
"""Start, stop and step of the hydrostatic strains of the alumina study: +-10 % of the lattice parameter in steps of
0.01 % (AtomProNet, section 3.1). That is 2001 cells of each structure; the paper counts 12000 cases in all."""


def alumina_strains() -> list[float]:
    """Return the 2001 hydrostatic strains of the alumina study, see ``ALUMINA_GRID``."""
    return strain_grid(*ALUMINA_GRID)


def green_lagrange_deformation(strain: ArrayLike) -> NDArray[np.float64]:
    """Return the upper-triangular deformation gradient F of a Green-Lagrange strain: F^T F = 1 + 2 strain.

    Parameters
    ----------
    strain
        Symmetric tensor ``[3, 3]``; Voigt shears gamma are twice its off-diagonal elements (ALGORITHMS 8.3).

    Raises
    ------
    StructureError
        If the strain would turn the cell inside out.
    """
    tensor = np.asarray(strain, dtype=np.float64)
    try:
        return np.asarray(np.linalg.cholesky(np.eye(3) + tensor + tensor.T).T, dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise StructureError(f"The strain {tensor.tolist()} is too large.") from error


def deform(atoms: Atoms, gradient: ArrayLike) -> Atoms:
    """Return a copy in which every vector x became F x; scaled coordinates stay.

    Parameters
    ----------
    atoms
        A structure with a cell.
    gradient
        Deformation gradient F, ``[3, 3]``.
    """
    copy = clean_frame(atoms)
    copy.set_cell(atoms.cell.array @ np.asarray(gradient, dtype=np.float64).T, scale_atoms=True)
    return copy


def _deformations(
    hydrostatic: Strains | None,
    uniaxial: Strains | None,
    triaxial: Strains | None,
    shear: Strains | None,
    uniaxial_axes: Sequence[str],
    shear_planes: Sequence[str],
) -> Iterator[tuple[str, dict[str, Any], NDArray[np.float64]]]:
    """Yield tag, record and gradient of each deformation."""
    for value in strain_values(hydrostatic):
        yield f"hydrostatic{value:+.4f}", {"kind": "hydrostatic", "strain": value}, np.eye(3) * (1 + value)
    for axis in uniaxial_axes:
        for value in strain_values(uniaxial):
            gradient = np.eye(3)
            gradient[_AXES.index(axis), _AXES.index(axis)] += value
            yield (
                f"uniaxial_{axis}{value:+.4f}",
                {"kind": "uniaxial", "axis": axis, "strain": value},
                gradient,
            )
    for values in product(strain_values(triaxial), repeat=3):
        tag = "triaxial" + "".join(f"{value:+.4f}" for value in values)
        yield tag, {"kind": "triaxial", "strain": list(values)}, np.eye(3) + np.diag(values)
    for plane in shear_planes:
        for value in strain_values(shear):
            strain = np.zeros((3, 3))
            first, second = _AXES.index(plane[0]), _AXES.index(plane[1])
            strain[first, second] = strain[second, first] = value
            record = {"kind": "shear", "plane": plane, "strain": value}
            yield f"shear_{plane}{value:+.4f}", record, green_lagrange_deformation(strain)


def strain_structures(
    atoms: Atoms | Iterable[Atoms],
    *,
    hydrostatic: Strains | None = None,
    uniaxial: Strains | None = None,
    triaxial: Strains | None = None,
    shear: Strains | None = None,
    uniaxial_axes: Sequence[str] = ("x", "y", "z"),
    shear_planes: Sequence[str] = _PLANES,
) -> list[Atoms]:
    """Return strained copies of crystals.

    Parameters
    ----------
    atoms
        One or several structures, periodic in three directions.
    hydrostatic
        Strains of all lengths: a cell vector becomes (1 + e) times itself. AtomProNet's grid is
        ``(-0.1, 0.1, n)``. Values (``strain_grid`` makes them of start, stop and step), or ``(start, stop, n)``.
    uniaxial
        Strains of the lengths along one Cartesian axis, for each of ``uniaxial_axes``.
    triaxial
        Strains along x, y and z independently of each other: n values are n^3 cells.
    shear
        Off-diagonal elements of the Green-Lagrange strain tensor (the Voigt gamma is twice as large), for
        each of ``shear_planes``; as in the elastic benchmark (ALGORITHMS 8.3).
    uniaxial_axes, shear_planes
        Of ``"x"``, ``"y"``, ``"z"`` and of ``"yz"``, ``"xz"``, ``"xy"``.

    Returns
    -------
    list of ase.Atoms
        Without repetitions. ``info``: ``sampling`` is ``"strain"``, ``deformation`` says which, ``group_id``
        is the parent's with the deformation's tag. A strain of zero returns the parent, tag ``undeformed``.

    Raises
    ------
    StructureError
        If a structure is not periodic, an axis is unknown or a strain is too large.
    """
    unknown = [axis for axis in uniaxial_axes if axis not in tuple(_AXES)]
    unknown += [plane for plane in shear_planes if plane not in _PLANES]
    if unknown:
        raise StructureError(f"There is no axis or plane '{unknown[0]}'.", remedy="Use x, y, z; yz, xz, xy.")
    frames = []
    for parent in _as_list(atoms):
        if not parent.pbc.all():
            raise StructureError(
                f"{parent.get_chemical_formula()} is not periodic in three directions, so it has no strain.",
                remedy="Rattle molecules and slabs instead.",
            )
        group = with_metadata(parent).info["group_id"]
        for tag, record, gradient in _deformations(hydrostatic, uniaxial, triaxial, shear, uniaxial_axes, shear_planes):
            frames.append(
                with_metadata(
                    deform(parent, gradient),
                    sampling="strain",
                    group_id=f"{group}:{tag if np.any(record['strain']) else 'undeformed'}",
                    deformation=record,
                )
            )
    return unique_frames(frames)


def supercell(atoms: Atoms, repeats: int | tuple[int, int, int]) -> Atoms:
    """Return a repeated cell with the parent's metadata.

    Raises
    ------
    StructureError
        If a number of repeats is below 1.
    """
    counts = (repeats,) * 3 if isinstance(repeats, int) else tuple(repeats)
    if len(counts) != 3 or min(counts) < 1:
        raise StructureError(f"A supercell of {counts} is not possible.", remedy="Use three numbers >= 1.")
    frame = clean_frame(atoms)
    group = frame.info["group_id"]
    large = frame.repeat(counts)
    large.info = dict(frame.info)
    return with_metadata(large, group_id=group, repeats=list(counts))
