"""Labels that must not share one head: several levels, +U and no +U, several magnetic orders (ALGORITHMS 9.1)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.data import chemical_symbols

from atomfoundry.curation.fingerprints import fingerprint
from atomfoundry.datasets import Dataset

MP_U_METALS = frozenset({"Co", "Cr", "Fe", "Mn", "Mo", "Ni", "V", "W"})
"""The Materials Project computes these with +U where O or F is present, and without elsewhere."""
MP_U_ANIONS = frozenset({"O", "F"})


@dataclass(frozen=True)
class Mixture:
    """Frames of one dataset that do not lie on one energy surface.

    Attributes
    ----------
    kind
        ``levels``: several levels of theory. ``hubbard_u``: frames with and frames without +U share a metal, by the
        rule of the Materials Project. ``magnetic_orders``: one geometry of a group has several energies.
    what
        The levels, the metal, or the group.
    frames
        Indices concerned.
    spread
        eV/atom between the energies of equal geometries, where that is known.
    lowest
        For ``magnetic_orders``, the frames to keep: the lowest of each geometry.
    """

    kind: Literal["levels", "hubbard_u", "magnetic_orders"]
    what: str
    frames: tuple[int, ...]
    spread: float | None = None
    lowest: tuple[int, ...] = ()


def find_mixtures(dataset: Dataset, *, energy_difference: float = 0.1, tolerance: float = 0.02) -> list[Mixture]:
    """Look for labels that do not belong together.

    Parameters
    ----------
    dataset
        A labelled dataset.
    energy_difference
        eV/atom; equal geometries of a group whose energies differ more have different magnetic orders (or other
        differences that nothing records).
    tolerance
        Largest difference of the fingerprints of equal geometries.

    Returns
    -------
    list of Mixture
        Empty if nothing is suspicious.
    """
    found = _levels(dataset)
    found += _hubbard(dataset)
    found += _orders(dataset, energy_difference, tolerance)
    return found


def _levels(dataset: Dataset) -> list[Mixture]:
    members: dict[str, list[int]] = defaultdict(list)
    for index, level in enumerate(dataset.column("level")):
        members[str(level)].append(index)
    if len(members) < 2:
        return []
    labels = {record.id: record.label for record in dataset.levels}
    what = ", ".join(f"{labels.get(level, level or 'unknown')}: {len(rows)}" for level, rows in sorted(members.items()))
    return [Mixture("levels", what, tuple(range(len(dataset))))]


def _hubbard(dataset: Dataset) -> list[Mixture]:
    with_u: dict[str, list[int]] = defaultdict(list)
    without: dict[str, list[int]] = defaultdict(list)
    for index, numbers in enumerate(dataset.column("numbers")):
        symbols = {chemical_symbols[number] for number in np.unique(numbers)}
        for metal in symbols & MP_U_METALS:
            (with_u if symbols & MP_U_ANIONS else without)[metal].append(index)
    return [
        Mixture("hubbard_u", metal, tuple(sorted(with_u[metal] + without[metal])))
        for metal in sorted(with_u)
        if metal in without and not _declared(dataset, metal)
    ]


def _declared(dataset: Dataset, metal: str) -> bool:
    """Tell whether the level itself says which U the metal has: then it is one for all frames."""
    return dataset.level is not None and metal in (dataset.level.hubbard_u or {})


def _orders(dataset: Dataset, limit: float, tolerance: float) -> list[Mixture]:
    per_atom = np.asarray(dataset.column("energy")) / np.asarray(dataset.column("n_atoms"))
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, key in enumerate(zip(dataset.column("group_id"), dataset.column("level"), strict=True)):
        if np.isfinite(per_atom[index]):
            groups[key].append(index)
    found = []
    for (group, _), members in groups.items():
        # no geometry needs to be read where the energies of a group agree anyway
        if len(members) < 2 or np.ptp(per_atom[members]) <= limit:
            continue
        spread, conflicting, lowest = _conflicts(dataset, members, per_atom, limit, tolerance)
        if conflicting:
            found.append(Mixture("magnetic_orders", group, tuple(conflicting), spread, tuple(lowest)))
    return found


def _conflicts(
    dataset: Dataset, members: list[int], per_atom: np.ndarray, limit: float, tolerance: float
) -> tuple[float, list[int], list[int]]:
    places: list[tuple[np.ndarray, list[int]]] = []
    for index in members:
        features = fingerprint(dataset[index])
        for known, rows in places:
            if known.shape == features.shape and np.linalg.norm(known - features) < tolerance:
                rows.append(index)
                break
        else:
            places.append((features, [index]))
    spread, conflicting, lowest = 0.0, [], []
    for _, rows in places:
        difference = float(np.ptp(per_atom[rows]))
        if difference > limit:
            spread = max(spread, difference)
            conflicting += rows
            lowest.append(min(rows, key=lambda row: per_atom[row]))
    return spread, sorted(conflicting), sorted(lowest)
