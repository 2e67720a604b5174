"""Monte-Carlo rattle: many small moves of single atoms, each refused where it brings atoms too near."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import get_distances
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.errors import StructureError
from atomfoundry.sampling.deformation import _as_list


def monte_carlo_rattle(
    atoms: Atoms | Iterable[Atoms],
    *,
    step: float,
    n_sweeps: int,
    n: int,
    seed: int,
    min_distance_factor: float = 0.75,
    width: float = 0.1,
) -> list[Atoms]:
    """Return copies displaced by a random walk that keeps atoms apart.

    In every sweep each atom in turn tries a normally distributed move; with d its distance to the nearest atom, in
    units of the sum of the covalent radii, the move is accepted with probability (1 + erf((d - d_min) / w)) / 2, and
    never if d < d_min - 2 w. Other than independent Gaussian displacements it reaches large amplitudes without
    unphysical pairs (the Monte-Carlo rattle of hiPhive; Eriksson, Fransson, Erhart, Adv. Theory Simul. 2, 1800184).

    Parameters
    ----------
    atoms
        One or several structures.
    step
        Standard deviation of each Cartesian component of a single move, A.
    n_sweeps
        Sweeps; displacements grow with its square root until atoms get near each other.
    n
        Copies of each structure.
    seed
        The moves depend on it, the structure and the copy's number alone.
    min_distance_factor
        d_min.
    width
        w, of the same unit.

    Returns
    -------
    list of ase.Atoms
        ``sampling`` is ``"mc_rattle"``, ``group_id`` the parent's; ``info["deformation"]`` holds ``mc_rattle`` (the
        root mean square displacement per component, A), ``step``, ``n_sweeps``, ``acceptance``, ``seed`` and
        ``copy``. The centre of the atoms does not move.

    Raises
    ------
    StructureError
        If an argument is impossible, or the structure itself has atoms nearer than allowed.
    """
    if n < 0 or step < 0 or n_sweeps < 0 or not width > 0 or min_distance_factor < 0:
        raise StructureError(f"{n} copies of {n_sweeps} sweeps of {step} A with width {width} are not possible.")
    hard = min_distance_factor - 2 * width
    frames = []
    for parent in _as_list(atoms):
        base = with_metadata(clean_frame(parent))
        nearest = _nearest(base)
        if nearest < hard:
            raise StructureError(
                f"{base.get_chemical_formula()} has atoms at {nearest:.2f} times the sum of their covalent radii, "
                f"below {hard:.2f}, before any move.",
                remedy="Lower min_distance_factor, or check the structure.",
            )
        origin = dict(parent.info.get("deformation") or {})
        for copy in range(n):
            key = [seed, int(base.info["frame_id"][:16], 16), round(step * 1e6), copy]
            moved, acceptance = _walk(base, step, n_sweeps, np.random.default_rng(key), min_distance_factor, width)
            record = {
                **origin,
                "mc_rattle": float(np.sqrt(((moved.positions - base.positions) ** 2).mean())),
                "step": step,
                "n_sweeps": n_sweeps,
                "acceptance": acceptance,
                "seed": seed,
                "copy": copy,
            }
            frames.append(with_metadata(moved, sampling="mc_rattle", deformation=record))
    return unique_frames(frames)


def _nearest(atoms: Atoms) -> float:
    first, second, lengths = neighbor_list("ijd", atoms, list(1.0 * covalent_radii[atoms.numbers]))
    radii = covalent_radii[atoms.numbers]
    return float((lengths / (radii[first] + radii[second])).min(initial=math.inf))


def _walk(
    base: Atoms, step: float, n_sweeps: int, rng: np.random.Generator, d_min: float, width: float
) -> tuple[Atoms, float]:
    copy = base.copy()
    positions, radii = copy.positions, covalent_radii[copy.numbers]
    # An atom and its own images move together, so their distances never change.
    others = [np.delete(np.arange(len(copy)), index) for index in range(len(copy))]
    accepted = 0
    for _ in range(n_sweeps):
        for index in rng.permutation(len(copy)):
            trial = positions[index] + rng.normal(scale=step, size=3)
            if rng.random() < _acceptance(
                copy, trial, positions[others[index]], radii, others[index], index, d_min, width
            ):
                positions[index] = trial
                accepted += 1
    shift = (positions - base.positions).mean(axis=0, keepdims=True) if len(copy) else 0.0
    copy.positions = positions - shift
    return copy, accepted / max(1, n_sweeps * len(copy))


def _acceptance(
    atoms: Atoms,
    trial: NDArray[np.float64],
    others: NDArray[np.float64],
    radii: NDArray[np.float64],
    indices: NDArray[np.int64],
    index: int,
    d_min: float,
    width: float,
) -> float:
    if len(others) == 0:
        return 1.0
    _, lengths = get_distances(trial[None], others, cell=atoms.cell, pbc=atoms.pbc)
    nearest = float((lengths[0] / (radii[index] + radii[indices])).min())
    return 0.0 if nearest < d_min - 2 * width else 0.5 * (1 + math.erf((nearest - d_min) / width))
