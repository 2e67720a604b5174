"""Random structure search: sensible random crystals of a composition, with or without symmetry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.formula import Formula
from numpy.typing import NDArray

from atomfoundry.datasets import unique_frames, with_metadata
from atomfoundry.errors import StructureError
from atomfoundry.sampling.distances import nearer_than, smallest_distances
from atomfoundry.sampling.space_groups import centring, fillable, operations, random_cell, random_orbit
from atomfoundry.sampling.symmetry import NEIGHBOURS, primitive_cell

_TRIES = 2000


def _counts(composition: str | Mapping[str, int]) -> dict[str, int]:
    try:
        counts = Formula(composition).count() if isinstance(composition, str) else dict(composition)
    except ValueError as error:
        raise StructureError(f"'{composition}' is no formula.", remedy="Write e.g. 'Al2O3'.") from error
    for symbol, count in counts.items():
        if atomic_numbers.get(symbol, 0) < 1 or count < 1:
            raise StructureError(f"A composition with {count} {symbol} is not possible.")
    if not counts:
        raise StructureError("The composition is empty.", remedy="Write e.g. 'Al2O3'.")
    return {symbol: int(count) for symbol, count in sorted(counts.items(), key=lambda item: atomic_numbers[item[0]])}


def _groups(space_groups: Sequence[int] | str | None) -> list[int]:
    if space_groups is None:
        return [1]
    if space_groups == "any":
        return list(range(1, 231))
    if isinstance(space_groups, str) or not space_groups:
        raise StructureError(f"There are no space groups {space_groups!r}.", remedy="Give numbers, 'any' or None.")
    for number in space_groups:
        operations(int(number))
    return [int(number) for number in space_groups]


def random_structures(
    composition: str | Mapping[str, int],
    *,
    n: int,
    seed: int,
    formula_units: Sequence[int] = (1, 2, 3, 4),
    volume_per_atom: tuple[float, float] | None = None,
    min_distance_factor: float = 0.8,
    min_distances: Mapping[str, float] | None = None,
    space_groups: Sequence[int] | str | None = None,
) -> list[Atoms]:
    """Return random crystals: starting points of a random structure search.

    Pickard and Needs, J. Phys.: Condens. Matter 23, 053201: random cells and positions under constraints that any
    chemist knows (volume, least distances, symmetry), not tuned further.

    Parameters
    ----------
    composition
        Formula such as ``"Al2O3"`` or counts of the elements.
    n
        Number of structures.
    seed
        Each structure depends on it and its own number alone.
    formula_units
        Numbers of formula units in the primitive cell, one of which each structure draws.
    volume_per_atom
        Smallest and largest volume, A^3/atom; by default 2 to 3.5 times that of spheres of the covalent radii.
    min_distance_factor
        No two atoms are nearer than this times the sum of their covalent radii.
    min_distances
        Own least distances (A) of pairs, e.g. ``{"Al-O": 1.6}``.
    space_groups
        None: no symmetry asked for. ``"any"``: a group drawn of all 230. Numbers: drawn of these. Chance may give
        more symmetry than asked for, never less.

    Returns
    -------
    list of ase.Atoms
        Primitive cells of the group, without repetitions; ``sampling`` is ``"random"``, each a group of its own;
        ``info["deformation"]`` has the space group and the volume drawn.

    Raises
    ------
    StructureError
        If an argument is impossible, or no structure is found in 2000 draws.
    """
    counts = _counts(composition)
    limits = smallest_distances(set(counts), factor=min_distance_factor, distances=min_distances)
    spheres = sum(m * 4 / 3 * np.pi * covalent_radii[atomic_numbers[s]] ** 3 for s, m in counts.items())
    spheres /= sum(counts.values())
    low, high = volume_per_atom or (2.0 * spheres, 3.5 * spheres)
    if n < 0 or not 0 < low <= high or min(formula_units, default=0) < 1:
        raise StructureError(
            f"{n} structures of {formula_units} formula units with {low:g} to {high:g} A^3/atom are not possible.",
            remedy="Give n >= 0, at least one number of formula units >= 1 and 0 < smallest <= largest volume.",
        )
    groups = _groups(space_groups)
    name = "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in counts.items())
    frames = []
    for index in range(n):
        rng = np.random.default_rng([seed, index])
        for _ in range(_TRIES):
            group_number = groups[int(rng.integers(len(groups)))]
            units = int(formula_units[int(rng.integers(len(formula_units)))])
            volume = float(rng.uniform(low, high))
            atoms = _draw({s: m * units for s, m in counts.items()}, group_number, volume, limits, rng)
            if atoms is not None:
                break
        else:
            raise StructureError(
                f"No random structure of {name} was found in {_TRIES} draws (space groups {space_groups}, "
                f"{low:.3g} to {high:.3g} A^3/atom).",
                remedy="Allow more volume, smaller distances, more formula units or other space groups.",
            )
        record: dict[str, Any] = {
            "kind": "random",
            "space_group": group_number,
            "volume_per_atom": volume,
            "formula_units": units,
            "seed": seed,
            "copy": index,
        }
        frames.append(with_metadata(atoms, sampling="random", source=f"random:{name}", deformation=record))
    return unique_frames(frames)


def _draw(
    counts: dict[str, int],
    number: int,
    volume: float,
    limits: dict[tuple[str, str], float],
    rng: np.random.Generator,
) -> Atoms | None:
    """Return a structure of a space group, None where this draw met no allowed one."""
    group = operations(number)
    cells = centring(group)
    if not all(fillable(number, count * cells) for count in counts.values()):
        return None
    cell = random_cell(group, volume * sum(counts.values()) * cells, rng)
    symbols: list[str] = []
    scaled = np.zeros((0, 3))
    # The largest atoms first: they have the fewest places.
    for symbol in sorted(counts, key=lambda s: (-covalent_radii[atomic_numbers[s]], s)):
        missing = counts[symbol] * cells
        while missing:
            orbit = random_orbit(number, missing, rng)
            if orbit is None:
                return None
            names = [*symbols, *[symbol] * len(orbit)]
            together = np.concatenate([scaled, orbit])
            if not _fits(together, names, len(orbit), cell, limits):
                return None
            symbols, scaled, missing = names, together, missing - len(orbit)
    atoms = Atoms(symbols, scaled_positions=scaled, cell=cell, pbc=True)
    # The primitive cell of the group's own centring, whatever more symmetry chance gave.
    pure = np.abs(group[0] - np.eye(3)).max(axis=(1, 2)) < 1e-6
    atoms = primitive_cell(atoms, group[1][pure])
    whole = len(atoms) * cells == len(scaled)
    return atoms if whole and not nearer_than(atoms, limits) else None


def _fits(
    scaled: NDArray[np.float64],
    symbols: list[str],
    n_new: int,
    cell: NDArray[np.float64],
    limits: dict[tuple[str, str], float],
) -> bool:
    """Tell whether the first atom of a new orbit keeps its distances; the exact check comes at the end."""
    first = len(scaled) - n_new
    difference = scaled - scaled[first]
    difference = (difference - np.rint(difference))[:, None] + NEIGHBOURS
    lengths = np.linalg.norm(difference @ cell, axis=2)
    lengths[first, np.abs(NEIGHBOURS).sum(axis=1) == 0] = np.inf
    allowed = np.array([limits[symbols[first], symbol] for symbol in symbols])
    return bool((lengths.min(axis=1) >= allowed).all())
